//! Where the tokens of a batch stand.

use std::sync::Arc;

use crate::ModelError;

/// Positions and masks of one forward pass over a batch `[batch, len]`.
///
/// Sequences are padded on the right: sequence `b` has `lens[b]` real tokens, which stand at positions `past[b]..`. A
/// token sees itself and what comes before it, hence never the padding; attention gives zeros for padding tokens, and
/// whatever else is computed for them has to be ignored by the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    len: usize,
    lens: Arc<[usize]>,
    past: Arc<[usize]>,
}

impl Context {
    /// Whole sequences from position 0, `lens[b] <= len` tokens long; all of them `len` tokens if `lens` is `None`.
    pub fn full(batch: usize, len: usize, lens: Option<&[usize]>) -> Self {
        let lens = lens.map_or_else(|| vec![len; batch], <[usize]>::to_vec);
        Self { len, past: vec![0; batch].into(), lens: lens.into() }
    }

    /// Sequences of which a cache already holds the first `past[b]` tokens.
    pub fn continued(past: &[usize], len: usize, lens: Option<&[usize]>) -> Self {
        Self { past: past.into(), ..Self::full(past.len(), len, lens) }
    }

    /// Sequences in the batch.
    pub fn batch(&self) -> usize {
        self.past.len()
    }

    /// Tokens per sequence in this pass, padding included.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to compute.
    pub fn is_empty(&self) -> bool {
        self.len == 0 || self.past.is_empty()
    }

    /// Real tokens of each sequence in this pass.
    pub fn lens(&self) -> &[usize] {
        &self.lens
    }

    /// Tokens of each sequence that a cache holds.
    pub fn past(&self) -> &[usize] {
        &self.past
    }

    /// Positions that exist after this pass, padding included.
    pub(super) fn end(&self) -> usize {
        self.past.iter().max().copied().unwrap_or(0) + self.len
    }

    /// An error unless the context describes `batch` sequences of `len` tokens.
    pub(super) fn check(&self, batch: usize, len: usize) -> Result<(), ModelError> {
        if (self.batch(), self.len) == (batch, len) && self.lens.len() == batch && self.lens.iter().all(|n| *n <= len) {
            return Ok(());
        }
        let message = format!(
            "a batch of {batch} sequences of {len} tokens was given the context of {} sequences of {} tokens with lengths {:?}",
            self.batch(),
            self.len,
            self.lens
        );
        Err(candle_core::Error::Msg(message).into())
    }
}
