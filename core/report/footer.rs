//! The lines above and under a table: what is equal in all rows, how it was measured, and how it was tested.

use super::analysis::Analysis;
use super::cells::{self, Intervals};
use super::compare::{Comparison, Method};
use super::input::{Labels, MetricKind};
use super::{format, labels, sheet, verdict};
use crate::printable;

/// Lines above the table: the script, and what is equal in every row.
pub(super) fn caption(analysis: &Analysis<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if !analysis.table.script.is_empty() {
        lines.push(analysis.table.script.clone());
    }
    let all: Vec<&Labels> = analysis.groups.iter().map(|group| &group.labels).collect();
    let mut equal: Vec<String> = Vec::new();
    for (key, value) in labels::split(&all).constant {
        equal.push(format!("{key}={}", labels::text(&value)));
    }
    for (name, value) in [
        ("compute dtype", cells::constant(analysis, |f| f.compute_dtype.clone())),
        ("engine", cells::constant(analysis, |f| f.engine.clone())),
    ] {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            equal.push(format!("{name} {value}"));
        }
    }
    if !equal.is_empty() {
        let all = if analysis.groups.len() > 1 { "all rows: " } else { "" };
        lines.push(format!("{all}{}", equal.join(", ")));
    }
    printed(lines)
}

/// Names in them come from anywhere.
fn printed(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().map(|line| printable::lines(&line).into_owned()).collect()
}

/// Lines under the table.
pub(super) fn footer(analysis: &Analysis<'_>, style: Intervals) -> Vec<String> {
    let mut lines = protocols(analysis);
    lines.extend(statistics(analysis, style));
    lines.extend(detectable(analysis));
    lines.extend(engines(analysis));
    lines.extend(bits(analysis));
    lines.extend(problems(analysis));
    lines.extend(analysis.table.remarks.iter().cloned());
    lines.extend(analysis.warnings.iter().map(|warning| format!("Warning: {warning}")));
    printed(lines)
}

