//! The studentized bootstrap over items, for estimates of the form `Σ sum / Σ weight`.
//!
//! Items (chunks of text, questions, means over seeds) are drawn with replacement as a whole, which keeps the
//! correlation of the tokens inside a chunk. In every replicate the error `estimate* - estimate` is divided by the
//! replicate's own standard error; the interval is `estimate ± c · standard error` with `c` the 95 % point of the
//! absolute studentized errors (the symmetric bootstrap-t interval; P. Hall, "On symmetric bootstrap confidence
//! intervals", 1988), and the p-value of "no difference" is the share of replicates whose absolute studentized error
//! reaches the observed one. Interval and p-value are thus one statement: the interval excludes zero exactly where
//! `p <= .05`.
//!
//! Why not the percentile interval or BCa: perplexity tables are made of few chunks. Simulated coverage of nominal 95 %
//! for 8 chunks of random length was 84 % for both, 95 % for this one (16 chunks: 90 %, 89 %, 95 %; 64 chunks: all
//! three 96 %); with 8 log-normal items 79 %, 82 % and 89 %.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use super::{Interval, SeedSpread, Z_80};

/// Below this many items the studentized errors are too wild to be quantiles of anything: no interval is given.
pub const MIN_ITEMS: usize = 5;

/// Which items every replicate draws. One set serves every row and metric with that many items: rows then differ by
/// their values alone, and the drawing is paid once.
#[derive(Debug, Clone)]
pub struct Resamples {
    items: usize,
    /// `replicates x items` indices, row-major.
    draws: Vec<u32>,
}

impl Resamples {
    /// Draws `replicates` resamples of `items` items from a ChaCha8 stream seeded with `seed`.
    #[must_use]
    pub fn new(items: usize, replicates: usize, seed: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut bytes = vec![0_u8; items * replicates * 4];
        generator.fill_bytes(&mut bytes);
        // Multiply-shift instead of rejection: its bias is at most items / 2^32.
        let index = |word: &[u8]| {
            let word = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            ((u64::from(word) * items as u64) >> 32) as u32
        };
        Self { items, draws: bytes.chunks_exact(4).map(index).collect() }
    }

    /// Number of replicates that resolves p-values for a family of `family` tests without making a table of long texts
    /// slow: 9,999 for up to 40 items, 1,999 for more than 200, and at least 100 for each test of the family, so that
    /// the smallest possible p-value stays below .01 after adjustment.
    #[must_use]
    pub fn replicates_for(items: usize, family: usize) -> usize {
        let by_cost = (400_000 / items.max(1)).clamp(2_000, 10_000);
        // A multiple of 1,000 less one: the 95 % point is then an order statistic.
        by_cost.max(100 * family).div_ceil(1000) * 1000 - 1
    }

    /// Items per resample.
    #[must_use]
    pub fn items(&self) -> usize {
        self.items
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        self.draws.chunks_exact(self.items.max(1))
    }
}

/// A ratio estimate with the bootstrap distribution of its studentized error.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// `Σ sum / Σ weight`.
    pub estimate: f64,
    /// Linearised standard error with `n - 1` degrees of freedom.
    pub standard_error: f64,
    /// Absolute studentized errors of the replicates, ascending; infinite where a replicate drew equal items only.
    errors: Vec<f64>,
    /// What seeds add to it, where there are several.
    seeds: Option<SeedSpread>,
}

impl Bootstrap {
    /// Resamples `Σ sums / Σ weights`. `weights` and `sums` are parallel, one entry per item.
    ///
    /// `None` where there are fewer than [`MIN_ITEMS`] items, the resamples were drawn for another number of items, a
    /// value is not finite, or a weight is not positive.
    #[must_use]
    pub fn ratio(weights: &[f64], sums: &[f64], resamples: &Resamples) -> Option<Self> {
        let usable = weights.len() == sums.len()
            && weights.len() >= MIN_ITEMS
            && weights.len() == resamples.items
            && weights.iter().all(|w| w.is_finite() && *w > 0.0)
            && sums.iter().all(|s| s.is_finite());
        if !usable {
            return None;
        }
        let (estimate, standard_error) = ratio_with_error(weights, sums);
        // Residuals of the full sample: their sum in a replicate is the replicate's error, free of cancellation.
        let moments = |(w, s): (&f64, &f64)| {
            let u = s - estimate * w;
            [*w, u, u * u, u * w, w * w]
        };
        let moments: Vec<[f64; 5]> = weights.iter().zip(sums).map(moments).collect();
        let mut errors: Vec<f64> = resamples.iter().map(|drawn| studentized_error(&moments, drawn).abs()).collect();
        errors.sort_by(f64::total_cmp);
        Some(Self { estimate, standard_error, errors, seeds: None })
    }

    /// The same of a row, or a difference, whose seeds are drawn as its items are.
    #[must_use]
    pub fn over_seeds(mut self, seeds: Option<SeedSpread>) -> Self {
        self.seeds = seeds;
        self
    }

