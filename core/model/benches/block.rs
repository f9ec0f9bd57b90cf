//! One block of Qwen3-0.6B's shapes, forward and forward + backward, beside the rate of plain matrix products.
//!
//! Prints tokens/s, the floating-point operations behind them, and which share that is of the rate at which this machine
//! multiplies matrices of the same shapes.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use candle_core::{Device, Tensor};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::decoder::{TrainableParams, keep_pages};
use workbench_model::statistics::{SiteStatistics, Wants};
use workbench_model::{Block, Context, ModelConfig, Precision};

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: 64,
        hidden_size: 1024,
        intermediate_size: 3072,
        num_layers: 1,
        num_heads: 16,
        num_kv_heads: 8,
        head_dim: 128,
        max_positions: 4096,
        rms_norm_eps: 1e-6,
        rope_theta: 1e6,
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

/// Multiply-adds of the products of one forward pass, times 2. Attention counts the unmasked half.
fn operations(config: &ModelConfig, batch: usize, len: usize) -> f64 {
    let linears: usize = config.linears().iter().map(|linear| linear.out_features * linear.in_features).sum();
    let attention = config.num_heads * config.head_dim * (len + 1);
    2.0 * (batch * len) as f64 * (linears + attention) as f64
}

/// Seconds per run: the fastest of several, since the machine may be doing other things.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_secs(3) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// The rate of candle's matrix product over the shapes of the block's linears, in operations per second.
fn product_rate(config: &ModelConfig, tokens: usize) -> f64 {
    let pairs: Vec<(Tensor, Tensor)> = config
        .linears()
        .iter()
        .map(|linear| {
            let tensor = |shape| Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu).unwrap();
            (tensor((tokens, linear.in_features)), tensor((linear.in_features, linear.out_features)))
        })
        .collect();
    let seconds = fastest(|| pairs.iter().for_each(|(a, b)| drop(a.matmul(b).unwrap())));
    let linears: usize = config.linears().iter().map(|linear| linear.out_features * linear.in_features).sum();
    2.0 * (tokens * linears) as f64 / seconds
}

/// What calibration adds to a forward pass, and the same pass with packed weights.
fn calibration(config: &ModelConfig, parameters: &TrainableParams) {
    let tokens = 512;
    let rate = product_rate(config, tokens);
    let share = |operations: f64, seconds: f64| {
        let found = operations / seconds / 1e9;
        format!(
            "{found:.1} GFLOP/s, {:.0} % of the {:.1} GFLOP/s of matrix products in f32",
            1e11 * found / rate,
            rate / 1e9
        )
    };
    let values = |features: usize| -> Vec<f32> {
        (0..tokens * features).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        for features in [config.hidden_size, config.intermediate_size] {
            let x = values(features);
            let mut site = SiteStatistics::new(features, Wants { gram: true, precision, ..Wants::default() });
            // One half is computed: n (n + 1) / 2 sums of a product and an addition for each token.
            let operations = (tokens * features * (features + 1)) as f64;
            println!("gram {features} {precision:?}: {}", share(operations, fastest(|| site.add(&x))));
        }
    }
    let hidden = Tensor::from_vec(values(1024), (1, tokens, 1024), &Device::Cpu).unwrap();
    let context = Context::full(1, tokens, None);
    for precision in [Precision::F32, Precision::Bf16] {
        let block = Block::load_for_scoring(config, parameters, 0, precision, &Device::Cpu).unwrap();
        let seconds = fastest(|| drop(block.forward(&hidden, &context, &mut ()).unwrap()));
        println!("1x{tokens} packed forward {precision:?}: {}", share(operations(config, 1, tokens), seconds));
    }
}

fn benches(criterion: &mut Criterion) {
    keep_pages();
    let config = config();
    let parameters = TrainableParams::random(&config, 0.02, 1, &Device::Cpu).unwrap();
    calibration(&config, &parameters);
    let block = Block::over(&config, &parameters, 0).unwrap();
    let mut group = criterion.benchmark_group("qwen3-0.6b block");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    for (batch, len) in [(4, 128), (1, 512), (1, 2048)] {
        let tokens = batch * len;
        let rate = product_rate(&config, tokens);
        let values = (0..tokens * 1024).map(|i| ((i * 7919) % 1009) as f32 / 504.5 - 1.0).collect();
        let hidden = Tensor::from_vec(values, (batch, len, 1024), &Device::Cpu).unwrap();
        let context = Context::full(batch, len, None);
        let forward = || block.forward(&hidden, &context, &mut ()).unwrap();
        let backward = || forward().sum_all().unwrap().backward().unwrap();
        let operations = operations(&config, batch, len);
        let name = format!("{batch}x{len}");
        let report = |what: &str, operations: f64, seconds: f64| {
            println!(
                "{name} {what}: {:.0} tokens/s, {:.1} GFLOP/s, {:.0} % of the {:.1} GFLOP/s of matrix products",
                tokens as f64 / seconds,
                operations / seconds / 1e9,
                100.0 * operations / seconds / rate,
                rate / 1e9
            );
        };
        report("forward", operations, fastest(|| drop(forward())));
        report("forward + backward", 3.0 * operations, fastest(|| drop(backward())));
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("forward", &name), |b| b.iter(forward));
        group.bench_function(BenchmarkId::new("forward + backward", &name), |b| b.iter(backward));
    }
    group.finish();
}

criterion_group!(block, benches);
criterion_main!(block);
