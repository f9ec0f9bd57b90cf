//! Heat maps: one metric over two labels, say kinds of linears against blocks. Every cell says its value, and its interval when
//! the pointer rests on it.
//!
//! A colour is a claim. For differences a cell is coloured only where the test finds one; a distance to the reference is never
//! negative, so there nothing is tested and the colour is the size. Rows and columns labelled `all` stand apart and have no
//! colour: they change more of the model than one cell does, and would drown the others.

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::super::aggregate::MetricKey;
use super::super::analysis::{Analysis, Cell};
use super::super::cells::{self, Intervals};
use super::super::input::{HeatMap, MetricKind};
use super::super::{Comparison, format, labels};
use super::{escape, number};

/// The label of rows and columns that take in all others.
const MARGIN: &str = "all";

const CELL: (f64, f64) = (46.0, 30.0);
/// Room between the cells and the rows and columns that stand apart.
const GAP: f64 = 8.0;
/// Width of a character of a label.
const CHARACTER: f64 = 7.2;

/// A value of a map, on the scale on which it is shown.
struct Tile {
    row: usize,
    column: usize,
    value: f64,
    /// What the pointer finds.
    title: String,
    /// Whether the difference is more than chance; `None` where nothing is tested.
    found: Option<bool>,
}

/// What a map shows of a metric.
enum Shown {
    Difference,
    Estimate,
}

/// All heat maps of a table; empty where none is declared.
pub(super) fn maps(analysis: &Analysis<'_>) -> String {
    let mut out = String::new();
    for map in &analysis.table.heat_maps {
        for (metric, key) in analysis.metrics.iter().enumerate() {
            if key.is_tested_against_baseline() && analysis.baseline.is_some() {
                out += &figure(analysis, map, metric, key, &Shown::Difference);
            } else if key.name == "kl" {
                out += &figure(analysis, map, metric, key, &Shown::Estimate);
            }
        }
    }
    out
}

/// The values of a label in the order of their first appearance, those that stand apart at the end.
fn axis(analysis: &Analysis<'_>, name: &str, other: &str) -> Vec<Value> {
    let mut values: Vec<Value> = Vec::new();
    for (_, group) in analysis.groups.iter().enumerate().filter(|(index, _)| analysis.baseline != Some(*index)) {
        let value = labels::get(&group.labels, name);
        if !value.is_null() && !labels::get(&group.labels, other).is_null() && !values.contains(value) {
            values.push(value.clone());
        }
    }
    values.sort_by_key(|value| value.as_str() == Some(MARGIN));
    values
}

fn tiles(
    analysis: &Analysis<'_>,
    map: &HeatMap,
    axes: (&[Value], &[Value]),
    metric: usize,
    key: &MetricKey,
    shown: &Shown,
) -> Vec<Tile> {
    let unit = unit(key);
    let tile = |group: usize| {
        let own = &analysis.groups[group].labels;
        let (row, column) = (labels::get(own, &map.rows), labels::get(own, &map.columns));
        let name = format!("{} {}, {} {}", map.rows, labels::text(row), map.columns, labels::text(column));
        let (value, text, found) = match shown {
            Shown::Difference => difference(analysis.difference(group, metric)?, key)?,
            Shown::Estimate => estimate(analysis.cell(group, metric)?, key)?,
        };
        Some(Tile {
            row: axes.0.iter().position(|known| known == row)?,
            column: axes.1.iter().position(|known| known == column)?,
            value,
            title: format!("{name}: {text}{unit}"),
            found,
        })
    };
    (0..analysis.groups.len()).filter(|group| analysis.baseline != Some(*group)).filter_map(tile).collect()
}

fn difference(comparison: &Comparison, key: &MetricKey) -> Option<(f64, String, Option<bool>)> {
    let paired = comparison.outcome.as_ref().ok()?;
    let text = cells::difference_text(comparison, key, Intervals::Ends).0;
    let (found, p) = match paired.p_adjusted {
        Some(_) => (paired.is_significant(), cells::p_text(comparison).map(|(p, _)| format!("p {p}, "))),
        // Declared contrasts took the tests: what is left is the interval.
        None => (paired.interval.is_some_and(|i| i.low > 0.0 || i.high < 0.0), None),
    };
    Some((paired.difference * cells::scale(key), format!("{}{text}", p.unwrap_or_default()), Some(found)))
}

