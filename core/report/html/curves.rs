//! Curves of the nodes behind the rows: one panel for each metric of a method, the nodes in it one over the other.

use std::collections::BTreeMap;

use super::super::curve::short;
use super::super::input::NodeCurve;
use super::{escape, number, scale::Scale};

/// Panels, and lines of a panel, that are drawn; what is left out is said.
const PANELS: usize = 12;
const LINES: usize = 24;

/// The size of a panel, and the room for its lines in it.
const SIZE: (f64, f64) = (640.0, 270.0);
const LEFT: f64 = 78.0;
const TOP: f64 = 8.0;
const INNER: (f64, f64) = (SIZE.0 - LEFT - 14.0, SIZE.1 - TOP - 44.0);

/// Colours of lines; further ones are dashed, in as many ways.
const COLOURS: usize = 8;
const DASHES: usize = 3;

/// A metric's numbers by step.
type Values = BTreeMap<u64, f64>;

/// All panels; empty where no node reported anything.
pub(super) fn panels<'a>(curves: &'a [NodeCurve]) -> String {
    let of = |node: &'a NodeCurve| node.curve.metrics().map(|(name, _)| (name, node.method.as_str()));
    let mut all: Vec<(&str, &str)> = curves.iter().flat_map(of).collect();
    all.sort_by_key(|(name, method)| (*name != "loss", *name, *method));
    all.dedup();
    let several = all.iter().any(|(_, method)| *method != all[0].1);
    let mut out: String = all.iter().take(PANELS).map(|(name, method)| panel(name, method, several, curves)).collect();
    if all.len() > PANELS {
        out += &format!("<p class=\"faint\">{} further metrics are not drawn</p>\n", all.len() - PANELS);
    }
    out
}

fn panel(metric: &str, method: &str, several: bool, curves: &[NodeCurve]) -> String {
    // A node has the same line in every panel.
    let lines: Vec<(usize, &str, &Values)> = curves
        .iter()
        .enumerate()
        .filter(|(_, node)| node.method == method)
        .filter_map(|(index, node)| {
            let (_, values) = node.curve.metrics().find(|(name, _)| *name == metric)?;
            Some((index, node.name.as_str(), values))
        })
        .collect();
    let drawn = &lines[..lines.len().min(LINES)];
    let (across, up) = (steps(drawn), fitting(drawn));
    let mut notes = Vec::new();
    if up.logarithmic {
        notes.push("logarithmic axis".to_owned());
    }
    if lines.len() > drawn.len() {
        notes.push(format!("{} further nodes are not drawn", lines.len() - drawn.len()));
    }
    let odd: usize =
        drawn.iter().map(|(_, _, values)| values.values().filter(|value| !drawable(**value)).count()).sum();
    if odd > 0 {
        notes.push(format!("gaps where {odd} numbers are not finite"));
    }
    let title = if several { escape(&format!("{metric} of {method}")) } else { escape(metric) };
    let mut out = format!("<figure class=\"card curve\">\n<figcaption>{title}");
    if !notes.is_empty() {
        out += &format!("<small>{}</small>", escape(&notes.join("; ")));
    }
    out += &format!(
        "</figcaption>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{title} by step\">",
        SIZE.0, SIZE.1
    );
    axes(&mut out, &across, &up, metric);
    for (index, name, values) in drawn {
        out += &line(*index, name, values, &across, &up);
    }
    out += "</svg>\n<div class=\"legend\">";
    for (index, name, _) in drawn {
        out += &format!(
            "<span class=\"swatch\"><svg width=\"22\" height=\"8\" aria-hidden=\"true\"><line class=\"{}\" x1=\"0\" x2=\"22\" y1=\"4\" y2=\"4\"/></svg>{}</span>",
            class(*index),
            escape(name)
        );
    }
    out + "</div>\n</figure>\n"
}

fn class(index: usize) -> String {
    format!("line c{} d{}", index % COLOURS, index / COLOURS % DASHES)
}

fn steps(lines: &[(usize, &str, &Values)]) -> Scale {
    let all =
        || lines.iter().flat_map(|(_, _, values)| values.keys().next().into_iter().chain(values.keys().next_back()));
    Scale::whole(all().min().map_or(0.0, |step| *step as f64), all().max().map_or(0.0, |step| *step as f64))
}

/// Linear, or logarithmic where the numbers differ by more than twentyfold.
fn fitting(lines: &[(usize, &str, &Values)]) -> Scale {
    let all = || lines.iter().flat_map(|(_, _, values)| values.values().copied()).filter(|value| drawable(*value));
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    if low > 0.0 && high / low > 20.0 { Scale::logarithmic(all()) } else { Scale::linear(all(), false) }
}

