//! A decoder whose blocks exist one at a time.

use std::ops::Deref;
use std::sync::Arc;

use candle_core::Tensor;

use super::layers::{Embedding, Head};
use super::rope::Rope;
use super::{ActivationQuantizer, Block, Decoder, TensorSource};
use crate::{ModelConfig, ModelError};

/// A model as a step of training walks it: ends that stay, and blocks that may be made when they are needed.
pub trait Stages {
    /// Hidden states `[batch, len, hidden]` of `ids` `[batch, len]` (u32).
    ///
    /// # Errors
    /// An id is outside of the vocabulary.
    fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError>;

    /// How many blocks there are.
    fn blocks(&self) -> usize;

    /// A block, computed with the weights as they are now.
    ///
    /// # Errors
    /// There is none of that index; its weights cannot be made.
    fn block(&self, index: usize) -> Result<Stage<'_>, ModelError>;

    /// The final norm and `lm_head`.
    fn head(&self) -> &Head;
}

/// A block of a [`Stages`].
pub enum Stage<'a> {
    /// One that is there anyway.
    Kept(&'a Block),
    /// One that was made to be used and let go.
    Made(Box<Block>),
}

impl Deref for Stage<'_> {
    type Target = Block;

    fn deref(&self) -> &Block {
        match self {
            Self::Kept(block) => block,
            Self::Made(block) => block,
        }
    }
}

fn no_block(index: usize, count: usize) -> ModelError {
    candle_core::Error::Msg(format!("a model of {count} blocks has no block {index}")).into()
}

impl Stages for Decoder {
    fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Decoder::embed(self, ids)
    }

    fn blocks(&self) -> usize {
        Decoder::blocks(self).len()
    }

    fn block(&self, index: usize) -> Result<Stage<'_>, ModelError> {
        let blocks = Decoder::blocks(self);
        blocks.get(index).map(Stage::Kept).ok_or_else(|| no_block(index, blocks.len()))
    }

    fn head(&self) -> &Head {
        self.head_layer()
    }
}

/// What is done to a block when it is made: its quantizers are put.
type Prepare<'a> = dyn Fn(usize, &mut Block) -> Result<(), ModelError> + 'a;

/// The decoder over tensors of which the source makes some: those of a block are made when the block is asked for, and go with it. With
/// gradient checkpointing, which visits one block at a time, no second copy of the model exists.
pub struct Blockwise<'a> {
    config: &'a ModelConfig,
    source: &'a dyn TensorSource,
    prepare: Box<Prepare<'a>>,
    rope: Arc<Rope>,
    embedding: Embedding,
    head: Head,
}

impl<'a> Blockwise<'a> {
    /// Builds the ends, and says what is done to a block of an index when it is made.
    ///
    /// # Errors
    /// The source lacks a tensor of the ends.
    pub fn over(
        config: &'a ModelConfig,
        source: &'a dyn TensorSource,
        prepare: impl Fn(usize, &mut Block) -> Result<(), ModelError> + 'a,
    ) -> Result<Self, ModelError> {
        let embedding = Embedding::new(config, source)?;
        let head = Head::beside(&embedding, config, source)?;
        Ok(Self { config, source, prepare: Box::new(prepare), rope: Arc::new(Rope::new(config)), embedding, head })
    }

    /// Puts a quantizer on the input of `lm_head`, or takes it away.
    pub fn set_head_quantizer(&mut self, quantizer: Option<Arc<dyn ActivationQuantizer>>) {
        self.head.set_input_quantizer(quantizer);
    }

    /// The decoder with all of its blocks.
    ///
    /// # Errors
    /// A block cannot be made.
    pub fn whole(self) -> Result<Decoder, ModelError> {
        let blocks = (0..self.config.num_layers).map(|index| self.make(index)).collect::<Result<_, _>>()?;
        Ok(Decoder { config: self.config.clone(), embedding: self.embedding, blocks, head: self.head })
    }

    fn make(&self, index: usize) -> Result<Block, ModelError> {
        let mut block = Block::new(self.config, self.source, index, &self.rope)?;
        (self.prepare)(index, &mut block)?;
        Ok(block)
    }
}

impl Stages for Blockwise<'_> {
    fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        self.embedding.forward(ids)
    }

    fn blocks(&self) -> usize {
        self.config.num_layers
    }

    fn block(&self, index: usize) -> Result<Stage<'_>, ModelError> {
        if index >= self.config.num_layers {
            return Err(no_block(index, self.config.num_layers));
        }
        Ok(Stage::Made(Box::new(self.make(index)?)))
    }

    fn head(&self) -> &Head {
        &self.head
    }
}
