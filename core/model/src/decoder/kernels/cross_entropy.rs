//! Softmax statistics of logits, row by row.

use rayon::prelude::*;

use super::vector::{exp, max, sum, vectorized};

vectorized! {
    /// `(max, log(sum(e^x)))` of one row; the second in f64, since losses are summed over millions of tokens.
    fn log_sum_exp(row: &[f32]) -> (f32, f64) {
        let most = max(row);
        let total = sum(row.len(), |i| exp(row[i] - most));
        (most, f64::from(most) + f64::from(total).ln())
    }
}

vectorized! {
    /// softmax(row) * factor, in place.
    fn softmax_times(row: &mut [f32], factor: f32, most: f32) {
        for x in row.iter_mut() {
            *x = exp(*x - most);
        }
        let scale = factor / sum(row.len(), |i| row[i]);
        for x in row.iter_mut() {
            *x *= scale;
        }
    }
}

/// What a row of logits says about its target.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// The target's log-probability in nats.
    pub log_probability: f64,
    /// The most probable token; the first of equals.
    pub top: u32,
}

/// Scores each row of `logits` `[n, vocabulary]` against its target.
pub(crate) fn scores(logits: &[f32], vocabulary: usize, targets: &[u32]) -> Vec<TokenScore> {
    let rows = logits.par_chunks_exact(vocabulary).zip(targets);
    rows.map(|(row, &target)| {
        let (most, normalizer) = log_sum_exp(row);
        let top = row.iter().position(|x| *x == most).unwrap_or(0) as u32;
        TokenScore { log_probability: f64::from(row[target as usize]) - normalizer, top }
    })
    .collect()
}

/// Per row the weighted loss `-weight * log p(target)`; `logits` become the gradient of their sum, `weight (p - onehot)`.
pub(crate) fn loss_and_gradient(logits: &mut [f32], vocabulary: usize, targets: &[u32], weights: &[f32]) -> Vec<f64> {
    let rows = logits.par_chunks_exact_mut(vocabulary).zip(targets).zip(weights);
    rows.map(|((row, &target), &weight)| {
        let (most, normalizer) = log_sum_exp(row);
        let loss = normalizer - f64::from(row[target as usize]);
        softmax_times(row, weight, most);
        row[target as usize] -= weight;
        loss * f64::from(weight)
    })
    .collect()
}
