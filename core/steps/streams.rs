//! Streams of batches for plugins.

use std::sync::{Mutex, PoisonError};

use workbench_api::{
    abi::{NamedTensor, Tensor},
    error::Error,
};

use crate::data::Sequences;

/// Sequences for training or calibration, one a batch: `input_ids` `[tokens]` U32, and `learn` `[tokens]` U8, 1 where the token itself should be
/// learned. The plugin decides how many make a step.
#[derive(Debug)]
pub(super) struct SequenceStream {
    sequences: Sequences,
    learn: Vec<Vec<u8>>,
    next: Mutex<usize>,
}

impl SequenceStream {
    pub(super) fn new(sequences: Sequences) -> Self {
        let learn = sequences.learn.iter().map(|l| l.iter().map(|b| u8::from(*b)).collect()).collect();
        Self { sequences, learn, next: Mutex::new(0) }
    }

    pub(super) fn len(&self) -> usize {
        self.sequences.ids.len()
    }

    pub(super) fn next(&self) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(ids), Some(learn)) = (self.sequences.ids.get(*next), self.learn.get(*next)) else { return Ok(None) };
        *next += 1;
        let named = |name: &str, tensor| NamedTensor { name: name.into(), tensor };
        Ok(Some(vec![
            named("input_ids", Tensor::from_slice(&[ids.len()], ids)?),
            named("learn", Tensor::from_slice(&[learn.len()], learn)?),
        ]))
    }

    pub(super) fn rewind(&self) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}
