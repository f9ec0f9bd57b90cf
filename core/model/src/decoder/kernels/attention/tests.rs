//! Products in bfloat16 against sums in f64. Products in f32 are compared with candle's in `ops`.

use super::*;

const DIM: usize = 24;

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 22) as f32 - 2.0
    };
    (0..count).map(|_| draw()).collect()
}

/// For each output: softmax(scale q k^T) v, and the same of |v|, of rounded factors.
fn expected(q: &[f32], k: &[f32], v: &[f32], p: &Problem<'_>) -> Vec<(f64, f64)> {
    let [q, k, v] = [q, k, v].map(workbench_matmul::rounded);
    let mut out = vec![(0.0, 0.0); q.len()];
    for (sequence, (past, len)) in p.past.iter().zip(p.lens).enumerate() {
        for (position, head) in (0..*len).flat_map(|i| (0..p.heads).map(move |head| (i, head))) {
            let query = ((sequence * p.len + position) * p.heads + head) * DIM;
            let at = |key: usize| ((sequence * p.capacity + key) * p.kv_heads + head / p.group()) * DIM;
            let dot = |key: usize| (0..DIM).map(|i| f64::from(q[query + i]) * f64::from(k[at(key) + i])).sum::<f64>();
            let scores: Vec<f64> = (0..=past + position).map(|key| dot(key) * f64::from(p.scale)).collect();
            let most = scores.iter().copied().fold(f64::MIN, f64::max);
            let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
            for (key, score) in scores.iter().enumerate() {
                let probability = (score - most).exp() / sum;
                for i in 0..DIM {
                    let value = f64::from(v[at(key) + i]);
                    out[query + i].0 += probability * value;
                    out[query + i].1 += probability * value.abs();
                }
            }
        }
    }
    out
}

/// Rounding a probability to bfloat16 changes it by 2^-8 of itself at most. The scores are sums in f32 of exact products: their
/// errors, some 1e-6 in the exponent, and those of the last sum stay below 2^-14.
#[test]
fn attention_of_rounded_factors_is_the_sum_of_its_products() {
    // Padding, a filled cache, several chunks of queries, grouped heads, an odd number of keys.
    let cases = [
        (vec![0], 5, vec![5], 5, 1, 1),
        (vec![0, 0, 0], 9, vec![9, 1, 4], 9, 4, 2),
        (vec![3, 0, 8], 4, vec![4, 2, 1], 20, 6, 2),
        (vec![0, 0], 150, vec![150, 71], 150, 2, 2),
        (vec![10], 1, vec![1], 16, 8, 4),
    ];
    for (past, len, lens, capacity, heads, kv_heads) in cases {
        let problem = Problem {
            past: &past,
            lens: &lens,
            len,
            capacity,
            heads,
            kv_heads,
            dim: DIM,
            scale: 0.4,
            window: usize::MAX,
            sinks: None,
        };
        let q = values(past.len() * len * heads * DIM, 1);
        let [k, v] = [2, 3].map(|seed| values(past.len() * capacity * kv_heads * DIM, seed));
        let expected = expected(&q, &k, &v, &problem);
        let found = forward(&q, &k, &v, problem, Precision::Bf16);
        for (found, (value, size)) in found.into_iter().zip(&expected) {
            let error = (f64::from(found) - value).abs();
            assert!(error <= (2.0_f64.powi(-8) + 2.0_f64.powi(-14)) * size, "{found} for {value}: {error}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (past, lens) = ([0, 0], [130, 77]);
    let problem = Problem {
        past: &past,
        lens: &lens,
        len: 130,
        capacity: 130,
        heads: 4,
        kv_heads: 2,
        dim: DIM,
        scale: 0.4,
        window: usize::MAX,
        sinks: None,
    };
    let q = values(2 * 130 * 4 * DIM, 1);
    let [k, v] = [2, 3].map(|seed| values(2 * 130 * 2 * DIM, seed));
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| forward(&q, &k, &v, problem, Precision::Bf16))
    };
    assert_eq!(with(1), with(3));
}