fn estimate(cell: &Cell, key: &MetricKey) -> Option<(f64, String, Option<bool>)> {
    let value = *cell.estimate.as_ref().ok()?;
    Some((value * cells::scale(key), cells::estimate_text(cell, key, Intervals::Ends), None))
}

fn unit(key: &MetricKey) -> &'static str {
    match key.kind {
        MetricKind::MeanNats => " nats per token",
        MetricKind::Rate => " points",
        MetricKind::Mean => "",
    }
}

fn figure(analysis: &Analysis<'_>, map: &HeatMap, metric: usize, key: &MetricKey, shown: &Shown) -> String {
    let (rows, columns) = (axis(analysis, &map.rows, &map.columns), axis(analysis, &map.columns, &map.rows));
    let apart = |value: &Value| value.as_str() == Some(MARGIN);
    let tiles = tiles(analysis, map, (rows.as_slice(), columns.as_slice()), metric, key, shown);
    let inner = |tile: &&Tile| !apart(&rows[tile.row]) && !apart(&columns[tile.column]);
    let most = tiles.iter().filter(inner).map(|tile| tile.value.abs()).filter(|v| v.is_finite()).fold(0.0, f64::max);
    if most == 0.0 {
        return String::new();
    }
    // Values of a map share one power of a thousand, so that a cell needs few digits.
    let power = ((most.log10() / 3.0).floor() as i32 * 3).min(0);
    let factor = 10f64.powi(-power);
    let header = match shown {
        Shown::Difference => cells::difference_header(key),
        Shown::Estimate => cells::metric_header(key),
    };
    let title = format!("{} {header}: {} by {}", key.task, map.rows, map.columns);
    let subtitle = subtitle(analysis, metric, key, shown, power);
    let left = rows.iter().map(|value| labels::text(value).width()).max().unwrap_or(0).max(map.rows.width()) as f64
        * CHARACTER
        + 12.0;
    let place =
        |index: usize, axis: &[Value], size: f64| index as f64 * size + if apart(&axis[index]) { GAP } else { 0.0 };
    let (x, y) =
        (|column: usize| left + place(column, &columns, CELL.0), |row: usize| 20.0 + place(row, &rows, CELL.1));
    let width = x(columns.len() - 1) + CELL.0 + 2.0;
    let bottom = y(rows.len() - 1) + CELL.1;
    let mut out = format!(
        "<figure class=\"card heat\">\n<figcaption>{}<small>{}</small></figcaption>\n<div class=\"scroll\">\n\
         <svg role=\"img\" aria-label=\"{}\" width=\"{width:.0}\" height=\"{:.0}\">\n",
        escape(&title),
        escape(&subtitle),
        escape(&title),
        bottom + 40.0
    );
    out += &format!(
        "<text class=\"axis-name\" x=\"{:.1}\" y=\"13\" text-anchor=\"end\">{}</text>\n",
        left - 8.0,
        escape(&map.rows)
    );
    for (index, value) in rows.iter().enumerate() {
        let middle = y(index) + CELL.1 / 2.0 + 4.0;
        out += &format!(
            "<text x=\"{:.1}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\n",
            left - 8.0,
            escape(&labels::text(value))
        );
    }
    for (index, value) in columns.iter().enumerate() {
        let middle = x(index) + CELL.0 / 2.0;
        out += &format!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
            bottom + 15.0,
            escape(&labels::text(value))
        );
    }
    out += &format!(
        "<text class=\"axis-name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n",
        (left + width) / 2.0,
        bottom + 32.0,
        escape(&map.columns)
    );
    for tile in &tiles {
        let class = class(tile, key, apart(&rows[tile.row]) || apart(&columns[tile.column]));
        out += &drawn(tile, class, (x(tile.column), y(tile.row)), most, factor);
    }
    out += "</svg>\n</div>\n";
    out += &legend(most * factor, shown, key);
    out + "</figure>\n"
}

/// How a cell is filled: by size, as better or worse, or not at all.
fn class(tile: &Tile, key: &MetricKey, apart: bool) -> &'static str {
    match (apart, tile.found) {
        (true, _) => "apart",
        (_, None) => "size",
        (_, Some(false)) => "chance",
        (_, Some(true)) => match key.higher_is_better {
            Some(higher) if (tile.value > 0.0) == higher => "better",
            Some(_) => "worse",
            None => "size",
        },
    }
}

