//! A model with all that is needed to evaluate it.

use std::path::Path;

use candle_core::Device;
use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, Decoder, ModelConfig, ModelError, Precision, WeightSource, device,
    matmul::Kernel,
    tokenizer::{ChatTemplate, Tokenizer},
};
use workbench_quant::{Dynamic, QuantizationArgs, Strategy};

use super::quantizers::Quantizers;
use crate::error::Result;

/// A checkpoint with its quantizers, tokenizer, chat template. Its weights stay in their file.
pub struct Loaded {
    checkpoint: Checkpoint,
    quantizers: Quantizers,
    /// On which it computes.
    device: Device,
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
        let quantizers = Quantizers::of(&checkpoint)?;
        let quantized = checkpoint.has_codes();
        let facts = json!({
            "bits_per_weight": checkpoint.bits_per_weight(),
            "bits_per_parameter": checkpoint.bits_per_parameter(),
            "quantized_embeddings": checkpoint.quantized_embeddings(),
            "bytes_on_disk": checkpoint.bytes_on_disk(),
            "compute_dtype": "f32",
            "kernel": Kernel::of(Precision::F32).name(),
            "engine": if quantized { "fake-quantized" } else { "exact" },
        });
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let template = ChatTemplate::from_checkpoint(&checkpoint)?;
        Ok(Self { checkpoint, quantizers, device: device::chosen(), tokenizer, template, facts })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        self.checkpoint.config()
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    pub(super) fn quantizers(&self) -> &Quantizers {
        &self.quantizers
    }

    /// The whole model in f32, its weights packed for products: what it writes is the same whatever else it writes beside it, as far as
    /// its [quantizers](Self::rounds_together) allow.
    ///
    /// # Errors
    /// A malformed checkpoint.
    pub fn writer(&self) -> Result<Decoder> {
        let mut decoder = Decoder::load_for_scoring(self.config(), &Once(&self.checkpoint), &self.device)?;
        self.quantizers.put_on(&mut decoder)?;
        Ok(decoder)
    }

    /// Whether a quantizer takes one scale of all that stands side by side, so that sequences decide on each other.
    ///
    /// # Errors
    /// Static scales are damaged.
    pub fn rounds_together(&self) -> Result<bool> {
        let alone = |args: &QuantizationArgs| matches!(args.strategy, Strategy::Token | Strategy::Group);
        let together = |args: &QuantizationArgs| args.dynamic == Dynamic::Yes && !alone(args);
        let (config, checkpoint) = (self.config(), &self.checkpoint);
        for linear in config.linears().into_iter().chain([config.head()]) {
            if checkpoint.input_quantizer(&linear.name)?.is_some_and(|input| together(input.grid.args())) {
                return Ok(true);
            }
        }
        for block in 0..config.num_layers {
            if checkpoint.kv_quantizer(block)?.is_some_and(|kv| together(kv.grid.args())) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The whole model in f32, for generation: every token needs all weights again.
    ///
    /// # Errors
    /// A malformed checkpoint.
    pub fn decoder(&self) -> Result<Decoder> {
        let mut decoder = Decoder::load(self.config(), &Once(&self.checkpoint), &self.device)?;
        self.quantizers.put_on(&mut decoder)?;
        Ok(decoder)
    }
}

/// A checkpoint whose tensors are read once: their pages are given back at once.
struct Once<'a>(&'a Checkpoint);

impl WeightSource for Once<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let values = self.0.values(name);
        self.0.drop_pages([name]);
        values
    }
}
