//! Fused operations against their composed twins, values and gradients.

use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use workbench_rotation::Hadamard;

use super::super::rope::Angles;
use super::super::{Context, Divergence};
use super::*;

fn random(rng: &mut ChaCha8Rng, shape: &[usize]) -> Var {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|_| rng.random_range(-1.5..1.5)).collect();
    Var::from_tensor(&Tensor::from_vec(values, shape, &Device::Cpu).unwrap()).unwrap()
}

fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

#[track_caller]
fn assert_close(what: &str, a: &Tensor, b: &Tensor, tolerance: f32) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let (a, b) = (flat(a), flat(b));
    let scale = b.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= tolerance * scale, "{what}: {worst:e} at a scale of {scale:e}");
}

/// Values of both functions, and the gradients of a random weighted sum of their outputs by every variable.
fn compare(vars: &[&Var], fused: impl Fn() -> Result<Tensor>, composed: impl Fn() -> Result<Tensor>) {
    let (a, b) = (fused().unwrap(), composed().unwrap());
    assert_close("value", &a, &b, 2e-6);
    let upstream = random(&mut ChaCha8Rng::seed_from_u64(99), a.dims()).as_detached_tensor();
    let gradients = |x: &Tensor| (x * &upstream).unwrap().sum_all().unwrap().backward().unwrap();
    let (a, b) = (gradients(&a), gradients(&b));
    for (index, var) in vars.iter().enumerate() {
        let name = format!("gradient {index}");
        assert_close(&name, a.get(var).expect(&name), b.get(var).expect(&name), 5e-6);
    }
}

#[test]
fn linear_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for (rows, inputs, outputs) in [(1, 3, 5), (7, 16, 33), (130, 48, 20)] {
        let x = random(&mut rng, &[1, rows, inputs]);
        let (weight, bias) = (random(&mut rng, &[outputs, inputs]), random(&mut rng, &[outputs]));
        compare(&[&x, &weight], || linear(&x, &weight, None), || composed::linear(&x, &weight, None));
        compare(
            &[&x, &weight, &bias],
            || linear(&x, &weight, Some(&bias)),
            || composed::linear(&x, &weight, Some(&bias)),
        );
    }
}

#[test]
fn rms_norm_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for shape in [[1, 3, 7], [2, 5, 64], [3, 500, 33]] {
        let (x, weight) = (random(&mut rng, &shape), random(&mut rng, &shape[2..]));
        compare(&[&x, &weight], || rms_norm(&x, &weight, 1e-5), || composed::rms_norm(&x, &weight, 1e-5));
    }
}

#[test]
fn hadamard_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    for (shape, size) in [([2, 5, 64], 64), ([1, 3, 24], 24), ([4, 7, 96], 8), ([3, 600, 172], 172)] {
        let (x, matrix) = (random(&mut rng, &shape), Hadamard::new(size).unwrap());
        compare(&[&x], || hadamard(&x, &matrix), || composed::hadamard(&x, &matrix));
    }
    let x = random(&mut rng, &[2, 10]);
    assert!(hadamard(&x, &Hadamard::new(4).unwrap()).is_err(), "4 does not divide 10");
}

#[test]
fn silu_times_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    for shape in [[1, 3], [70, 1000]] {
        let (gate, up) = (random(&mut rng, &shape), random(&mut rng, &shape));
        compare(&[&gate, &up], || silu_times(&gate, &up), || composed::silu_times(&gate, &up));
    }
}

#[test]
fn clamped_silu_times_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(12);
    for shape in [[1, 3], [70, 1000]] {
        let (gate, up) = (random(&mut rng, &shape), random(&mut rng, &shape));
        // Some of each lie beyond the limit.
        let numbers = [1.702, 1.1];
        compare(
            &[&gate, &up],
            || clamped_silu_times(&gate, &up, numbers),
            || composed::clamped_silu_times(&gate, &up, numbers),
        );
    }
}

#[test]
fn rotation_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let half = 6;
    let angle = |i: usize| (i / half) as f32 * 0.7f32.powi((i % half) as i32);
    let angles = Arc::new(Angles {
        half,
        cos: (0..100 * half).map(|i| angle(i).cos()).collect(),
        sin: (0..100 * half).map(|i| angle(i).sin()).collect(),
    });
    for (past, len, heads) in [(vec![0, 0], 5, 3), (vec![7, 2, 0], 4, 1), (vec![3], 90, 40)] {
        let context = Context::continued(&past, len, None);
        let x = random(&mut rng, &[past.len(), len, heads, 2 * half]);
        compare(&[&x], || rotate(&x, &angles, &context), || composed::rotate(&x, &angles, &context));
    }
}