/// One line per task and way of scoring it: protocol, items, what they stand for.
fn protocols(analysis: &Analysis<'_>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for (metric, key) in analysis.metrics.iter().enumerate().filter(|(_, key)| key.primary) {
        for cell in (0..analysis.groups.len()).filter_map(|group| analysis.cell(group, metric)) {
            if cell.items == 0 {
                continue;
            }
            let mut line = format!("{}: ", key.task);
            if !cell.protocol.is_empty() {
                line += &format!("{}; ", cell.protocol);
            }
            line += &format!("n = {}", format::plural(cell.items, "item"));
            if cell.weight != cell.items as f64 {
                let unit = if key.kind == MetricKind::MeanNats { "tokens" } else { "observations" };
                line += &format!(" with {} {unit}", format::count(cell.weight));
            }
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines
}

fn statistics(analysis: &Analysis<'_>, style: Intervals) -> Vec<String> {
    let (intervals, tests) = sheet::methods(analysis, style);
    let mut lines = Vec::new();
    let interval = |method: &Method| match method {
        Method::Wilson => "Wilson's for right / wrong items",
        _ => "studentized bootstrap over items elsewhere",
    };
    if !intervals.is_empty() {
        let named: Vec<&str> = intervals.iter().map(interval).collect();
        let what = match style {
            Intervals::Arm => "± is the longer arm of the 95 % interval over items",
            Intervals::Ends => "[ ] is the 95 % interval over items",
        };
        lines.push(format!("{what}: {}.", only(&named)));
    }
    let test = |method: &Method| match method {
        Method::McNemar => "McNemar's exact test (Tango's interval) for right / wrong items",
        _ => "studentized bootstrap of the item differences elsewhere",
    };
    if !tests.is_empty() {
        let named: Vec<&str> = tests.iter().map(test).collect();
        lines.push(format!("Differences are paired by item: {}.", only(&named)));
        lines.push(family_line(analysis));
        lines.extend(verdict::explained(analysis));
    }
    if analysis.metrics.iter().any(super::MetricKey::is_nll) {
        lines.push("ΔNLL and KL are in nats per token; ppl = exp(NLL).".to_owned());
    } else if analysis.metrics.iter().any(|key| key.name == "kl") {
        lines.push("KL is in nats per token.".to_owned());
    }
    lines.extend(undrawn(analysis));
    let repeated = (0..analysis.groups.len())
        .flat_map(|group| (0..analysis.metrics.len()).filter_map(move |metric| analysis.cell(group, metric)))
        .any(|cell| cell.per_seed.len() > 1);
    if repeated {
        lines.push(
            "Over seeds: mean, standard deviation and number of seeds. Where there are several, intervals and tests take the seeds as drawn \
             at random too, by Student's t over their means or paired differences."
                .to_owned(),
        );
    }
    lines
}

/// Rows whose values are the same with every seed: nothing that matters was drawn for them.
fn undrawn(analysis: &Analysis<'_>) -> Option<String> {
    let undrawn = (0..analysis.groups.len()).filter(|group| analysis.groups[*group].undrawn);
    let rows: Vec<String> = undrawn.map(|group| name(analysis, group)).collect();
    let of = crate::words::listed(&rows, 3);
    (!rows.is_empty()).then(|| format!("Nothing that matters was drawn for {of}: every seed gave the same values."))
}

/// A list of methods; "elsewhere" makes no sense where there is only one.
fn only(named: &[&str]) -> String {
    match named {
        [one] => one.trim_end_matches(" elsewhere").to_owned(),
        several => several.join(", "),
    }
}

/// How many tests share the 5 %.
fn family_line(analysis: &Analysis<'_>) -> String {
    let size = |metric: usize| {
        let tested = |c: &&Comparison| c.metric == metric && c.outcome.as_ref().is_ok_and(|p| p.p_adjusted.is_some());
        analysis.family().iter().filter(tested).count()
    };
    let sizes: Vec<usize> = (0..analysis.metrics.len()).map(size).filter(|size| *size > 0).collect();
    let (low, high) = (sizes.iter().min().copied().unwrap_or(0), sizes.iter().max().copied().unwrap_or(0));
    let number = if low == high { high.to_string() } else { format!("{low} to {high}") };
    let plural = if high == 1 { "" } else { "s" };
    let what = if analysis.table.contrasts.is_empty() {
        format!("comparison{plural} of each metric with the baseline")
    } else {
        format!("declared contrast{plural} of each metric")
    };
    format!("p is adjusted by Holm over the {number} {what}; * marks p ≤ 0.05.")
}

/// Per metric, the smallest difference that the comparisons could have seen.
fn detectable(analysis: &Analysis<'_>) -> Option<String> {
    let mut parts = Vec::new();
    for (metric, key) in analysis.metrics.iter().enumerate() {
        let compared = analysis.family().iter().filter(|c| c.metric == metric);
        let mut values: Vec<f64> =
            compared.filter_map(|c| c.outcome.as_ref().ok()?.detectable).map(|d| d * cells::scale(key)).collect();
        values.sort_by(f64::total_cmp);
        let (Some(low), Some(high)) = (values.first(), values.last()) else { continue };
        let unit = cells::unit(key);
        let (low, high) = (two_digits(*low), two_digits(*high));
        let span = if low == high { low } else { format!("{low} to {high}") };
        parts.push(format!("{} {} {span}{unit}", key.task, cells::difference_header(key)));
    }
    (!parts.is_empty()).then(|| {
        format!("Smallest detectable difference (80 % power, two-sided 5 %, before adjustment): {}.", parts.join("; "))
    })
}

fn two_digits(value: f64) -> String {
    let decimals = format::decimals_for(value);
    format!("{value:.decimals$}")
}

/// What the two columns of bits count, where there are two.
fn bits(analysis: &Analysis<'_>) -> Option<String> {
    let both = analysis.table.rows.iter().any(|row| row.model.quantized_embeddings);
    both.then(|| {
        "bits/weight counts the linears of the decoder blocks, bits/parameter everything that is stored, lm_head and embeddings too."
            .to_owned()
    })
}

/// What the words in the engine column promise.
fn engines(analysis: &Analysis<'_>) -> Vec<String> {
    let has = |name: &str| analysis.table.rows.iter().any(|row| row.model.engine.as_deref() == Some(name));
    let mut lines = Vec::new();
    if has("exact") {
        lines.push("exact: the model as stored, nothing was quantized on the way.".to_owned());
    }
    if has(cells::FAKE_QUANTIZED) {
        lines.push(
            "fake (fake-quantized): weights and activations lie on their grid, the products are computed in the compute dtype; no integer kernel ran."
                .to_owned(),
        );
    }
    if analysis.table.rows.iter().any(|row| row.stale_engine) {
        lines.push("† computed by an older engine and accepted as it is.".to_owned());
    }
    lines
}

/// Rows that failed although they show values, cells that cannot be used, comparisons that cannot be paired.
fn problems(analysis: &Analysis<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for (index, group) in analysis.groups.iter().enumerate() {
        let shows_values = (0..analysis.metrics.len()).any(|metric| analysis.cell(index, metric).is_some());
        if shows_values {
            lines.extend(group.failures.iter().map(|message| format!("{}: failed: {message}", name(analysis, index))));
        }
        for (metric, key) in analysis.metrics.iter().enumerate() {
            if let Some(Err(reason)) = analysis.cell(index, metric).map(|cell| &cell.estimate) {
                lines.push(format!("{}, {} {}: {reason}", name(analysis, index), key.task, key.name));
            }
        }
    }
    for comparison in analysis.against_baseline.iter().chain(&analysis.contrasts) {
        let usable = |group: usize| analysis.cell(group, comparison.metric).is_some_and(|cell| cell.estimate.is_ok());
        if let (Err(reason), true) =
            (&comparison.outcome, usable(comparison.pair.left) && usable(comparison.pair.right))
        {
            let key = &analysis.metrics[comparison.metric];
            let (left, right) = (name(analysis, comparison.pair.left), name(analysis, comparison.pair.right));
            lines.push(format!("{left} against {right}, {} {}: unpaired, {reason}", key.task, key.name));
        }
    }
    lines
}

/// A row in one line, for messages about it.
pub(super) fn name(analysis: &Analysis<'_>, group: usize) -> String {
    let labels = &analysis.groups[group].labels;
    match labels.is_empty() {
        true if analysis.baseline == Some(group) => "baseline".to_owned(),
        true => format!("row {}", group + 1),
        false => labels::line(labels),
    }
}
