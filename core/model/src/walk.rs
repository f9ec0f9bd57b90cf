//! The walk of sequences through a decoder, all of them through one block before the next.
//!
//! Memory holds one block and the hidden states, however deep the model is. Calibration, methods that search a block at a time, the
//! comparison of two models and scoring all walk so; what they do within a block is theirs.

use std::path::PathBuf;

use candle_core::{Device, Tensor};

use crate::arch::EMBEDDINGS;
use crate::decoder::{Block, Context, Embedding};
use crate::device::HOST;
use crate::{Activations, ModelConfig, ModelError, Precision, WeightSource};

/// Where activations are kept.
#[derive(Clone, Debug)]
pub struct ActivationStorage {
    /// In which they are kept.
    pub precision: Precision,
    /// Of the operands of matrix products: those of linears and of Gram matrices. Sums are f32.
    pub compute_dtype: Precision,
    /// On which blocks compute.
    pub device: Device,
    /// Bytes of memory that they may take; what is more lies in files.
    pub memory: u64,
    /// For the files.
    pub folder: PathBuf,
}

impl ActivationStorage {
    /// Room for activations of `width` features of batches `[batch, len]`, in memory where `together` features of each token fit:
    /// what else is kept beside them at the same time.
    ///
    /// # Errors
    /// The file cannot be made or is too large for its disk.
    pub fn make(
        &self,
        name: &str,
        shapes: &[[usize; 2]],
        width: usize,
        together: usize,
    ) -> Result<Activations, ModelError> {
        let size = if self.precision == Precision::F32 { 4 } else { 2 };
        let tokens: usize = shapes.iter().map(|[batch, len]| batch * len).sum();
        if tokens as u64 * together as u64 * size <= self.memory {
            return Ok(Activations::in_memory(shapes, width, self.precision));
        }
        Activations::in_file(&self.folder.join(format!("{name}.activations")), shapes, width, self.precision)
    }
}

/// The hidden states of batches of sequences before the next block.
#[derive(Debug)]
pub struct HiddenStates {
    kept: Activations,
    contexts: Vec<Context>,
    device: Device,
}

impl HiddenStates {
    /// Sequences without padding, whose states are still to be [embedded](Self::embed) or [loaded](Self::kept_mut) into `kept`; blocks
    /// compute on `device`.
    pub fn new(kept: Activations, device: &Device) -> Self {
        let contexts =
            (0..kept.len()).map(|index| kept.shape(index)).map(|[batch, len]| Context::full(batch, len, None));
        Self { contexts: contexts.collect(), kept, device: device.clone() }
    }

    /// Batches with these contexts, in memory and in f32.
    pub fn in_memory(contexts: Vec<Context>, hidden_size: usize, device: &Device) -> Self {
        let shapes: Vec<[usize; 2]> = contexts.iter().map(|context| [context.batch(), context.len()]).collect();
        Self { kept: Activations::in_memory(&shapes, hidden_size, Precision::F32), contexts, device: device.clone() }
    }

    /// Looks the embeddings of all batches up; `ids` gives those of one, sequence after sequence.
    ///
    /// # Errors
    /// A token outside of the vocabulary; a malformed source; a full disk.
    pub fn embed<'i>(
        &mut self,
        config: &ModelConfig,
        source: &dyn WeightSource,
        mut ids: impl FnMut(usize) -> std::borrow::Cow<'i, [u32]>,
    ) -> Result<(), ModelError> {
        // Rows of a table that is stored as it is are read one by one; another one is decoded once.
        let table = match source.has_rows(&config.weight_of(EMBEDDINGS)) {
            true => None,
            false => Some(Embedding::load(config, source, &HOST)?),
        };
        for index in 0..self.len() {
            let (ids, context) = (ids(index), &self.contexts[index]);
            let hidden = match &table {
                None => Embedding::look_up(config, source, &ids, context.batch())?,
                Some(table) => table.forward(&Tensor::from_slice(&ids, (context.batch(), context.len()), &HOST)?)?,
            };
            self.kept.set(index, &hidden)?;
        }
        Ok(())
    }

    /// Batches of sequences.
    pub fn len(&self) -> usize {
        self.contexts.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.contexts.is_empty()
    }

    /// Where the tokens of a batch stand.
    pub fn context(&self, index: usize) -> &Context {
        &self.contexts[index]
    }

    /// The hidden states `[batch, len, hidden]` of a batch, where blocks compute.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, index: usize) -> Result<Tensor, ModelError> {
        Ok(self.kept.get(index)?.to_device(&self.device)?)
    }

    /// Replaces those of a batch.
    ///
    /// # Errors
    /// Another shape; a full disk.
    pub fn set(&mut self, index: usize, hidden: &Tensor) -> Result<(), ModelError> {
        self.kept.set(index, hidden).map(drop)
    }

    /// Lets each batch pass something that gives its next hidden states.
    ///
    /// # Errors
    /// Those of `pass`; a full disk.
    pub fn advance<E: From<ModelError>>(
        &mut self,
        mut pass: impl FnMut(usize, &Tensor, &Context) -> Result<Tensor, E>,
    ) -> Result<(), E> {
        for index in 0..self.len() {
            let next = pass(index, &self.get(index)?, self.context(index))?;
            self.set(index, &next)?;
        }
        Ok(())
    }

    /// Lets each batch pass a block.
    ///
    /// # Errors
    /// A malformed block; a full disk.
    pub fn forward(&mut self, block: &Block) -> Result<(), ModelError> {
        self.advance(|_, hidden, context| block.forward(hidden, context, &mut ()))
    }

    /// The activations as they are kept: to save them, or to lend them out.
    pub fn kept(&self) -> &Activations {
        &self.kept
    }

    /// The same, for loading.
    pub fn kept_mut(&mut self) -> &mut Activations {
        &mut self.kept
    }
}
