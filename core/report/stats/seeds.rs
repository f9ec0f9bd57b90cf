//! Seeds as drawn at random, beside the items.
//!
//! A row that was repeated with other seeds stands for every seed that could have been drawn, as its items stand for all texts. How far
//! its mean lies from that of all seeds, the items cannot say: it shows between the seeds alone, by Student's t over their means. The two
//! uncertainties are of different causes, and their arms add by squares (G. Y. Zou & A. Donner, "Construction of confidence limits about
//! effect measures", 2008: the margins of independent parts are recovered from their own intervals). The noise of single items in single
//! seeds is in both, so that the interval is rather too wide than too narrow; as H. H. Clark's min F' of 1973, which adds the
//! variances, is.

/// How far the mean over some seeds may lie from that over all.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SeedSpread {
    standard_error: f64,
    /// Degrees of freedom of Student's t.
    degrees: usize,
}

impl SeedSpread {
    /// Of one value per seed: estimates, or differences of two rows with the same seed. `None` for fewer than two.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let n = values.len() as f64;
        let degrees = values.len().checked_sub(1).filter(|degrees| *degrees > 0)?;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        Some(Self { standard_error: (squares / degrees as f64 / n).sqrt(), degrees })
    }

    /// Of a difference of two rows whose seeds have nothing to do with each other: the variances add. With the degrees of freedom of
    /// the row that has fewer, of which Welch's are never less.
    #[must_use]
    pub fn beside(left: Option<Self>, right: Option<Self>) -> Option<Self> {
        match (left, right) {
            (Some(left), Some(right)) => Some(Self {
                standard_error: left.standard_error.hypot(right.standard_error),
                degrees: left.degrees.min(right.degrees),
            }),
            (one, other) => one.or(other),
        }
    }

    /// The arm of the interval that leaves out a share `p` at both ends together.
    #[must_use]
    pub fn arm(&self, p: f64) -> f64 {
        // With equal seeds there is none, however far out Student's t is asked for.
        if self.standard_error == 0.0 { 0.0 } else { critical(p, self.degrees) * self.standard_error }
    }
}

/// `P(|T| <= t)` for Student's t with whole degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4).
#[must_use]
pub fn within(t: f64, degrees: usize) -> f64 {
    let (sine, cosine) = (t / (degrees as f64).sqrt()).atan().sin_cos();
    let odd = degrees % 2 == 1;
    let (mut term, mut sum) = if odd { (cosine, cosine) } else { (1.0, 1.0) };
    let first = if odd { 3 } else { 2 };
    for k in (first..degrees.saturating_sub(1)).step_by(2) {
        let k = k as f64;
        term *= cosine * cosine * (k - 1.0) / k;
        sum += term;
    }
    if !odd {
        return sine * sum;
    }
    let rest = if degrees > 1 { sine * sum } else { 0.0 };
    std::f64::consts::FRAC_2_PI * ((t / (degrees as f64).sqrt()).atan() + rest)
}

/// What `|T|` exceeds with chance `p`.
#[must_use]
pub fn critical(p: f64, degrees: usize) -> f64 {
    if p >= 1.0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while 1.0 - within(high, degrees) > p && high < 1e12 {
        (low, high) = (high, 2.0 * high);
    }
    for _ in 0..64 {
        let middle = 0.5 * (low + high);
        if 1.0 - within(middle, degrees) > p {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}
