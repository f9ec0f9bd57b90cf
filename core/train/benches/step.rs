//! Training steps: tokens/s and the rate of their operations.
//!
//! A small model as a whole (3 million parameters, 16 sequences of 256 tokens), and one block of Qwen3-0.6B's shapes (2 x 512 tokens),
//! each forward, backward and with AdamW. An argument picks one of them by its name, `model` or `block`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use candle_core::{Device, Tensor};
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::decoder::{Gradients, LossOptions, TrainableParams, keep_pages};
use workbench_model::{Block, Context, ModelConfig, ModelError};
use workbench_train::{Example, Objective, StepReport, Supervised, TrainConfig, TrainError, train};

fn small() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: 2048,
        hidden_size: 192,
        intermediate_size: 576,
        num_layers: 6,
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: 32,
        max_positions: 1024,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        sliding_windows: Vec::new(),
        attention_sinks: false,
        experts: None,
        online: Default::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// One block of Qwen3-0.6B, and next to no vocabulary.
fn qwen3() -> ModelConfig {
    ModelConfig {
        vocab_size: 16,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_layers: 1,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        ..small()
    }
}

/// Operations of one step through the blocks: 2 per weight and token forward, 4 backward, and attention's unmasked half.
fn operations(config: &ModelConfig, sequences: usize, len: usize) -> f64 {
    let linears: usize = config.linears().iter().map(|linear| linear.out_features * linear.in_features).sum();
    let attention = config.num_layers * config.num_heads * config.head_dim * (len + 1);
    6.0 * (sequences * len) as f64 * (linears + attention) as f64
}

/// Takes some steps, and returns the seconds of the fastest.
fn fastest(parameters: &TrainableParams, objective: &mut dyn Objective, steps: u64, sequences: usize) -> f64 {
    let settings = TrainConfig {
        batch_size: sequences,
        max_steps: Some(steps),
        learning_rate: 1e-3,
        max_grad_norm: 0.0,
        ..TrainConfig::default()
    };
    let (mut start, mut fastest) = (Instant::now(), f64::INFINITY);
    let mut observer = |report: &StepReport| -> Result<(), TrainError> {
        let seconds = start.elapsed().as_secs_f64();
        println!("  step {}: loss {:.4}, {seconds:.3} s", report.step, report.loss);
        fastest = fastest.min(seconds);
        start = Instant::now();
        Ok(())
    };
    train(parameters, objective, &settings, None, &mut observer).unwrap();
    fastest
}

fn tell(name: &str, tokens: usize, operations: f64, seconds: f64) {
    let rate = operations / seconds / 1e9;
    println!("{name}: {seconds:.4} s a step, {:.0} tokens/s, {rate:.1} GFLOP/s", tokens as f64 / seconds);
}

fn model() {
    let (config, sequences, len) = (small(), 16, 256);
    let parameters = TrainableParams::random(&config, 0.02, 1, &Device::Cpu).unwrap();
    let examples: Vec<Example> = (0..sequences as u32)
        .map(|row| Example {
            ids: (0..len as u32).map(|i| (i * 31 + row * 7 + i * i) % 2048).collect(),
            mask: vec![true; len],
        })
        .collect();
    let mut objective = Supervised::next_token(&config, &parameters, examples, LossOptions::default()).unwrap();
    let head = 6.0 * (sequences * len * config.vocab_size * config.hidden_size) as f64;
    let operations = head + operations(&config, sequences, len);
    tell("model", sequences * len, operations, fastest(&parameters, &mut objective, 6, sequences));
}

/// The product of a block's output with fixed numbers.
struct OneBlock<'a> {
    config: &'a ModelConfig,
    parameters: &'a TrainableParams,
    input: Tensor,
    by_output: Tensor,
}

impl Objective for OneBlock<'_> {
    fn examples(&self) -> usize {
        self.input.dims()[0]
    }

    fn accumulate(&mut self, _: &[usize], _: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        let (batch, len, _) = self.input.dims3().map_err(ModelError::from)?;
        let block = Block::over(self.config, self.parameters, 0)?;
        let output = block.forward(&self.input, &Context::full(batch, len, None), &mut ())?;
        let loss = (&output * &self.by_output).and_then(|x| x.mean_all()).map_err(ModelError::from)?;
        gradients.add(self.parameters, &mut loss.backward().map_err(ModelError::from)?)?;
        Ok(f64::from(loss.to_scalar::<f32>().map_err(ModelError::from)?))
    }
}

fn block() {
    let (config, sequences, len) = (qwen3(), 2, 512);
    let mut parameters = TrainableParams::random(&config, 0.02, 1, &Device::Cpu).unwrap();
    // The ends take no part.
    let ends = ["model.embed_tokens.weight", "model.norm.weight"];
    parameters.freeze(ends).unwrap();
    let numbers = || Tensor::randn(0f32, 1.0, (sequences, len, config.hidden_size), &Device::Cpu).unwrap();
    let (input, by_output) = (numbers(), numbers());
    // Gradients pass on to the block before.
    let input = candle_core::Var::from_tensor(&input).unwrap().into_inner();
    let mut objective = OneBlock { config: &config, parameters: &parameters, input, by_output };
    let seconds = fastest(&parameters, &mut objective, 8, sequences);
    tell("block", sequences * len, operations(&config, sequences, len), seconds);
}

fn main() {
    keep_pages();
    let picked: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, run) in [("model", model as fn()), ("block", block)] {
        if picked.is_empty() || picked.iter().any(|one| one == name) {
            run();
        }
    }
}
