//! The Gram matrix of activations, of which one half is computed.

use workbench_matmul::{Precision, add_gram};

/// Tokens that are gathered before they are multiplied: shorter products wait for the memory that holds the result.
const TOKENS: usize = 512;

/// `XᵀX` over tokens that come in pieces, in f32.
///
/// Each element is one sum over tokens in the order in which they came, cut where a product begins. The cuts depend on the
/// pieces alone, so that any number of threads gives the same bits.
#[derive(Clone, Debug)]
pub(super) struct Gram {
    features: usize,
    /// `[features, features]`; below the diagonal it means nothing.
    upper: Vec<f32>,
    waiting: Vec<f32>,
    precision: Precision,
}

impl Gram {
    /// Nothing seen yet. Tokens are multiplied in `precision`; sums are f32.
    pub(super) fn new(features: usize, precision: Precision) -> Self {
        Self { features, upper: vec![0.0; features * features], waiting: Vec::new(), precision }
    }

    /// Adds tokens, `[tokens, features]`.
    pub(super) fn add(&mut self, tokens: &[f32]) {
        if self.waiting.is_empty() && tokens.len() >= TOKENS * self.features {
            self.multiply(tokens);
            return;
        }
        self.waiting.extend_from_slice(tokens);
        if self.waiting.len() >= TOKENS * self.features {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.multiply(&waiting);
        waiting.clear();
        self.waiting = waiting;
    }

    fn multiply(&mut self, tokens: &[f32]) {
        if !tokens.is_empty() {
            add_gram(&mut self.upper, tokens, self.features, self.precision);
        }
    }

    /// The matrix with both halves filled.
    pub(super) fn finish(mut self) -> Vec<f32> {
        self.flush();
        let n = self.features;
        let mut gram = self.upper;
        // Tiles keep the reads down a column within the cache.
        const TILE: usize = 32;
        for top in (0..n).step_by(TILE) {
            for left in (0..=top).step_by(TILE) {
                for i in top..n.min(top + TILE) {
                    for j in left..i.min(left + TILE) {
                        gram[i * n + j] = gram[j * n + i];
                    }
                }
            }
        }
        gram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against sums in f64, within the bound of Higham 2002, section 3.1: |error| <= k u / (1 - k u) * Σ|x||x|.
    #[test]
    fn the_matrix_is_the_sum_of_products() {
        for (tokens, n, piece) in [(7, 5, 3), (700, 131, 19), (1030, 300, 515)] {
            let mut state = 1_u32;
            let mut draw = || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 23) as f32 - 1.0
            };
            let x: Vec<f32> = (0..tokens * n).map(|_| draw()).collect();
            let mut gram = Gram::new(n, Precision::F32);
            x.chunks(piece * n).for_each(|tokens| gram.add(tokens));
            let found = gram.finish();
            let unit = f64::from(f32::EPSILON) / 2.0 * tokens as f64;
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let terms = x.chunks_exact(n).map(|row| f64::from(row[i]) * f64::from(row[j]));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
                let error = (f64::from(found[i * n + j]) - sum).abs();
                assert!(error <= unit / (1.0 - unit) * size, "{i} {j}: {error}");
                assert_eq!(found[i * n + j].to_bits(), found[j * n + i].to_bits());
            }
        }
    }

    #[test]
    fn any_number_of_threads_gives_the_same_bits() {
        let x: Vec<f32> = (0..600 * 300).map(|i| (i as f32 * 0.37).sin()).collect();
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut gram = Gram::new(300, Precision::F32);
                gram.add(&x);
                gram.finish()
            })
        };
        assert_eq!(with(1), with(3));
    }
}
