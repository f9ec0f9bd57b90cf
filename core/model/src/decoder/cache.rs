//! Keys and values of tokens that have been computed already.

use candle_core::{Device, Tensor};

use super::Context;
use crate::ModelError;

/// The cache of a whole decoder for a batch of sequences, each of its own length.
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
    past: Vec<usize>,
}

impl KvCache {
    /// An empty cache for `batch` sequences through `layers` blocks.
    pub fn new(layers: usize, batch: usize) -> Self {
        Self { layers: (0..layers).map(|_| LayerCache::default()).collect(), past: vec![0; batch] }
    }

    /// Tokens of each sequence that the cache holds.
    pub fn past(&self) -> &[usize] {
        &self.past
    }

    /// Whether nothing in it leads to a variable, so that it holds the memory of its own numbers alone.
    pub fn is_constant(&self) -> bool {
        self.layers.iter().filter_map(|layer| layer.0.as_ref()).all(|(k, v)| !k.track_op() && !v.track_op())
    }

    /// The context of the next `len` tokens per sequence, `lens[b]` of them real.
    pub(super) fn next(&self, len: usize, lens: Option<&[usize]>) -> Context {
        Context::continued(&self.past, len, lens)
    }

    /// Records that the tokens of a context have gone through all layers.
    pub(super) fn advance(&mut self, context: &Context) {
        for (past, len) in self.past.iter_mut().zip(context.lens()) {
            *past += len;
        }
    }

    /// Keeps the given sequences, in that order, and forgets the others.
    pub fn keep(&mut self, sequences: &[usize]) -> Result<(), ModelError> {
        let ids: Vec<u32> = sequences.iter().map(|sequence| *sequence as u32).collect();
        self.past = sequences.iter().map(|sequence| self.past[*sequence]).collect();
        for layer in &mut self.layers {
            if let Some((k, v)) = &layer.0 {
                let ids = Tensor::from_slice(&ids, ids.len(), k.device())?;
                layer.0 = Some((k.index_select(&ids, 0)?, v.index_select(&ids, 0)?));
            }
        }
        Ok(())
    }
}

/// Keys and values of one block, `[batch, capacity, kv_heads, head_dim]`; sequence `b` fills the first `past[b]` rows.
#[derive(Default)]
pub(super) struct LayerCache(Option<(Tensor, Tensor)>);

impl LayerCache {
    /// Writes the keys and values of a context's tokens behind the past and returns all of them.
    pub(super) fn extend(&mut self, k: &Tensor, v: &Tensor, context: &Context) -> Result<(Tensor, Tensor), ModelError> {
        let (old_k, old_v) = match self.0.take() {
            Some((k, v)) => (Some(k), Some(v)),
            None => (None, None),
        };
        let k = append(old_k, k, context)?;
        let v = append(old_v, v, context)?;
        self.0 = Some((k.clone(), v.clone()));
        Ok((k, v))
    }
}

fn append(cache: Option<Tensor>, new: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
    let (batch, _, heads, dim) = new.dims4()?;
    let needed = context.end();
    let zeros = |capacity: usize, device: &Device| Tensor::zeros((batch, capacity, heads, dim), new.dtype(), device);
    let cache = match cache {
        Some(cache) if cache.dim(1)? >= needed => cache,
        // Doubling keeps the cost of copying proportional to the final length.
        Some(small) => {
            let grown = zeros(needed.next_power_of_two().max(2 * small.dim(1)?), new.device())?;
            grown.slice_set(&small, 1, 0)?;
            grown
        }
        None => zeros(needed.next_power_of_two(), new.device())?,
    };
    let new = new.detach().contiguous()?;
    if context.past().iter().all(|past| *past == context.past()[0]) {
        cache.slice_set(&new, 1, context.past()[0])?;
    } else {
        for (sequence, past) in context.past().iter().enumerate() {
            cache.narrow(0, sequence, 1)?.slice_set(&new.narrow(0, sequence, 1)?, 1, *past)?;
        }
    }
    Ok(cache)
}
