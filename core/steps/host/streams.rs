//! Streams of batches for plugins.

use std::sync::{Mutex, PoisonError};

use workbench_api::{
    abi::{NamedTensor, Tensor},
    error::Error,
};
use workbench_model::{Activations, ModelError};

use crate::data::Sequences;

/// A stream that a plugin reads batch by batch.
#[derive(Debug)]
pub(in crate::steps) enum BatchStream<'a> {
    Sequences(SequenceStream),
    BlockInputs(BlockInputs<'a>),
}

impl BatchStream<'_> {
    pub(in crate::steps) fn next(&self) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        match self {
            Self::Sequences(stream) => stream.next(),
            Self::BlockInputs(stream) => stream.next(),
        }
    }

    pub(in crate::steps) fn rewind(&self) {
        let next = match self {
            Self::Sequences(stream) => &stream.next,
            Self::BlockInputs(stream) => &stream.next,
        };
        *next.lock().unwrap_or_else(PoisonError::into_inner) = 0;
    }
}

impl From<SequenceStream> for BatchStream<'_> {
    fn from(stream: SequenceStream) -> Self {
        Self::Sequences(stream)
    }
}

impl<'a> From<BlockInputs<'a>> for BatchStream<'a> {
    fn from(stream: BlockInputs<'a>) -> Self {
        Self::BlockInputs(stream)
    }
}

/// The number of the next batch, counted up.
fn advance(next: &Mutex<usize>) -> usize {
    let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
    *next += 1;
    *next - 1
}

fn named<'a>(name: &str, tensor: Tensor<'a>) -> NamedTensor<'a> {
    NamedTensor { name: name.into(), tensor }
}

/// Sequences for training or calibration, one a batch: `input_ids` `[tokens]` U32, and `learn` `[tokens]` U8, 1 where the
/// token itself should be learned. The plugin decides how many make a step.
#[derive(Debug)]
pub(in crate::steps) struct SequenceStream {
    sequences: Sequences,
    learn: Vec<Vec<u8>>,
    next: Mutex<usize>,
}

impl SequenceStream {
    pub(in crate::steps) fn new(sequences: Sequences) -> Self {
        let learn = sequences.learn.iter().map(|l| l.iter().map(|b| u8::from(*b)).collect()).collect();
        Self { sequences, learn, next: Mutex::new(0) }
    }

    pub(in crate::steps) fn len(&self) -> usize {
        self.sequences.ids.len()
    }

    fn next(&self) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        let index = advance(&self.next);
        let (Some(ids), Some(learn)) = (self.sequences.ids.get(index), self.learn.get(index)) else { return Ok(None) };
        Ok(Some(vec![
            named("input_ids", Tensor::from_slice(&[ids.len()], ids)?),
            named("learn", Tensor::from_slice(&[learn.len()], learn)?),
        ]))
    }
}

/// The inputs of a decoder block: `full_precision` and `quantized` `[batch, tokens, hidden]` F32, `mask` `[batch, tokens]` U8 and
/// `positions` `[batch, tokens]` U32.
#[derive(Debug)]
pub(in crate::steps) struct BlockInputs<'a> {
    full_precision: &'a Activations,
    quantized: &'a Activations,
    next: Mutex<usize>,
}

impl<'a> BlockInputs<'a> {
    pub(in crate::steps) fn new(full_precision: &'a Activations, quantized: &'a Activations) -> Self {
        Self { full_precision, quantized, next: Mutex::new(0) }
    }

    fn next(&self) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        let index = advance(&self.next);
        if index >= self.quantized.len() {
            return Ok(None);
        }
        let read = |from: &Activations| -> Result<Tensor<'static>, Error> {
            let values = || -> Result<(Vec<usize>, Vec<f32>), ModelError> {
                let x = from.get(index)?;
                Ok((x.dims().to_vec(), x.flatten_all()?.to_vec1()?))
            };
            let (shape, values) = values().map_err(|e| Error::input(e.to_string()))?;
            Tensor::from_vec(&shape, values)
        };
        let [batch, len] = self.quantized.shape(index);
        let positions = (0..batch).flat_map(|_| 0..len as u32).collect();
        Ok(Some(vec![
            named("full_precision", read(self.full_precision)?),
            named("quantized", read(self.quantized)?),
            named("mask", Tensor::from_vec(&[batch, len], vec![1_u8; batch * len])?),
            named("positions", Tensor::from_vec(&[batch, len], positions)?),
        ]))
    }
}