fn drawn(tile: &Tile, class: &str, (x, y): (f64, f64), most: f64, factor: f64) -> String {
    let star = if tile.found == Some(true) { "*" } else { "" };
    format!(
        "<g class=\"tile {class}\"><title>{}</title><rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" rx=\"3\" style=\"--t: {:.3}\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}{star}</text></g>\n",
        escape(&tile.title),
        x + 1.0,
        y + 1.0,
        CELL.0 - 2.0,
        CELL.1 - 2.0,
        strength(tile.value / most),
        x + CELL.0 / 2.0,
        y + CELL.1 / 2.0 + 4.0,
        number(&short(tile.value * factor)),
    )
}

/// Share of the full colour for a share of the largest value: never so little that a coloured cell looks like a blank one.
fn strength(share: f64) -> f64 {
    if share.is_finite() { 0.12 + 0.88 * share.abs().min(1.0) } else { 0.0 }
}

/// Two to three digits, which is what a cell has room for.
fn short(value: f64) -> String {
    if !value.is_finite() {
        return "—".to_owned();
    }
    let decimals = if value.abs() >= 99.5 {
        0
    } else if value.abs() >= 9.95 {
        1
    } else {
        2
    };
    let text = format!("{value:.decimals$}");
    if text.trim_start_matches('-').chars().all(|c| c == '0' || c == '.') { "0".to_owned() } else { text }
}

fn subtitle(analysis: &Analysis<'_>, metric: usize, key: &MetricKey, shown: &Shown, power: i32) -> String {
    let unit = unit(key).trim();
    let scale = if power == 0 { String::new() } else { format!("10{} ", superscript(power)) };
    let values = if unit.is_empty() {
        format!("values in {scale}").trim().to_owned()
    } else {
        format!("values in {scale}{unit}")
    };
    let tests = analysis.against_baseline.iter().filter(|c| c.metric == metric);
    let tests = tests.filter(|c| c.outcome.as_ref().is_ok_and(|p| p.p_adjusted.is_some())).count();
    let meaning = match shown {
        Shown::Estimate => "colour: size; it is never negative, so no cell is tested against zero".to_owned(),
        Shown::Difference if tests > 0 => format!(
            "coloured and *: p ≤ 0.05 after Holm's adjustment over {}; blank: may be chance",
            format::plural(tests, "comparison")
        ),
        Shown::Difference => {
            "coloured and *: the 95 % interval leaves zero out, not adjusted; blank: may be chance".to_owned()
        }
    };
    let against = if matches!(shown, Shown::Difference) { "against the baseline; " } else { "" };
    format!("{against}{values}; {meaning}; intervals under the pointer")
}

fn superscript(power: i32) -> String {
    let digit = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => char::from_u32(0x2070 + digit.to_digit(10).unwrap_or(0)).unwrap_or(digit),
    };
    power.to_string().chars().map(digit).collect()
}

/// What the colours stand for.
fn legend(most: f64, shown: &Shown, key: &MetricKey) -> String {
    let steps: &[f64] = match shown {
        Shown::Estimate => &[0.0, 0.25, 0.5, 0.75, 1.0],
        Shown::Difference => &[-1.0, -0.5, 0.0, 0.5, 1.0],
    };
    let swatch = |step: &f64| {
        let class = match (shown, *step == 0.0, key.higher_is_better) {
            (Shown::Estimate, ..) | (_, false, None) => "size",
            (_, true, _) => "chance",
            (_, _, Some(higher)) => {
                if (*step > 0.0) == higher {
                    "better"
                } else {
                    "worse"
                }
            }
        };
        format!(
            "<span class=\"swatch\"><svg aria-hidden=\"true\" width=\"26\" height=\"12\"><g class=\"tile {class}\"><rect width=\"26\" height=\"12\" rx=\"2\" style=\"--t: {:.3}\"/></g></svg>{}</span>",
            strength(*step),
            number(&short(step * most)),
        )
    };
    format!("<div class=\"legend\">{}</div>\n", steps.iter().map(swatch).collect::<String>())
}
