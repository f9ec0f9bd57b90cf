//! Learning rates over time.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The shape of a schedule after its warm-up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleKind {
    /// The peak, held.
    Constant,
    /// A straight line down to zero.
    Linear,
    /// Half a cosine wave down to zero.
    #[default]
    Cosine,
}

/// Which part of the peak learning rate a step gets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The shape.
    pub kind: ScheduleKind,
    /// Steps in which the rate rises in a straight line: step `i` of them gets `(i + 1) / (warmup_steps + 1)`, so that no
    /// step is wasted on a rate of zero.
    pub warmup_steps: u64,
    /// All steps, warm-up included.
    pub total_steps: u64,
}

impl Schedule {
    /// A schedule whose warm-up takes a share of all steps, rounded up.
    pub fn new(kind: ScheduleKind, warmup_ratio: f64, total_steps: u64) -> Self {
        Self { kind, warmup_steps: (warmup_ratio * total_steps as f64).ceil() as u64, total_steps }
    }

    /// The factor of step `step`, counted from 0.
    pub fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let progress = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::Linear => 1.0 - progress,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factors(kind: ScheduleKind, warmup_ratio: f64, total: u64) -> Vec<f64> {
        let schedule = Schedule::new(kind, warmup_ratio, total);
        (0..total).map(|step| schedule.factor(step)).collect()
    }

    #[test]
    fn schedules_rise_and_fall_as_written() {
        assert_eq!(factors(ScheduleKind::Constant, 0.5, 6), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]);
        assert_eq!(factors(ScheduleKind::Linear, 0.0, 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(
            factors(ScheduleKind::Linear, 0.4, 6),
            [1.0 / 4.0, 2.0 / 4.0, 3.0 / 4.0, 1.0, 1.0 - 1.0 / 3.0, 1.0 - 2.0 / 3.0]
        );
        let cosine = factors(ScheduleKind::Cosine, 0.0, 4);
        let half = std::f64::consts::FRAC_1_SQRT_2 / 2.0;
        for (found, expected) in cosine.iter().zip([1.0, 0.5 + half, 0.5, 0.5 - half]) {
            assert!((found - expected).abs() < 1e-12);
        }
    }

    #[test]
    fn a_warm_up_as_long_as_training_divides_by_nothing() {
        assert_eq!(factors(ScheduleKind::Cosine, 1.0, 2), [1.0 / 3.0, 2.0 / 3.0]);
        assert_eq!(Schedule::new(ScheduleKind::Linear, 0.0, 2).factor(9), 0.0);
    }
}
