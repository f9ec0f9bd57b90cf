//! The walk.

use candle_core::{Device, Tensor};
use workbench_model::{
    Checkpoint, ModelError, Site,
    decoder::{Block, Context, Embedding, Head},
};

use crate::{error::Result, exec::NodeReporter};

/// Shows the inputs of every site of every block to `observe`, one batch of equally long sequences after the other:
/// `observe(site, batch index, x [batch, len, features])`. The order is by block, then by batch, then along the block; what
/// is observed does not depend on the number of threads. With `head`, the input of `lm_head` comes last.
///
/// # Errors
/// A malformed checkpoint, and whatever `observe` returns.
pub fn walk(
    checkpoint: &Checkpoint,
    batches: &[Tensor],
    head: bool,
    reporter: &NodeReporter,
    observe: &mut dyn FnMut(Site, usize, &Tensor) -> Result<()>,
) -> Result<()> {
    let config = checkpoint.config();
    let device = Device::Cpu;
    let embedding = Embedding::load(config, checkpoint, &device)?;
    let mut states: Vec<Tensor> =
        batches.iter().map(|ids| embedding.forward(ids)).collect::<Result<_, ModelError>>()?;
    drop(embedding);
    let total = config.num_layers as u64;
    for index in 0..config.num_layers {
        let block = Block::load(config, checkpoint, index, &device)?;
        for (number, hidden) in states.iter_mut().enumerate() {
            let (batch, len, _) = hidden.dims3().map_err(ModelError::from)?;
            let mut failed = None;
            let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
                if failed.is_none() {
                    failed = observe(site, number, x).err();
                }
                Ok(())
            };
            let next = block.forward(hidden, &Context::full(batch, len, None), &mut tap)?;
            if let Some(error) = failed {
                return Err(error);
            }
            *hidden = next;
        }
        let prefix = format!("model.layers.{index}.");
        let names = checkpoint.names();
        checkpoint.drop_pages(names.iter().map(String::as_str).filter(|n| n.starts_with(&prefix)));
        reporter.progress(index as u64 + 1, total, "blocks");
    }
    if head {
        let layer = Head::load(config, checkpoint, &device)?;
        for (number, hidden) in states.iter().enumerate() {
            let mut failed = None;
            let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
                failed = observe(site, number, x).err();
                Ok(())
            };
            layer.forward(hidden, &mut tap)?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }
    Ok(())
}

/// Sequences as tensors `[1, len]`, one batch each. What counts as one batch decides a moving average, so a batch is a
/// sequence, as in the peers.
pub fn batches(sequences: &[Vec<u32>]) -> Result<Vec<Tensor>> {
    let tensors = sequences
        .iter()
        .map(|ids| Tensor::from_vec(ids.clone(), (1, ids.len()), &Device::Cpu).map_err(ModelError::from));
    Ok(tensors.collect::<Result<_, _>>()?)
}
