//! Dot plots with error bars: one strip per row, drawn in percent of its width so that the page may be of any width.

use unicode_width::UnicodeWidthStr;

use super::super::aggregate::MetricKey;
use super::super::analysis::Analysis;
use super::super::cells::{self, Intervals, Tone};
use super::super::input::MetricKind;
use super::super::{Comparison, Paired, footer, labels, sheet};
use super::{escape, number, scale::Scale};

/// One value of a plot, on the scale on which it is shown.
struct Dot {
    name: String,
    /// Value and ends of its interval; `None`: nothing to draw.
    value: Option<(f64, f64, f64)>,
    text: String,
    class: &'static str,
}

/// All figures: the tested differences first, then the estimates of every metric.
pub(super) fn plots(analysis: &Analysis<'_>) -> String {
    let mut out = String::new();
    for (metric, key) in analysis.metrics.iter().enumerate() {
        if key.is_tested() {
            let family: Vec<&Comparison> = analysis.family().iter().filter(|c| c.metric == metric).collect();
            if !family.is_empty() {
                out += &differences(analysis, key, &family);
            }
        }
    }
    for (metric, key) in analysis.metrics.iter().enumerate() {
        out += &estimates(analysis, metric, key);
    }
    out
}

fn differences(analysis: &Analysis<'_>, key: &MetricKey, family: &[&Comparison]) -> String {
    let declared = !analysis.table.contrasts.is_empty();
    let dot = |comparison: &&Comparison| {
        let paired = comparison.outcome.as_ref().ok();
        let value = paired.map(|p| {
            let ends = p.interval.map_or((p.difference, p.difference), |i| (i.low, i.high));
            let scale = cells::scale(key);
            (p.difference * scale, ends.0 * scale, ends.1 * scale)
        });
        let (text, tone) = cells::difference_text(comparison, key, Intervals::Ends);
        let sure = paired.is_some_and(Paired::is_significant);
        let class = match tone {
            Tone::Better => "up",
            Tone::Worse => "down",
            Tone::Plain => {
                if sure {
                    "sure"
                } else {
                    ""
                }
            }
        };
        let name = if declared { contrast_row(analysis, comparison) } else { row_name(analysis, comparison.pair.left) };
        Dot { name, value, text, class }
    };
    let dots: Vec<Dot> = family.iter().map(dot).collect();
    let unit = match key.kind {
        MetricKind::MeanNats => ", nats per token",
        MetricKind::Rate => ", points",
        MetricKind::Mean => "",
    };
    let against = if declared { "declared contrasts" } else { "against the baseline" };
    let better = match key.higher_is_better {
        Some(true) => "; right of zero is better",
        Some(false) => "; left of zero is better",
        None => "",
    };
    let title = format!("{} {}", key.task, cells::difference_header(key));
    let subtitle = format!("{against}{unit}{better}; filled: p ≤ 0.05 after adjustment");
    figure(&title, &subtitle, &dots, Scale::linear(values(&dots), true), Some(0.0))
}

fn estimates(analysis: &Analysis<'_>, metric: usize, key: &MetricKey) -> String {
    let dot = |group: usize| {
        let cell = analysis.cell(group, metric);
        let value =
            cell.and_then(|cell| cell.estimate.as_ref().ok().map(|value| (cell, *value))).map(|(cell, value)| {
                let ends = cell.interval.map_or((value, value), |i| (i.low, i.high));
                (cells::shown(key, value), cells::shown(key, ends.0), cells::shown(key, ends.1))
            });
        let text = match cell {
            Some(cell) => cells::estimate_text(cell, key, Intervals::Ends),
            None => sheet::reason(&analysis.groups[group]).split(':').next().unwrap_or_default().to_owned(),
        };
        let class = if analysis.baseline == Some(group) { "base" } else { "sure" };
        Dot { name: row_name(analysis, group), value, text, class }
    };
    let dots: Vec<Dot> = (0..analysis.groups.len()).map(dot).collect();
    let scale = fitting(&dots);
    let logarithmic = if scale.logarithmic { ", logarithmic axis" } else { "" };
    let baseline = analysis.baseline.and_then(|group| dots[group].value).map(|value| value.0);
    let line = if baseline.is_some() { ", dashed: baseline" } else { "" };
    let title = format!("{} {}", key.task, cells::metric_header(key));
    figure(&title, &format!("95 % interval over items{line}{logarithmic}"), &dots, scale, baseline)
}

/// Names of the labels that tell rows apart.
fn varying(analysis: &Analysis<'_>) -> Vec<String> {
    labels::split(&analysis.groups.iter().map(|group| &group.labels).collect::<Vec<_>>()).columns
}

/// The labels of a row that tell it apart, in short.
fn row_name(analysis: &Analysis<'_>, group: usize) -> String {
    let values = varying(analysis)
        .iter()
        .map(|key| labels::text(labels::get(&analysis.groups[group].labels, key)))
        .filter(|text| !text.is_empty())
        .collect::<Vec<_>>();
    if values.is_empty() { footer::name(analysis, group) } else { values.join(" · ") }
}

