//! Estimates, intervals and paired tests for tables whose rows were scored on the same items.
//!
//! Everything works on plain slices, knows nothing of tables and draws from a seeded generator, so that a report is a
//! function of its input. Which method serves which metric:
//!
//! | metric | interval of an estimate | interval of a paired difference | test |
//! |---|---|---|---|
//! | right / wrong items | [Wilson](rates::wilson) | [Tango's score interval](rates::tango) | [McNemar, exact](rates::mcnemar_exact) |
//! | weighted items (chunks of text), scores, means over seeds | [studentized bootstrap](bootstrap) over items | the same on the item differences | the same |
//!
//! Rows with several seeds have [what the seeds differ by](SeedSpread) in intervals and tests as well.
//!
//! p-values of one family are adjusted by [Holm](holm).

pub mod bootstrap;
mod family;
pub mod rates;
pub mod seeds;

pub use bootstrap::{Bootstrap, Resamples};
pub use family::holm;
pub use seeds::SeedSpread;

/// 97.5 % point of the standard normal distribution: two-sided tests and intervals at 95 %.
pub const Z_975: f64 = 1.959_963_984_540_054;
/// 80 % point of the standard normal distribution: the power that a detectable difference refers to.
pub const Z_80: f64 = 0.841_621_233_572_914_3;

/// An estimate with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Point estimate.
    pub estimate: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

impl Interval {
    /// The longer of the two arms, for outputs that have room for one number only.
    #[must_use]
    pub fn half_width(&self) -> f64 {
        (self.estimate - self.low).max(self.high - self.estimate)
    }

    /// The interval clipped to the values that the quantity can take.
    #[must_use]
    pub fn clamped(self, low: f64, high: f64) -> Self {
        Self { estimate: self.estimate, low: self.low.max(low), high: self.high.min(high) }
    }
}

#[cfg(test)]
mod tests;