fn x(scale: &Scale, step: f64) -> f64 {
    LEFT + INNER.0 * scale.position(step) / 100.0
}

fn y(scale: &Scale, value: f64) -> f64 {
    TOP + INNER.1 * (1.0 - scale.position(value) / 100.0)
}

fn axes(out: &mut String, across: &Scale, up: &Scale, metric: &str) {
    let (right, bottom) = (LEFT + INNER.0, TOP + INNER.1);
    for tick in &up.ticks {
        let at = y(up, *tick);
        *out += &format!("<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>");
        *out += &text((LEFT - 6.0, at + 4.0), "end", "", &number(&tick_text(up, *tick)));
    }
    for tick in &across.ticks {
        let at = x(across, *tick);
        *out += &format!("<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{bottom}\"/>");
        *out += &text((at, bottom + 16.0), "middle", "", &number(&across.tick_text(*tick)));
    }
    *out += &format!("<path class=\"frame\" d=\"M{LEFT} {TOP}V{bottom}H{right}\"/>");
    *out += &text((LEFT + INNER.0 / 2.0, SIZE.1 - 6.0), "middle", " class=\"axis-name\"", "step");
    let middle = TOP + INNER.1 / 2.0;
    *out += &format!(
        "<text class=\"axis-name\" transform=\"translate(13 {middle}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        escape(metric)
    );
}

/// Learning rates are too small for a fixed number of decimals.
fn tick_text(scale: &Scale, tick: f64) -> String {
    let most = scale.ticks.iter().fold(0.0_f64, |most, tick| most.max(tick.abs()));
    if most > 0.0 && most < 1e-3 && tick != 0.0 { format!("{tick:.1e}") } else { scale.tick_text(tick) }
}

fn text((x, y): (f64, f64), anchor: &str, class: &str, text: &str) -> String {
    format!("<text{class} x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>")
}

/// Whether a number can be drawn: half of the range of f64 has a span that is a number too.
fn drawable(value: f64) -> bool {
    value.abs() <= f64::MAX / 4.0
}

/// A line through the numbers of a node, broken where one is not finite. One that stands alone is a dot.
fn line(index: usize, name: &str, values: &Values, across: &Scale, up: &Scale) -> String {
    let mut path = String::new();
    for stretch in stretches(values, across) {
        for (at, (step, value)) in stretch.iter().enumerate() {
            let letter = if at == 0 { 'M' } else { 'L' };
            path += &format!("{letter}{:.1} {:.1}", x(across, *step as f64), y(up, *value));
        }
        if stretch.len() == 1 {
            path += "h0";
        }
    }
    let ends = [values.first_key_value(), values.last_key_value()].map(|end| end.map_or(0.0, |(_, value)| *value));
    let title = format!("{name}: {} to {}", short(ends[0]), short(ends[1]));
    format!("<path class=\"{}\" d=\"{path}\"><title>{}</title></path>", class(index), number(&title))
}

/// The numbers that are drawn, in stretches of finite ones: of those that fall together, the first, the least, the largest and the
/// last, so that no peak is lost.
fn stretches(values: &Values, across: &Scale) -> Vec<Vec<(u64, f64)>> {
    let mut stretches: Vec<Vec<(u64, f64)>> = vec![Vec::new()];
    let mut together: Vec<(u64, f64)> = Vec::new();
    let mut place = 0;
    for (step, value) in values {
        let here = x(across, *step as f64) as usize;
        if here != place || !drawable(*value) {
            let thinned = thinned(&together);
            stretches.last_mut().into_iter().for_each(|last| last.extend(&thinned));
            together.clear();
            place = here;
        }
        match drawable(*value) {
            true => together.push((*step, *value)),
            false => stretches.push(Vec::new()),
        }
    }
    let thinned = thinned(&together);
    stretches.last_mut().into_iter().for_each(|last| last.extend(&thinned));
    stretches.retain(|stretch| !stretch.is_empty());
    stretches
}

fn thinned(together: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
    let mut kept: Vec<(u64, f64)> =
        [together.first(), together.iter().min_by(by_value), together.iter().max_by(by_value), together.last()]
            .into_iter()
            .flatten()
            .copied()
            .collect();
    kept.sort_by_key(|(step, _)| *step);
    kept.dedup_by_key(|(step, _)| *step);
    kept
}