fn contrast_row(analysis: &Analysis<'_>, comparison: &Comparison) -> String {
    let declared = comparison.pair.contrast.and_then(|index| analysis.table.contrasts.get(index));
    let columns = varying(analysis);
    let shared = sheet::shared_labels(analysis, &comparison.pair);
    let shared: Vec<String> =
        shared.iter().filter(|(key, _)| columns.contains(key)).map(|(_, value)| labels::text(value)).collect();
    let name = declared.map(sheet::contrast_name).unwrap_or_default();
    if shared.is_empty() { name } else { format!("{name} ({})", shared.join(" · ")) }
}

/// Linear, or logarithmic where the values differ by more than twentyfold.
fn fitting(dots: &[Dot]) -> Scale {
    let centres: Vec<f64> = dots.iter().filter_map(|dot| dot.value).map(|value| value.0).collect();
    let lows = dots.iter().filter_map(|dot| dot.value).map(|value| value.1);
    let (least, most) =
        (centres.iter().copied().fold(f64::INFINITY, f64::min), centres.iter().copied().fold(0.0, f64::max));
    if lows.fold(f64::INFINITY, f64::min) > 0.0 && most / least > 20.0 && most.is_finite() {
        return Scale::logarithmic(values(dots));
    }
    Scale::linear(values(dots), false)
}

/// Values and ends of intervals.
fn values(dots: &[Dot]) -> impl Iterator<Item = f64> {
    dots.iter().filter_map(|dot| dot.value).flat_map(|(value, low, high)| [value, low, high])
}

fn figure(title: &str, subtitle: &str, dots: &[Dot], scale: Scale, reference: Option<f64>) -> String {
    let name = dots.iter().map(|dot| dot.name.width() + 1).max().unwrap_or(1);
    let value = dots.iter().map(|dot| value_width(&dot.text)).fold(1.0, f64::max);
    let mut out = format!(
        "<figure class=\"card\" style=\"--name: {name}ch; --value: {value:.1}ch\">\n\
         <figcaption>{}<small>{}</small></figcaption>\n",
        escape(title),
        escape(subtitle)
    );
    let mut ground = String::new();
    for tick in &scale.ticks {
        ground += &vertical(scale.position(*tick), "grid");
    }
    if let Some(value) = reference {
        ground += &vertical(scale.position(value), "zero");
    }
    for dot in dots {
        out += &format!(
            "<div class=\"strip\"><div class=\"name\">{}</div><div class=\"draw\"><svg role=\"img\" aria-label=\"{}\">{ground}{}</svg></div><div class=\"value\">{}</div></div>\n",
            escape(&dot.name),
            escape(&format!("{}: {}", dot.name, dot.text)),
            marks(dot, &scale),
            super::with_ends(&dot.text),
        );
    }
    out += "<div class=\"strip axis\"><div class=\"name\"></div><div class=\"draw\"><svg aria-hidden=\"true\">";
    for tick in &scale.ticks {
        out += &format!(
            "<text x=\"{:.2}%\" y=\"13\" text-anchor=\"middle\">{}</text>",
            scale.position(*tick),
            number(&scale.tick_text(*tick))
        );
    }
    out + "</svg></div><div class=\"value\"></div></div>\n</figure>\n"
}

/// Width of a value and its interval in digits; the interval is set in smaller type.
fn value_width(text: &str) -> f64 {
    let (value, ends) = text.split_once(" [").unwrap_or((text, ""));
    value.width() as f64 + 0.84 * (ends.width() as f64 + 2.0)
}

fn vertical(x: f64, class: &str) -> String {
    format!("<line class=\"{class}\" x1=\"{x:.2}%\" x2=\"{x:.2}%\" y1=\"0\" y2=\"100%\"/>")
}

/// The interval as a bar with caps, the estimate as a dot.
fn marks(dot: &Dot, scale: &Scale) -> String {
    let Some((value, low, high)) = dot.value.filter(|(value, _, _)| value.is_finite()) else { return String::new() };
    let class = dot.class;
    let (x, left, right) = (scale.position(value), scale.position(low), scale.position(high));
    let mut out = String::new();
    if right > left {
        out += &format!("<line class=\"bar {class}\" x1=\"{left:.2}%\" x2=\"{right:.2}%\" y1=\"50%\" y2=\"50%\"/>");
        // Caps are drawn as short lines around the middle of a strip of any height.
        for end in [left, right] {
            out += &format!(
                "<svg x=\"{end:.2}%\" y=\"50%\" overflow=\"visible\"><line class=\"bar {class}\" x1=\"0\" x2=\"0\" y1=\"-4\" y2=\"4\"/></svg>"
            );
        }
    }
    out += &format!("<circle class=\"mark {class}\" cx=\"{x:.2}%\" cy=\"50%\" r=\"4.5\"/>");
    out
}