#[test]
fn attention_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    // Padding, a filled cache, several chunks of queries, one head, grouped heads.
    let cases = [
        (vec![0], 5, vec![5], 5, 1, 1),
        (vec![0, 0, 0], 9, vec![9, 1, 4], 9, 4, 2),
        (vec![3, 0, 8], 4, vec![4, 2, 1], 20, 6, 2),
        (vec![0, 0], 150, vec![150, 70], 150, 2, 2),
        (vec![10], 1, vec![1], 16, 8, 4),
    ];
    for (past, len, lens, capacity, heads, kv_heads) in cases {
        let (batch, dim) = (past.len(), 8);
        let q = random(&mut rng, &[batch, len, heads, dim]);
        let k = random(&mut rng, &[batch, capacity, kv_heads, dim]);
        let v = random(&mut rng, &[batch, capacity, kv_heads, dim]);
        let sinks = random(&mut rng, &[heads]);
        for (window, sink) in [(None, false), (Some(3), false), (None, true), (Some(70), true), (Some(1), true)] {
            let what = Attention {
                context: Context::continued(&past, len, Some(&lens)),
                scale: 0.4,
                window,
                sinks: sink.then(|| sinks.as_tensor().clone()),
                precision: crate::Precision::F32,
            };
            let vars: &[&Var] = if sink { &[&q, &k, &v, &sinks] } else { &[&q, &k, &v] };
            compare(vars, || attention(&q, &k, &v, what.clone()), || composed::attention(&q, &k, &v, &what));
        }
    }
}

#[test]
fn embedding_equals_its_composed_twin() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let weight = random(&mut rng, &[11, 5]);
    let ids = Tensor::new(&[[0u32, 3, 3, 10], [1, 3, 0, 0]], &Device::Cpu).unwrap();
    compare(&[&weight], || embedding(&ids, &weight), || composed::embedding(&ids, &weight));
    let outside = Tensor::new(&[[0u32, 11]], &Device::Cpu).unwrap();
    assert!(embedding(&outside, &weight).unwrap_err().to_string().contains("token id 11"));
}

#[test]
fn cross_entropy_equals_its_composed_twin_in_any_chunks() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let (rows, width, vocabulary) = (37, 12, 51);
    let (hidden, head) = (random(&mut rng, &[rows, width]), random(&mut rng, &[vocabulary, width]));
    let targets: Vec<u32> = (0..rows).map(|_| rng.random_range(0..vocabulary as u32)).collect();
    let weights: Vec<f32> = (0..rows).map(|i| if i % 5 == 0 { 0.0 } else { 1.0 / i as f32 }).collect();
    for chunk in [1, 10, 37, 1000] {
        compare(
            &[&hidden, &head],
            || cross_entropy(&hidden, &head, &targets, &weights, chunk),
            || composed::cross_entropy(&hidden, &head, &targets, &weights, rows),
        );
    }
}

#[test]
fn distillation_equals_its_composed_twin_in_any_chunks() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let (rows, width, vocabulary) = (37, 12, 51);
    let (hidden, head) = (random(&mut rng, &[rows, width]), random(&mut rng, &[vocabulary, width]));
    // The teacher is wider.
    let known = random(&mut rng, &[rows, 20]).as_detached_tensor();
    let teacher_head = random(&mut rng, &[vocabulary, 20]).as_detached_tensor();
    let teacher = |start: usize, n: usize| Ok(linear(&known.narrow(0, start, n)?, &teacher_head, None)?);
    let weights: Vec<f32> = (0..rows).map(|i| if i % 5 == 0 { 0.0 } else { 1.0 / i as f32 }).collect();
    let run = |result: std::result::Result<Tensor, crate::ModelError>| {
        result.map_err(|error| candle_core::Error::Msg(error.to_string()))
    };
    for (beta, temperature) in [(0.0, 1.0), (0.3, 2.0), (0.5, 1.0), (1.0, 0.9)] {
        let divergence = Divergence { beta, temperature };
        for chunk in [1, 10, 37, 1000] {
            compare(
                &[&hidden, &head],
                || run(distillation(&hidden, &head, &teacher, &weights, divergence, chunk)),
                || run(composed::distillation(&hidden, &head, &teacher, &weights, divergence, rows)),
            );
        }
    }
}

#[test]
fn frozen_arguments_get_no_gradient() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let (x, weight) = (random(&mut rng, &[4, 6]), random(&mut rng, &[3, 6]));
    let frozen = weight.as_detached_tensor();
    let gradients = linear(&x, &frozen, None).unwrap().sum_all().unwrap().backward().unwrap();
    assert!(gradients.get(&x).is_some() && gradients.get(&frozen).is_none());
}
