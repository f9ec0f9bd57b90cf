//! Static scales of keys and values.

use candle_core::Device;
use workbench_model::{Checkpoint, Site, SiteKind, decoder::Block, statistics::Wants};
use workbench_quant::Grid;

use super::{InputScale, Look, Pass, Room, Seen, SiteWork};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Observes keys (after RoPE) and values of the model as it is and derives their static scales, by block. `grid` is that of
/// matrices `[tokens, kv_heads * head_dim]`.
///
/// # Errors
/// The grid has no static scale, no token came by, or an activation is not finite.
pub fn kv_scales(
    checkpoint: &Checkpoint,
    grid: &Grid,
    sequences: &[Vec<u32>],
    room: Room,
    reporter: &NodeReporter,
) -> Result<Vec<[InputScale; 2]>> {
    let config = checkpoint.config();
    let mut pass = Pass::begin(checkpoint, sequences, room)?;
    let mut scales = Vec::with_capacity(config.num_layers);
    for index in 0..config.num_layers {
        let block = Block::load(config, checkpoint, index, &Device::Cpu)?;
        let mut seen = pass.gather(index, &block, true, &mut KeysAndValues { grid })?;
        let mut scale = |kind| {
            let seen = seen.remove(&Site::in_block(index, kind));
            let scale = seen.and_then(|seen: Seen| seen.input_scales.into_iter().next());
            scale.ok_or_else(|| Error::internal(format!("the cache of block {index} was not observed")))
        };
        scales.push([scale(SiteKind::Key)?, scale(SiteKind::Value)?]);
        checkpoint.drop_block_pages(index);
        reporter.progress(index as u64 + 1, config.num_layers as u64, "blocks");
    }
    Ok(scales)
}

struct KeysAndValues<'a> {
    grid: &'a Grid,
}

impl SiteWork for KeysAndValues<'_> {
    fn look(&mut self, site: Site, features: usize) -> Result<Option<Look>> {
        let wanted = matches!(site.kind, SiteKind::Key | SiteKind::Value);
        wanted.then(|| Look::new(site, features, Wants::default(), std::slice::from_ref(self.grid))).transpose()
    }

    fn reached(&mut self, _: Site, _: Option<Seen>, _: Option<&mut Block>) -> Result<()> {
        Ok(())
    }
}
