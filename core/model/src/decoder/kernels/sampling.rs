//! What picking a token asks of a whole row of logits.

use super::vector::{exp, max, sums, vectorized};

/// Tokens whose weights are added up before a draw looks at them one by one.
pub(crate) const BLOCK: usize = 512;

/// Weights below are zero: those of logits that lie 85 below the largest one, minus infinity among them.
const NOTHING: f32 = 1e-37;

vectorized! {
    /// The largest logit; NaN if there is one.
    pub(crate) fn largest(row: &[f32]) -> f32 {
        max(row)
    }
}

vectorized! {
    /// e^((x - most) * inverse) of every logit, and the sums of each [`BLOCK`] of them.
    pub(crate) fn weigh(row: &[f32], most: f32, inverse: f32, weights: &mut [f32], totals: &mut [f64]) {
        for ((row, weights), total) in row.chunks(BLOCK).zip(weights.chunks_mut(BLOCK)).zip(totals) {
            for (x, weight) in row.iter().zip(weights.iter_mut()) {
                let e = exp((x - most) * inverse);
                *weight = if e < NOTHING { 0.0 } else { e };
            }
            [*total] = sums(weights, weights, |weight, _| [weight]);
        }
    }
}

vectorized! {
    /// Whether an element is larger than a bound.
    pub(crate) fn exceeds(x: &[f32], bound: f32) -> bool {
        max(x) > bound
    }
}
