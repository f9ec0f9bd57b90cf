//! Shares of right answers: one sample (Wilson), two paired samples (McNemar, Tango), and what such a comparison could
//! have seen.

use super::{Interval, Z_80, Z_975};

/// Wilson's score interval for `successes` of `trials`, at 95 %. `None` without trials.
///
/// Unlike the textbook interval it keeps its coverage near 0 and 1 and for few items, and never leaves `[0, 1]`.
/// E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927.
#[must_use]
pub fn wilson(successes: u64, trials: u64) -> Option<Interval> {
    if trials == 0 || successes > trials {
        return None;
    }
    let n = trials as f64;
    let share = successes as f64 / n;
    let z2 = Z_975 * Z_975;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let arm = Z_975 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt() / (1.0 + z2 / n);
    // At 0 and n the ends are exactly 0 and 1; rounding must not say otherwise.
    let low = if successes == 0 { 0.0 } else { (centre - arm).max(0.0) };
    let high = if successes == trials { 1.0 } else { (centre + arm).min(1.0) };
    Some(Interval { estimate: share, low, high })
}

/// Outcomes of two raters of the same items, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discordance {
    /// Items that only the left side got right.
    pub left_only: u64,
    /// Items that only the right side got right.
    pub right_only: u64,
    /// All items.
    pub items: u64,
}

impl Discordance {
    /// Share of right answers on the left minus the share on the right.
    #[must_use]
    pub fn difference(&self) -> f64 {
        (self.left_only as f64 - self.right_only as f64) / self.items as f64
    }
}

/// McNemar's exact two-sided p-value: under the null hypothesis each discordant item falls on either side with chance
/// one half, so `p = min(1, 2 P(X <= min(b, c)))` with `X ~ Binomial(b + c, 1/2)`. 1 where nothing is discordant.
#[must_use]
pub fn mcnemar_exact(counts: Discordance) -> f64 {
    let discordant = counts.left_only + counts.right_only;
    let smaller = counts.left_only.min(counts.right_only);
    // ln C(n, k) - n ln 2 by recurrence: binomial coefficients overflow long before the number of questions does.
    let mut log_probability = -(discordant as f64) * std::f64::consts::LN_2;
    let mut tail = log_probability.exp();
    for k in 1..=smaller {
        log_probability += ((discordant - k + 1) as f64 / k as f64).ln();
        tail += log_probability.exp();
    }
    (2.0 * tail).min(1.0)
}

/// Tango's score interval for the difference of two paired shares (left minus right), at 95 %. `None` without items.
///
/// It inverts the score test whose value at zero is McNemar's, keeps its coverage for few discordant items, and has a
/// width above zero even where no item is discordant. T. Tango, "Equivalence test and confidence interval for the
/// difference in proportions for the paired-sample design", 1998.
#[must_use]
pub fn tango(counts: Discordance) -> Option<Interval> {
    if counts.items == 0 || counts.left_only + counts.right_only > counts.items {
        return None;
    }
    let estimate = counts.difference();
    // The statistic falls as the hypothesised difference grows; it is +z at the lower end and -z at the upper.
    let low = bisect(-1.0, estimate, |delta| tango_statistic(counts, delta) > Z_975);
    let high = bisect(estimate, 1.0, |delta| tango_statistic(counts, delta) > -Z_975);
    Some(Interval { estimate, low, high })
}

/// Tango's statistic for the hypothesis that the difference is `delta`: the observed difference against its standard
/// error under the restricted maximum-likelihood estimate of the discordant shares.
pub(super) fn tango_statistic(counts: Discordance, delta: f64) -> f64 {
    let (b, c, n) = (counts.left_only as f64, counts.right_only as f64, counts.items as f64);
    let numerator = b - c - n * delta;
    let linear = -b - c + (2.0 * n - b + c) * delta;
    let constant = -c * delta * (1.0 - delta);
    let share = ((linear * linear - 8.0 * n * constant).max(0.0).sqrt() - linear) / (4.0 * n);
    let variance = n * (2.0 * share + delta * (1.0 - delta));
    if variance > 0.0 { numerator / variance.sqrt() } else { numerator.signum() * f64::INFINITY }
}

/// The point of `[low, high]` where `above` turns from true to false, to the last few bits.
fn bisect(mut low: f64, mut high: f64, above: impl Fn(f64) -> bool) -> f64 {
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if above(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    0.5 * (low + high)
}

/// Smallest true difference of two paired shares that a two-sided test at 5 % would find with 80 % power, given the
/// share of discordant items that was seen: the root of `n δ² = (z₀.₉₇₅ √ψ + z₀.₈ √(ψ - δ²))²`.
///
/// Never below `6 / n`: with fewer than six discordant items, all on one side, the exact test cannot reach 5 %.
/// R. J. Connor, "Sample size for testing differences in proportions for the paired-sample design", 1987.
#[must_use]
pub fn detectable_difference(counts: Discordance) -> Option<f64> {
    if counts.items == 0 {
        return None;
    }
    let n = counts.items as f64;
    let discordant = (counts.left_only + counts.right_only) as f64 / n;
    let missed = |delta: f64| {
        let needed = Z_975 * discordant.sqrt() + Z_80 * (discordant - delta * delta).max(0.0).sqrt();
        delta * n.sqrt() < needed
    };
    let root = bisect(0.0, 1.0, missed);
    Some(root.max(6.0 / n).min(1.0))
}
