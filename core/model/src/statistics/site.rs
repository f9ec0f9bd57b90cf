//! Statistics of the activation at one site, over all tokens that pass it.

use serde::{Deserialize, Serialize};

use super::gram::Gram;
use crate::Precision;

/// What is to be gathered at a site beside the number of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Smallest and largest value and mean magnitude of each channel.
    pub channels: bool,
    /// The Gram matrix.
    pub gram: bool,
    /// In which the Gram matrix multiplies.
    pub precision: Precision,
}

/// What was seen at one site. Finished ones can be written down and read again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SiteStatistics {
    features: usize,
    count: u64,
    channels: Option<Channels>,
    #[serde(skip)]
    gram: Option<Gram>,
    /// The finished matrix.
    full: Option<Vec<f32>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Channels {
    min: Vec<f32>,
    max: Vec<f32>,
    sum_abs: Vec<f64>,
}

impl Channels {
    fn add(&mut self, tokens: &[f32]) {
        for row in tokens.chunks_exact(self.min.len()) {
            for (((min, max), sum), v) in self.min.iter_mut().zip(&mut self.max).zip(&mut self.sum_abs).zip(row) {
                *min = min.min(*v);
                *max = max.max(*v);
                *sum += f64::from(v.abs());
            }
        }
    }
}

impl SiteStatistics {
    /// Nothing seen yet.
    pub fn new(features: usize, wants: Wants) -> Self {
        let channels = wants.channels.then(|| Channels {
            min: vec![f32::INFINITY; features],
            max: vec![f32::NEG_INFINITY; features],
            sum_abs: vec![0.0; features],
        });
        Self {
            features,
            count: 0,
            channels,
            gram: wants.gram.then(|| Gram::new(features, wants.precision)),
            full: None,
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

    /// Adds tokens, `[tokens, features]` row by row.
    pub fn add(&mut self, tokens: &[f32]) {
        self.count += (tokens.len() / self.features.max(1)) as u64;
        if let Some(channels) = &mut self.channels {
            channels.add(tokens);
        }
        if let Some(gram) = &mut self.gram {
            gram.add(tokens);
        }
    }

    /// Ends the gathering, and returns the first channel in which a value was not finite.
    pub fn finish(&mut self) -> Option<usize> {
        if let Some(gram) = self.gram.take() {
            self.full = Some(gram.finish());
        }
        // A NaN or an infinity stays in the sums that it enters.
        let by_sum = self.channels.as_ref().and_then(|c| c.sum_abs.iter().position(|s| !s.is_finite()));
        let diagonal = |full: &Vec<f32>| (0..self.features).find(|i| !full[i * (self.features + 1)].is_finite());
        by_sum.or_else(|| self.full.as_ref().and_then(diagonal))
    }

    /// Smallest value per channel, if channels were asked for.
    pub fn min(&self) -> Option<&[f32]> {
        self.channels.as_ref().map(|c| c.min.as_slice())
    }

    /// Largest value per channel.
    pub fn max(&self) -> Option<&[f32]> {
        self.channels.as_ref().map(|c| c.max.as_slice())
    }

    /// Largest absolute value per channel.
    pub fn absmax(&self) -> Option<Vec<f32>> {
        let channels = self.channels.as_ref()?;
        Some(channels.min.iter().zip(&channels.max).map(|(a, b)| a.abs().max(b.abs())).collect())
    }

    /// Mean absolute value per channel.
    pub fn mean_abs(&self) -> Option<Vec<f32>> {
        let count = self.count.max(1) as f64;
        Some(self.channels.as_ref()?.sum_abs.iter().map(|s| (s / count) as f32).collect())
    }

    /// `XᵀX` over all tokens, `[features, features]` with both halves filled, if it was asked for and
    /// [`finish`](Self::finish) was called.
    pub fn gram(&self) -> Option<&[f32]> {
        self.full.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_of_a_small_matrix() {
        let x = [1.0_f32, -2.0, 3.0, 0.0, 4.0, -1.0];
        let mut site = SiteStatistics::new(3, Wants { channels: true, gram: true, ..Wants::default() });
        site.add(&x[..3]);
        site.add(&x[3..]);
        assert_eq!(site.finish(), None);
        assert_eq!(site.count(), 2);
        assert_eq!(site.absmax().unwrap(), [1.0, 4.0, 3.0]);
        assert_eq!(site.min().unwrap(), [0.0, -2.0, -1.0]);
        assert_eq!(site.mean_abs().unwrap(), [0.5, 3.0, 2.0]);
        // XᵀX by hand.
        assert_eq!(site.gram().unwrap(), [1.0, -2.0, 3.0, -2.0, 20.0, -10.0, 3.0, -10.0, 10.0]);
    }

    #[test]
    fn a_value_that_is_not_finite_is_noticed() {
        for (channels, precision) in [(true, Precision::F32), (false, Precision::F32), (false, Precision::Bf16)] {
            let wants = Wants { channels, gram: !channels, precision };
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut site = SiteStatistics::new(3, wants);
                site.add(&[0.0, 1.0, bad]);
                site.add(&[0.0, 1.0, 2.0]);
                assert_eq!(site.finish(), Some(2));
            }
        }
    }
}
