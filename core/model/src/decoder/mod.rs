//! The decoder: Llama, Qwen2 and Qwen3 from one definition, for scoring, calibration, generation and training.
//!
//! It is written against candle's tensors with operations of its own, which have a backward pass. So the code that
//! scores a model is the code that trains it, activations can be observed and quantized at every [`Site`](crate::Site),
//! and logits exist for all positions. Weights are held in f32 on the CPU.

mod block;
mod blockwise;
mod cache;
mod coded;
mod context;
mod experts;
mod fake_quantized;
mod gradient;
pub(crate) mod kernels;
mod layers;
mod learned_rounding;
mod logits;
mod loss;
mod memory;
mod mlp;
pub(crate) mod ops;
mod parameters;
mod quantizer;
mod rope;
mod taps;

use std::sync::Arc;

use candle_core::{Device, Tensor};

pub use block::Block;
pub use blockwise::{Blockwise, Stage, Stages};
pub use cache::KvCache;
pub use coded::{CodedParams, CodedWeight};
pub use context::Context;
pub use fake_quantized::{FakeQuantizedParams, LEAST_SHARE, WeightQuantizer, WeightScales};
pub use gradient::{Gradients, Loss, LossOptions, gradients_of, loss_and_gradients};
pub use kernels::cross_entropy::TokenScore;
pub use layers::{Embedding, FinalNorm, Head};
pub use learned_rounding::LearnedRoundingParams;
pub use logits::logits;
pub use loss::{Divergence, Targets};
pub use memory::keep_pages;
pub use parameters::{Detached, TensorSource, TrainableParams};
pub use quantizer::{ActivationQuantizer, GridQuantizer};
pub use taps::Taps;

use crate::arch::{LM_HEAD, block_name, block_of};
use crate::device::OnHost;
use crate::{ModelConfig, ModelError, Precision, WeightSource};
use parameters::{Loading, PackedLoading};

/// A whole model in memory.
pub struct Decoder {
    config: ModelConfig,
    embedding: Embedding,
    blocks: Vec<Block>,
    head: Head,
}

impl Decoder {
    /// Loads all weights.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::over(config, &Loading { source, device })
    }

    /// The same for products alone, the weights of linears packed for them where they can be: there is no backward pass.
    ///
    /// # Errors
    /// A malformed source.
    pub fn load_for_scoring(
        config: &ModelConfig,
        source: &dyn WeightSource,
        device: &Device,
    ) -> Result<Self, ModelError> {
        match OnHost::of(device) {
            Some(_) => Self::over(config, &PackedLoading { source, precision: Precision::F32 }),
            None => Self::load(config, source, device),
        }
    }

    /// Builds the decoder over tensors, for example the variables of a model in training.
    pub fn over(config: &ModelConfig, source: &dyn TensorSource) -> Result<Self, ModelError> {
        Blockwise::over(config, source, |_, _| Ok(()))?.whole()
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The device that holds the weights.
    pub fn device(&self) -> &Device {
        self.embedding.device()
    }

    /// The decoder layers.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The final norm and `lm_head`.
    pub fn head_layer(&self) -> &Head {
        &self.head
    }

    /// Puts a quantizer on the input of a linear, named by its module (`model.layers.0.mlp.down_proj`, `lm_head`), or
    /// takes it away. Linears that share a site should share the `Arc`: the input is then quantized once.
    pub fn set_input_quantizer(
        &mut self,
        module: &str,
        quantizer: Option<Arc<dyn ActivationQuantizer>>,
    ) -> Result<(), ModelError> {
        if module == LM_HEAD {
            self.head.set_input_quantizer(quantizer);
            return Ok(());
        }
        self.block_of(module)?.set_input_quantizer(module, quantizer)
    }

    /// Puts quantizers on the keys and values of a block: see [`Block::set_kv_quantizers`].
    ///
    /// # Errors
    /// There is no such block.
    pub fn set_kv_quantizers(
        &mut self,
        block: usize,
        key: Option<Arc<dyn ActivationQuantizer>>,
        value: Option<Arc<dyn ActivationQuantizer>>,
    ) -> Result<(), ModelError> {
        self.block_of(&block_name(block))?.set_kv_quantizers(key, value);
        Ok(())
    }

    /// Replaces the weight of a linear of a block.
    pub fn set_weight(&mut self, module: &str, weight: Tensor) -> Result<(), ModelError> {
        self.block_of(module)?.set_weight(module, weight)
    }

    fn block_of(&mut self, module: &str) -> Result<&mut Block, ModelError> {
        let count = self.blocks.len();
        block_of(module).and_then(|index| self.blocks.get_mut(index)).ok_or_else(|| {
            candle_core::Error::Msg(format!("a model of {count} blocks has no linear `{module}`")).into()
        })
    }

    /// Hidden states `[batch, len, hidden]` of `ids` `[batch, len]` (u32).
    pub fn embed(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        self.embedding.forward(ids)
    }

    /// The output of block `index` for `hidden` `[batch, len, hidden]`.
    pub fn block(
        &self,
        index: usize,
        hidden: &Tensor,
        context: &Context,
        taps: &mut dyn Taps,
    ) -> Result<Tensor, ModelError> {
        self.blocks[index].forward(hidden, context, taps)
    }

    /// Logits `[batch, len, vocabulary]` of the last block's output; the final norm is part of the head.
    pub fn head(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.head.forward(hidden, &mut ())
    }

    /// The output of the last block, `[batch, len, hidden]`.
    pub fn hidden(&self, ids: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        self.blocks.iter().try_fold(self.embed(ids)?, |hidden, block| block.forward(&hidden, context, taps))
    }

    /// Logits at all positions, `[batch, len, vocabulary]`, of `ids` `[batch, len]` (u32).
    pub fn forward(&self, ids: &Tensor, context: &Context) -> Result<Tensor, ModelError> {
        self.forward_tapped(ids, context, &mut ())
    }

    /// As [`forward`](Self::forward), showing every site's activation to `taps`.
    pub fn forward_tapped(&self, ids: &Tensor, context: &Context, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        let hidden = self.hidden(ids, context, taps)?;
        self.head.forward(&hidden, taps)
    }

    /// An empty cache for `batch` sequences.
    pub fn cache(&self, batch: usize) -> KvCache {
        KvCache::new(self.blocks.len(), batch)
    }

    /// Runs the next tokens of each sequence, `ids` `[batch, len]` of which `lens[b]` are real, through the model, and
    /// returns the logits after the last real one, `[batch, vocabulary]`. They lead to no variable. A decoder over variables builds
    /// the graph of one block at a time: over [`Detached`] ones it builds none.
    pub fn forward_cached(&self, ids: &Tensor, lens: &[usize], cache: &mut KvCache) -> Result<Tensor, ModelError> {
        let (batch, len) = ids.dims2()?;
        let context = cache.next(len, Some(lens));
        context.check(batch, len)?;
        let mut hidden = self.embed(ids)?.detach();
        for (block, layer) in self.blocks.iter().zip(&mut cache.layers) {
            // No gradient leads through a cache: what quantizers with variables build is not kept beyond its block.
            hidden = block.run(&hidden, &context, Some(layer), &mut ())?.detach();
        }
        cache.advance(&context);
        let last = lens.iter().enumerate().map(|(sequence, n)| (sequence * len + n.saturating_sub(1)) as u32);
        let last = Tensor::from_vec(last.collect(), batch, hidden.device())?;
        Ok(self.head(&hidden.flatten_to(1)?.index_select(&last, 0)?)?.detach())
    }
}
