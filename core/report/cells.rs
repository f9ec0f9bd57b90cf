//! What stands in a cell: names, units and numbers of one metric.

use super::aggregate::MetricKey;
use super::analysis::{Analysis, Cell};
use super::compare::Comparison;
use super::format;
use super::input::{MetricKind, ModelFacts};
use super::stats::Interval;

/// How a cell should strike the eye, beside what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Tone {
    #[default]
    Plain,
    /// Significantly better than what it is compared with.
    Better,
    /// Significantly worse.
    Worse,
}

/// How an interval is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intervals {
    /// `±` and the longer arm, for outputs that are short of room.
    Arm,
    /// Both ends in brackets.
    Ends,
}

impl Intervals {
    /// A value with its interval, both already on the scale on which they are shown.
    fn write(self, value: f64, interval: Option<Interval>, signed: bool) -> String {
        match self {
            Self::Arm => format::plus_minus(value, interval.map(|i| i.half_width()), signed),
            Self::Ends => format::with_ends(value, interval.map(|i| (i.low, i.high)), signed),
        }
    }
}

/// An interval with every number replaced by what is shown for it.
fn mapped(interval: Interval, show: impl Fn(f64) -> f64) -> Interval {
    Interval { estimate: show(interval.estimate), low: show(interval.low), high: show(interval.high) }
}

/// Name of a metric with its unit.
pub(super) fn metric_header(key: &MetricKey) -> String {
    match (key.name.as_str(), key.kind) {
        _ if key.is_nll() => "ppl".to_owned(),
        ("kl", _) => "KL".to_owned(),
        ("top1", MetricKind::Rate) => "top-1 %".to_owned(),
        (name, MetricKind::Rate) => format!("{name} %"),
        (name, _) => name.to_owned(),
    }
}

/// Name of the difference of a metric with its unit.
pub(super) fn difference_header(key: &MetricKey) -> String {
    match key.name.as_str() {
        _ if key.is_nll() => "ΔNLL".to_owned(),
        "kl" => "ΔKL".to_owned(),
        name => format!("Δ {name}"),
    }
}

/// Factor from the stored value to the printed one: shares are printed in percent.
pub(super) fn scale(key: &MetricKey) -> f64 {
    if key.kind == MetricKind::Rate { 100.0 } else { 1.0 }
}

/// The unit of a shown difference, with a space before it.
pub(super) fn unit(key: &MetricKey) -> &'static str {
    match key.kind {
        MetricKind::MeanNats => " nats",
        MetricKind::Rate => " points",
        MetricKind::Mean => "",
    }
}

/// A stored value on the scale on which estimates are shown: perplexity, percent, or as it is.
pub(super) fn shown(key: &MetricKey, value: f64) -> f64 {
    if key.is_nll() { value.exp() } else { scale(key) * value }
}

/// The estimate with its interval.
pub(super) fn estimate_text(cell: &Cell, key: &MetricKey, intervals: Intervals) -> String {
    let Ok(estimate) = &cell.estimate else { return "unusable".to_owned() };
    let interval = cell.interval.map(|interval| mapped(interval, |value| shown(key, value)));
    intervals.write(shown(key, *estimate), interval, false)
}

/// Mean and standard deviation over the seeds, and their number.
pub(super) fn seeds_text(cell: &Cell, key: &MetricKey) -> Option<String> {
    let values: Vec<f64> = cell.per_seed.iter().map(|value| shown(key, *value)).collect();
    let (mean, sd) = mean_and_sd(&values)?;
    Some(format!("{} ({})", format::with_deviation(mean, sd), values.len()))
}

/// Mean and sample standard deviation; `None` for fewer than two values.
pub(super) fn mean_and_sd(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, (squares / (n - 1.0)).sqrt()))
}

/// The paired difference with its interval.
pub(super) fn difference_text(comparison: &Comparison, key: &MetricKey, intervals: Intervals) -> (String, Tone) {
    let Ok(paired) = &comparison.outcome else { return ("unpaired".to_owned(), Tone::Plain) };
    let interval = paired.interval.map(|interval| mapped(interval, |value| value * scale(key)));
    (intervals.write(paired.difference * scale(key), interval, true), tone(comparison, key))
}

/// Whether a significant difference is good news.
pub(super) fn tone(comparison: &Comparison, key: &MetricKey) -> Tone {
    match (&comparison.outcome, key.higher_is_better) {
        (Ok(paired), Some(higher)) if paired.is_significant() => {
            if (paired.difference > 0.0) == higher {
                Tone::Better
            } else {
                Tone::Worse
            }
        }
        _ => Tone::Plain,
    }
}

/// The adjusted p-value; a star where it is at most .05.
pub(super) fn p_text(comparison: &Comparison) -> Option<(String, Tone)> {
    let paired = comparison.outcome.as_ref().ok()?;
    let star = if paired.is_significant() { " *" } else { "" };
    let p = paired.p_adjusted?;
    let bound = if paired.p_is_bound && (0.001..1.0).contains(&p) { "≤" } else { "" };
    Some((format!("{bound}{}{star}", format::p_value(p)), Tone::Plain))
}

/// Engine of rows whose quantization is simulated in floating point.
pub(super) const FAKE_QUANTIZED: &str = "fake-quantized";

/// Facts of a group's first row that has any.
pub(super) fn facts<'a>(analysis: &'a Analysis<'_>, group: usize) -> Option<&'a ModelFacts> {
    let rows = analysis.groups[group].rows.iter().map(|row| &analysis.table.rows[*row].model);
    rows.into_iter().find(|facts| **facts != ModelFacts::default())
}

/// A model fact that is the same in every line that has it; `None` where lines differ. `Some("")`: nobody has it.
pub(super) fn constant(analysis: &Analysis<'_>, fact: impl Fn(&ModelFacts) -> Option<String>) -> Option<String> {
    let mut values: Vec<String> = Vec::new();
    for value in analysis.table.rows.iter().filter_map(|row| fact(&row.model)) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    match values.len() {
        0 => Some(String::new()),
        1 => values.pop(),
        _ => None,
    }
}
