//! A model with all that is needed to evaluate it.

use std::{path::Path, sync::Arc};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, ModelError, Site,
    checkpoint::InputQuantizer,
    decoder::{ActivationQuantizer, Context, Decoder, GridQuantizer, TokenScore},
    tokenizer::{ChatTemplate, Tokenizer},
};

use super::CHUNK;
use crate::error::Result;

/// A checkpoint in memory: decoder with its quantizers, tokenizer, chat template.
pub struct Loaded {
    pub decoder: Decoder,
    pub tokenizer: Tokenizer,
    pub template: Option<ChatTemplate>,
    /// Size and arithmetic, for tables.
    pub facts: Value,
}

impl Loaded {
    /// Opens a folder or a GGUF file.
    ///
    /// # Errors
    /// The checkpoint is malformed, holds values that are not finite, or has no tokenizer.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        checkpoint.check_finite()?;
        let decoder = decoder(&checkpoint)?;
        let quantized = checkpoint.quantization().is_some();
        let facts = json!({
            "bits_per_weight": checkpoint.bits_per_weight(),
            "bits_per_parameter": checkpoint.bits_per_parameter(),
            "quantized_ends": checkpoint.quantized_ends(),
            "bytes_on_disk": checkpoint.bytes_on_disk(),
            "compute_dtype": "f32",
            "engine": if quantized { "fake-quantized" } else { "exact" },
        });
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let template = ChatTemplate::from_checkpoint(&checkpoint)?;
        Ok(Self { decoder, tokenizer, template, facts })
    }

    /// The last hidden states of sequences padded to the longest: `[batch, len, hidden]`.
    pub fn hidden(&self, sequences: &[&[u32]]) -> Result<Tensor> {
        let (ids, lens, len) = pad(sequences);
        let ids = Tensor::from_vec(ids, (sequences.len(), len), &Device::Cpu).map_err(ModelError::from)?;
        Ok(self.decoder.hidden(&ids, &Context::full(sequences.len(), len, Some(&lens)), &mut ())?)
    }

    /// The hidden states of chosen positions, `(sequence, position)`: `[n, hidden]`.
    pub fn gather(hidden: &Tensor, positions: &[(usize, usize)]) -> Result<Tensor> {
        let pick = || -> candle_core::Result<Tensor> {
            let len = hidden.dim(1)?;
            let rows: Vec<u32> = positions.iter().map(|(s, p)| (s * len + p) as u32).collect();
            let rows = Tensor::from_vec(rows, positions.len(), hidden.device())?;
            hidden.flatten_to(1)?.index_select(&rows, 0)
        };
        Ok(pick().map_err(ModelError::from)?)
    }

    /// How probable the target after each of the hidden states `[n, hidden]` is.
    pub fn score(&self, hidden: &Tensor, targets: &[u32]) -> Result<Vec<TokenScore>> {
        Ok(self.decoder.head_layer().score(hidden, targets, CHUNK)?)
    }
}

/// The decoder with the input quantizers that the checkpoint names. Linears of one site with equal quantizers share one, so
/// their input is quantized once.
fn decoder(checkpoint: &Checkpoint) -> Result<Decoder, ModelError> {
    let mut decoder = Decoder::load(checkpoint.config(), checkpoint, &Device::Cpu)?;
    let mut last: Option<(Site, InputQuantizer, Arc<GridQuantizer>)> = None;
    let head = checkpoint.config().head();
    for linear in checkpoint.config().linears().into_iter().chain([head]) {
        let Some(found) = checkpoint.input_quantizer(&linear.name)? else { continue };
        let shared = match &last {
            Some((site, same, shared)) if *site == linear.site && *same == found => Arc::clone(shared),
            _ => Arc::new(GridQuantizer::new(found.grid.clone(), found.parameters.clone(), linear.in_features)?),
        };
        decoder.set_input_quantizer(&linear.name, Some(Arc::clone(&shared) as Arc<dyn ActivationQuantizer>))?;
        last = Some((linear.site, found, shared));
    }
    set_kv_quantizers(&mut decoder, checkpoint)?;
    Ok(decoder)
}

/// Puts the quantizers of keys and values that the checkpoint names on every block.
fn set_kv_quantizers(decoder: &mut Decoder, checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let config = checkpoint.config();
    let features = config.num_kv_heads * config.head_dim;
    for block in 0..config.num_layers {
        let Some(found) = checkpoint.kv_quantizer(block)? else { continue };
        let grid = found.grid.of_heads(config.head_dim);
        let quantizer = |parameters| -> Result<Arc<dyn ActivationQuantizer>, ModelError> {
            Ok(Arc::new(GridQuantizer::new(grid.clone(), parameters, features)?))
        };
        decoder.set_kv_quantizers(block, Some(quantizer(found.key)?), Some(quantizer(found.value)?))?;
    }
    Ok(())
}

/// Sequences side by side, padded at their ends with their own last token, which no scored position can see.
fn pad(sequences: &[&[u32]]) -> (Vec<u32>, Vec<usize>, usize) {
    let lens: Vec<usize> = sequences.iter().map(|s| s.len()).collect();
    let len = lens.iter().copied().max().unwrap_or(0);
    let mut ids = Vec::with_capacity(len * sequences.len());
    for sequence in sequences {
        ids.extend_from_slice(sequence);
        ids.extend(std::iter::repeat_n(sequence.last().copied().unwrap_or(0), len - sequence.len()));
    }
    (ids, lens, len)
}
