//! One training step of a small model (3 million parameters, 16 sequences of 256 tokens): tokens/s and where they go.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::Instant;

use candle_core::Device;
use workbench_model::ModelConfig;
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::decoder::{LossOptions, TrainableParams, keep_pages};
use workbench_train::{Example, StepReport, Supervised, TrainConfig, TrainError, train};

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: 2048,
        hidden_size: 192,
        intermediate_size: 576,
        num_layers: 6,
        num_heads: 6,
        num_kv_heads: 2,
        head_dim: 32,
        max_positions: 256,
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

/// Operations of one step: 2 per weight and token forward, 4 backward, and attention's unmasked half.
fn operations(config: &ModelConfig, sequences: usize, len: usize) -> f64 {
    let linears: usize = config.linears().iter().map(|linear| linear.out_features * linear.in_features).sum();
    let head = config.vocab_size * config.hidden_size;
    let attention = config.num_layers * config.num_heads * config.head_dim * (len + 1);
    6.0 * (sequences * len) as f64 * (linears + head + attention) as f64
}

fn main() {
    keep_pages();
    let config = config();
    let (sequences, len, steps) = (16, 256, 6);
    let parameters = TrainableParams::random(&config, 0.02, 1, &Device::Cpu).unwrap();
    let examples: Vec<Example> = (0..sequences)
        .map(|row| Example {
            ids: (0..len as u32).map(|i| (i * 31 + row * 7 + i * i) % 2048).collect(),
            mask: vec![true; len],
        })
        .collect();
    let mut objective = Supervised::next_token(&config, &parameters, examples, LossOptions::default()).unwrap();
    let settings =
        TrainConfig { batch_size: 16, max_steps: Some(steps), learning_rate: 1e-3, ..TrainConfig::default() };
    let mut start = Instant::now();
    let mut fastest = f64::INFINITY;
    let mut observer = |report: &StepReport| -> Result<(), TrainError> {
        let seconds = start.elapsed().as_secs_f64();
        println!("step {}: loss {:.4}, {seconds:.3} s", report.step, report.loss);
        fastest = fastest.min(seconds);
        start = Instant::now();
        Ok(())
    };
    train(&parameters, &mut objective, &settings, None, &mut observer).unwrap();
    let operations = operations(&config, sequences as usize, len);
    println!(
        "{} parameters: {:.0} tokens/s, {:.1} GFLOP/s",
        parameters.count(),
        (sequences as usize * len) as f64 / fastest,
        operations / fastest / 1e9
    );
}
