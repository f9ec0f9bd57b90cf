//! Statistics of the activation at one site, over all tokens that pass it.

use rayon::prelude::*;

/// What was seen at one site.
#[derive(Clone, Debug, Default)]
pub struct SiteStatistics {
    features: usize,
    count: u64,
    min: Vec<f32>,
    max: Vec<f32>,
    sum_abs: Vec<f64>,
    gram: Option<Vec<f32>>,
}

impl SiteStatistics {
    /// Nothing seen yet; `gram` asks for the Gram matrix.
    pub fn new(features: usize, gram: bool) -> Self {
        Self {
            features,
            count: 0,
            min: vec![f32::INFINITY; features],
            max: vec![f32::NEG_INFINITY; features],
            sum_abs: vec![0.0; features],
            gram: gram.then(|| vec![0.0; features * features]),
        }
    }

    /// Features of a token.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Tokens seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Smallest value per channel.
    pub fn min(&self) -> &[f32] {
        &self.min
    }

    /// Largest value per channel.
    pub fn max(&self) -> &[f32] {
        &self.max
    }

    /// Largest absolute value per channel.
    pub fn absmax(&self) -> Vec<f32> {
        self.min.iter().zip(&self.max).map(|(a, b)| a.abs().max(b.abs())).collect()
    }

    /// Mean absolute value per channel.
    pub fn mean_abs(&self) -> Vec<f32> {
        self.sum_abs.iter().map(|s| (s / self.count.max(1) as f64) as f32).collect()
    }

    /// `XᵀX` over all tokens, `[features, features]` with both halves filled, if it was asked for. Only one half is summed.
    pub fn gram(&self) -> Option<Vec<f32>> {
        let n = self.features;
        let mut gram = self.gram.clone()?;
        for i in 0..n {
            for j in i + 1..n {
                gram[j * n + i] = gram[i * n + j];
            }
        }
        Some(gram)
    }

    /// Adds tokens, `[tokens, features]` row by row.
    pub fn add(&mut self, tokens: &[f32]) {
        self.count += (tokens.len() / self.features.max(1)) as u64;
        for row in tokens.chunks_exact(self.features) {
            for (j, &v) in row.iter().enumerate() {
                self.min[j] = self.min[j].min(v);
                self.max[j] = self.max[j].max(v);
                self.sum_abs[j] += f64::from(v.abs());
            }
        }
        if let Some(gram) = &mut self.gram {
            add_gram(gram, tokens, self.features);
        }
    }
}

/// Adds the upper half of `XᵀX`. Rows of the result are independent, so any number of threads gives the same sums.
fn add_gram(gram: &mut [f32], x: &[f32], n: usize) {
    gram.par_chunks_exact_mut(n).enumerate().for_each(|(i, out)| {
        for row in x.chunks_exact(n) {
            let factor = row[i];
            for (sum, &v) in out[i..].iter_mut().zip(&row[i..]) {
                *sum += factor * v;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_small_matrix() {
        let x = [1.0_f32, -2.0, 3.0, 0.0, 4.0, -1.0];
        let mut site = SiteStatistics::new(3, true);
        site.add(&x[..3]);
        site.add(&x[3..]);
        assert_eq!(site.absmax(), [1.0, 4.0, 3.0]);
        assert_eq!(site.min(), [0.0, -2.0, -1.0]);
        assert_eq!(site.mean_abs(), [0.5, 3.0, 2.0]);
        // XᵀX by hand.
        assert_eq!(site.gram().unwrap(), [1.0, -2.0, 3.0, -2.0, 20.0, -10.0, 3.0, -10.0, 10.0]);
    }
}
