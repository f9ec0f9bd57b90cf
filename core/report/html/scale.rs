//! Axes: where a value lies on one, and which values are written beside it.

/// Where a value lies on an axis.
pub(super) struct Scale {
    low: f64,
    high: f64,
    pub(super) logarithmic: bool,
    pub(super) ticks: Vec<f64>,
}

impl Scale {
    fn ends(values: impl Iterator<Item = f64>) -> (f64, f64) {
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for value in values.filter(|value| value.is_finite()) {
            (low, high) = (low.min(value), high.max(value));
        }
        if low <= high { (low, high) } else { (0.0, 1.0) }
    }

    /// Around some values, and zero if that is wanted, with a little room.
    pub(super) fn linear(values: impl Iterator<Item = f64>, with_zero: bool) -> Self {
        let (mut low, mut high) = Self::ends(values);
        if with_zero {
            (low, high) = (low.min(0.0), high.max(0.0));
        }
        let span = if high > low { high - low } else { high.abs().max(1e-3) };
        Self::between(low - 0.06 * span, high + 0.06 * span, 0.0)
    }

    /// Around whole numbers, without any room.
    pub(super) fn whole(low: f64, high: f64) -> Self {
        if high > low { Self::between(low, high, 1.0) } else { Self::between(low - 1.0, high + 1.0, 1.0) }
    }

    fn between(low: f64, high: f64, least_step: f64) -> Self {
        let step = nice_step((high - low) / 4.0).max(least_step);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        let ticks = (first..=last).map(|tick| tick as f64 * step).collect();
        Self { low, high, logarithmic: false, ticks }
    }

    /// The same for positive values over several powers of ten.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = Self::ends(values);
        let (low, high) = (low.ln(), high.ln());
        let pad = 0.06 * (high - low);
        let (low, high) = (low - pad, high + pad);
        let decades = (high - low) / std::f64::consts::LN_10;
        let steps: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
        let stride = (decades / 4.0).ceil().max(1.0) as i32;
        let exponents = (low / std::f64::consts::LN_10).floor() as i32..=(high / std::f64::consts::LN_10).ceil() as i32;
        let all = exponents.step_by(stride as usize).flat_map(|e| steps.iter().map(move |s| s * 10f64.powi(e)));
        let ticks = all.filter(|tick| (low..=high).contains(&tick.ln())).collect();
        Self { low, high, logarithmic: true, ticks }
    }

    /// Percent of the axis.
    pub(super) fn position(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.ln() } else { value };
        (100.0 * (value - self.low) / (self.high - self.low)).clamp(0.0, 100.0)
    }

    /// A tick as text.
    pub(super) fn tick_text(&self, tick: f64) -> String {
        let step = if self.logarithmic { tick } else { nice_step((self.high - self.low) / 4.0) };
        let decimals = (-step.log10() + 1e-9).ceil().clamp(0.0, 8.0) as usize;
        let text = format!("{tick:.decimals$}");
        // A rounded zero must not carry a sign.
        if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".to_owned() } else { text }
    }
}

/// The smallest of 1, 2, 5 times a power of ten that is at least `step`.
fn nice_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = [1.0, 2.0, 5.0].into_iter().find(|factor| factor * power >= step * 0.999).unwrap_or(10.0);
    factor * power
}