    /// The arm of the interval that excludes zero exactly where `p <= k / (1 + replicates)`.
    fn arm(&self, k: usize) -> f64 {
        let replicates = self.errors.len();
        let over_items = match self.errors.get(replicates.saturating_sub(k)) {
            Some(error) if self.standard_error > 0.0 => error * self.standard_error,
            _ => 0.0,
        };
        let share = k as f64 / (1 + replicates) as f64;
        self.seeds.map_or(over_items, |seeds| over_items.hypot(seeds.arm(share)))
    }

    /// The multiple of the standard error that makes a 95 % interval; what 1.96 is for many items.
    #[must_use]
    pub fn critical_value(&self) -> f64 {
        let rank = ((self.errors.len() + 1) * 95).div_ceil(100).clamp(1, self.errors.len().max(1));
        self.errors.get(rank - 1).copied().unwrap_or(f64::INFINITY)
    }

    /// The 95 % interval; `None` where it would be infinite (nearly all items equal).
    #[must_use]
    pub fn interval(&self) -> Option<Interval> {
        let over_items = if self.standard_error == 0.0 { 0.0 } else { self.critical_value() * self.standard_error };
        let arm = self.seeds.map_or(over_items, |seeds| over_items.hypot(seeds.arm(0.05)));
        let ends = Interval { estimate: self.estimate, low: self.estimate - arm, high: self.estimate + arm };
        arm.is_finite().then_some(ends)
    }

    /// Two-sided p-value of the hypothesis that the quantity is zero, `(1 + #{|t*| >= |t|}) / (1 + replicates)`.
    #[must_use]
    pub fn p_value(&self) -> f64 {
        if self.estimate == 0.0 {
            return 1.0;
        }
        if self.seeds.is_some() {
            // The smallest share whose interval excludes zero; arms fall as it grows.
            let (mut low, mut high) = (1, 1 + self.errors.len());
            while low < high {
                let middle = usize::midpoint(low, high);
                if self.arm(middle) < self.estimate.abs() {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            return low as f64 / (1 + self.errors.len()) as f64;
        }
        let observed = (self.estimate / self.standard_error).abs();
        let below = self.errors.partition_point(|error| *error < observed);
        (1 + self.errors.len() - below) as f64 / (1 + self.errors.len()) as f64
    }

    /// What [`Bootstrap::p_value`] is where no replicate reaches the observed value: an upper bound, not an estimate.
    #[must_use]
    pub fn smallest_p_value(&self) -> f64 {
        1.0 / (1 + self.errors.len()) as f64
    }

    /// Smallest true difference from zero that this comparison would find with 80 % power at a two-sided 5 %:
    /// `(critical value + z₀.₈) · standard error`, 2.80 standard errors for many items. `None` where it is infinite.
    #[must_use]
    pub fn detectable_difference(&self) -> Option<f64> {
        let over_items = (self.critical_value() + Z_80) * self.standard_error;
        // Of one of two sides, hence 40 %.
        let over_seeds = self.seeds.map_or(0.0, |seeds| seeds.arm(0.05) + seeds.arm(0.4));
        let difference = over_items.hypot(over_seeds);
        difference.is_finite().then_some(difference)
    }
}

/// `Σ s / Σ w` and its linearised standard error `√(n/(n-1) Σ (s - r w)²) / Σ w`.
fn ratio_with_error(weights: &[f64], sums: &[f64]) -> (f64, f64) {
    let n = weights.len() as f64;
    let total: f64 = weights.iter().sum();
    let estimate = sums.iter().sum::<f64>() / total;
    let squares: f64 = weights.iter().zip(sums).map(|(w, s)| (s - estimate * w).powi(2)).sum();
    let error = (n / (n - 1.0) * squares).sqrt() / total;
    // Equal items leave nothing but rounding: call that zero, or the noise of the last bits would be studentized.
    let noise = f64::EPSILON * sums.iter().map(|s| s.abs()).sum::<f64>() / total;
    (estimate, if error <= noise { 0.0 } else { error })
}

/// Error of one replicate in units of its own standard error. `moments` holds, for each item with weight `w` and
/// residual `u` of the full sample, `[w, u, u², u w, w²]`.
fn studentized_error(moments: &[[f64; 5]], drawn: &[u32]) -> f64 {
    let n = drawn.len() as f64;
    let mut totals = [0.0; 5];
    for &index in drawn {
        let item = &moments[index as usize];
        totals[0] += item[0];
        totals[1] += item[1];
        totals[2] += item[2];
        totals[3] += item[3];
        totals[4] += item[4];
    }
    let [weight, residual, square, cross, weight_square] = totals;
    let error = residual / weight;
    // Σ (u - error w)²; zero up to rounding where the replicate drew one item n times.
    let spread = square - 2.0 * error * cross + error * error * weight_square;
    if error == 0.0 {
        0.0
    } else if spread <= 1e-12 * square {
        f64::INFINITY
    } else {
        error / ((n / (n - 1.0) * spread).sqrt() / weight)
    }
}
