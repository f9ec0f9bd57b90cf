//! Picking a token among Qwen3's 151,936: microseconds a pick, beside sorting all of them.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use workbench_model::generate::{Sampler, Sampling};

const VOCABULARY: usize = 151_936;

/// Seconds per run: the fastest of several, since the machine may be doing other things.
fn fastest(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed().as_secs_f64());
    }
    best
}

/// Pairs of tokens and probabilities in the order of these, as a draw from a sorted list needs them.
fn sorted(logits: &[f32]) -> Vec<(u32, f64)> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| (f64::from(x) - f64::from(most)).exp();
    let mut all: Vec<(u32, f64)> = logits.iter().enumerate().map(|(token, x)| (token as u32, weight(*x))).collect();
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn main() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    // A few tokens stand out of a wide bell.
    let mut logits: Vec<f32> = (0..VOCABULARY).map(|_| (0..6).map(|_| rng.random_range(-2.0f32..2.0)).sum()).collect();
    for _ in 0..100 {
        logits[rng.random_range(0..VOCABULARY)] += rng.random_range(4.0..12.0);
    }
    let report = |what: &str, seconds: f64| println!("{what}: {:.0} us", seconds * 1e6);
    report("sorting", fastest(|| drop(std::hint::black_box(sorted(&logits)))));
    let all = Sampling { temperature: 1.0, top_k: None, top_p: 1.0 };
    for (what, sampling) in [
        ("greedy", Sampling::GREEDY),
        ("temperature 1", all),
        ("top_k 50", Sampling { top_k: Some(50), ..all }),
        ("top_k 50, top_p 0.95", Sampling { top_k: Some(50), top_p: 0.95, ..all }),
        ("top_p 0.95", Sampling { top_p: 0.95, ..all }),
    ] {
        let mut sampler = Sampler::new(sampling, 1, 0);
        report(
            what,
            fastest(|| {
                std::hint::black_box(sampler.pick(&logits).unwrap());
            }),
        );
    }
}
