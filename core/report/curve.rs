//! The curve of one node for a terminal: what became of each metric, and a picture of the one that matters.

use std::collections::BTreeMap;

use unicode_width::UnicodeWidthStr;

use super::{
    Terminal, format,
    text::{pad_left, pad_right},
};
use crate::{printable::one_line, store::Curve};

/// Rows of the picture, in characters.
const HEIGHT: usize = 8;
/// Columns of everything, where a terminal is wide or nobody says how wide it is.
const WIDEST: usize = 100;
const USUAL: usize = 80;
/// Columns of the small picture beside a metric's numbers.
const SPARK: usize = 24;
/// Columns of a metric's name.
const NAME: usize = 32;
/// Metrics that are listed.
const LISTED: usize = 16;

/// A metric's numbers by step.
type Values = BTreeMap<u64, f64>;

/// Each metric's first, last and least number, and a picture of the loss or of the first metric, which is as wide as the terminal:
/// between 40 and 100 columns. Ends with a newline.
pub fn curve(curve: &Curve, terminal: Terminal) -> String {
    let width = terminal.width.unwrap_or(USUAL).clamp(40, WIDEST);
    let metrics: Vec<(&str, &Values)> = ordered(curve);
    let mut out = table(&metrics, width);
    if metrics.len() > LISTED {
        out += &format!("… and {} more\n", metrics.len() - LISTED);
    }
    if let Some((name, values)) = metrics.first() {
        out.push('\n');
        out += &picture(name, values, width);
    }
    out
}

/// The metrics with what training goes by in front.
pub(super) fn ordered(curve: &Curve) -> Vec<(&str, &Values)> {
    let mut metrics: Vec<(&str, &Values)> = curve.metrics().collect();
    metrics.sort_by_key(|(name, _)| *name != LOSS);
    metrics
}

/// The metric that training goes by.
const LOSS: &str = "loss";

fn table(metrics: &[(&str, &Values)], width: usize) -> String {
    let mut rows = vec![["metric", "first", "last", "least", ""].map(str::to_owned)];
    for (name, values) in metrics.iter().take(LISTED) {
        rows.push(row(name, values));
    }
    let widths: Vec<usize> = (0..5).map(|c| rows.iter().map(|row| row[c].width()).max().unwrap_or(0)).collect();
    let mut out = String::new();
    for row in &rows {
        let mut line = pad_right(&row[0], widths[0]);
        for column in 1..4 {
            line += "  ";
            line += &if column == 3 { pad_right(&row[3], widths[3]) } else { pad_left(&row[column], widths[column]) };
        }
        // The small picture is the first to go where there is no room.
        if line.width() + 2 + widths[4] <= width {
            line += "  ";
            line += &row[4];
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

fn row(name: &str, values: &Values) -> [String; 5] {
    let end = |found: Option<(&u64, &f64)>| found.map_or_else(String::new, |(_, value)| short(*value));
    let finite = || values.iter().filter(|(_, value)| value.is_finite());
    let least = finite().min_by(|a, b| a.1.total_cmp(b.1));
    let mut least = least.map_or_else(String::new, |(step, value)| format!("{} at step {step}", short(*value)));
    let odd = values.len() - finite().count();
    if odd > 0 {
        least += &format!(" ({odd} not finite)");
    }
    [shortened(&one_line(name)), end(values.first_key_value()), end(values.last_key_value()), least, spark(values)]
}

/// A name in the room that there is for one, its end kept: what names differ in stands there.
fn shortened(name: &str) -> String {
    let mut tail: Vec<char> = Vec::new();
    for character in name.chars().rev() {
        let longer: String = std::iter::once(character).chain(tail.iter().rev().copied()).collect();
        if longer.width() + 1 > NAME && name.width() > NAME {
            return format!("…{}", tail.iter().rev().collect::<String>());
        }
        tail.push(character);
    }
    name.to_owned()
}

/// Four significant digits; small numbers with an exponent.
pub(super) fn short(value: f64) -> String {
    if value != 0.0 && value.is_finite() && value.abs() < 1e-3 { format!("{value:.3e}") } else { format::plain(value) }
}

/// Where numbers lie between the least and the largest: linear, or logarithmic where they differ more than twentyfold.
struct Range {
    low: f64,
    high: f64,
    logarithmic: bool,
}

impl Range {
    /// Of what is finite; `None` where nothing is.
    fn of(values: &Values) -> Option<Self> {
        let finite = || values.values().copied().filter(|value| value.is_finite());
        let (low, high) = (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
        (low <= high).then(|| Self { low, high, logarithmic: low > 0.0 && high / low > 20.0 })
    }

    /// From 0, the least, to 1, the largest; the middle where all are the same.
    fn place(&self, value: f64) -> f64 {
        let on = |value: f64| if self.logarithmic { value.ln() } else { value };
        let (low, high) = (on(self.low), on(self.high));
        // Half of each, so that the span of the largest numbers is one.
        let span = high / 2.0 - low / 2.0;
        if span > 0.0 { (on(value) / 2.0 - low / 2.0) / span } else { 0.5 }
    }
}

/// The nearest of `cells` cells to a place between 0 and 1.
fn cell(place: f64, cells: usize) -> usize {
    ((place * cells.saturating_sub(1) as f64 + 0.5) as usize).min(cells.saturating_sub(1))
}

/// The place of a step between the first and the last.
fn across(step: u64, values: &Values) -> f64 {
    let first = values.keys().next().copied().unwrap_or(0);
    let last = values.keys().next_back().copied().unwrap_or(0);
    if last > first { (step - first) as f64 / (last - first) as f64 } else { 0.0 }
}

/// A line of blocks: the mean of the numbers of each stretch.
fn spark(values: &Values) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let Some(range) = Range::of(values) else { return String::new() };
    let columns = SPARK.min(values.len());
    let mut sums = vec![(0.0, 0_usize); columns];
    for (step, value) in values.iter().filter(|(_, value)| value.is_finite()) {
        let (sum, count) = &mut sums[cell(across(*step, values), columns)];
        *sum += range.place(*value);
        *count += 1;
    }
    let block = |(sum, count): &(f64, usize)| match count {
        0 => ' ',
        count => BLOCKS[cell(sum / *count as f64, BLOCKS.len())],
    };
    sums.iter().map(block).collect()
}

/// A line through the numbers of a metric, drawn in dots of which a character holds two by four.
fn picture(name: &str, values: &Values, width: usize) -> String {
    let Some(range) = Range::of(values) else { return String::new() };
    let (top, bottom) = (short(range.high), short(range.low));
    let margin = top.width().max(bottom.width());
    let columns = width.saturating_sub(margin + 2).max(8);
    let dots = draw(values, &range, columns);
    let scale = if range.logarithmic { ", logarithmic" } else { "" };
    let mut out = format!("{}{scale}\n", shortened(&one_line(name)));
    for (row, line) in dots.iter().enumerate() {
        let label = match row {
            0 => top.as_str(),
            row if row + 1 == HEIGHT => bottom.as_str(),
            _ => "",
        };
        let rule = if label.is_empty() { '│' } else { '┤' };
        out += format!("{} {rule}{}", pad_left(label, margin), line.iter().collect::<String>()).trim_end();
        out.push('\n');
    }
    let ends = [values.keys().next(), values.keys().next_back()].map(|step| step.map_or(0, |step| *step));
    let (first, last) = (format!("step {}", ends[0]), ends[1].to_string());
    out += &format!("{} └{}\n", " ".repeat(margin), "─".repeat(columns));
    let gap = columns.saturating_sub(first.len() + last.len()).max(1);
    let rest = if ends[0] == ends[1] { String::new() } else { " ".repeat(gap) + last.as_str() };
    out += &format!("{}  {first}{rest}\n", " ".repeat(margin));
    out
}

/// The dots of braille: bits of a character by column and row.
const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];

fn draw(values: &Values, range: &Range, columns: usize) -> Vec<Vec<char>> {
    let mut bits = vec![vec![0_u32; columns]; HEIGHT];
    let mut dot = |x: usize, y: usize| bits[y / 4][x / 2] |= DOTS[x % 2][y % 4];
    let mut before: Option<(usize, usize)> = None;
    for (step, value) in values {
        if !value.is_finite() {
            before = None;
            continue;
        }
        let to = (cell(across(*step, values), 2 * columns), cell(1.0 - range.place(*value), 4 * HEIGHT));
        let from = before.unwrap_or(to);
        let length = to.0.abs_diff(from.0).max(to.1.abs_diff(from.1)).max(1);
        for at in 0..=length {
            let between = |a: usize, b: usize| (a * (length - at) + b * at + length / 2) / length;
            dot(between(from.0, to.0), between(from.1, to.1));
        }
        before = Some(to);
    }
    let character = |bits: &u32| if *bits == 0 { ' ' } else { char::from_u32(0x2800 + bits).unwrap_or(' ') };
    bits.iter().map(|row| row.iter().map(character).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(values: impl IntoIterator<Item = (u64, f64)>) -> Curve {
        let mut curve = Curve::default();
        for (step, value) in values {
            curve.set(step, "loss", value);
        }
        curve
    }

    fn drawn(found: &Curve, width: usize) -> String {
        curve(found, Terminal { width: Some(width), color: false })
    }

    #[test]
    fn a_falling_line_falls() {
        // As many steps as there are dots across and down: one on the diagonal of each character.
        let falling = drawn(&made((0..=31).map(|step| (step, 31.0 - step as f64))), 40);
        let rows: Vec<&str> = falling.lines().skip(4).collect();
        assert!(rows[0].starts_with("31.00 ┤⠑") && rows[7].starts_with("    0 ┤   "), "{falling}");
        assert_eq!(rows[9].split_whitespace().collect::<Vec<_>>(), ["step", "0", "31"]);
        let columns: Vec<usize> = rows[..8].iter().map(|row| row.trim_end().chars().count()).collect();
        assert!(columns.windows(2).all(|pair| pair[0] < pair[1]), "{falling}");
        // Beside the numbers, where there is room.
        let falling = drawn(&made((0..=31).map(|step| (step, 31.0 - step as f64))), 80);
        let rising = drawn(&made((0..=31).map(|step| (step, step as f64))), 80);
        let spark = |shown: &str| shown.lines().nth(1).unwrap().split_whitespace().last().unwrap().to_owned();
        let levels: Vec<char> = spark(&rising).chars().collect();
        assert!(
            levels.len() == SPARK && levels.is_sorted() && levels[0] == '▁' && levels[SPARK - 1] == '█',
            "{rising}"
        );
        assert!(spark(&falling).chars().rev().eq(levels), "{falling}");
    }

    #[test]
    fn numbers_say_where_they_stood() {
        let mut found = made([(1, 4.0), (2, 0.5), (3, f64::NAN), (4, 1.25)]);
        found.set(1, "learning_rate", 5e-5);
        let shown = drawn(&found, 80);
        let words = |line: usize| shown.lines().nth(line).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(words(1)[..9], ["loss", "4.000", "1.250", "0.5000", "at", "step", "2", "(1", "not"], "{shown}");
        assert_eq!(words(2)[..6], ["learning_rate", "5.000e-5", "5.000e-5", "5.000e-5", "at", "step"]);
    }

    #[test]
    fn every_curve_fits() {
        let odd = [
            made([(7, 1.0)]),
            made([(0, f64::NAN)]),
            made([(0, f64::MAX), (u64::MAX, f64::MIN)]),
            made([(1, 1e-300), (2, 1e300)]),
            made((0..5000).map(|step| (step * step, (step as f64).sin()))),
        ];
        for mut found in odd {
            found.set(3, &"x\u{1b}長い名前".repeat(40), 1.0);
            for width in [0, 40, 57, 100, 1000] {
                let shown = drawn(&found, width);
                let (table, picture) = shown.split_once("\n\n").unwrap();
                assert!(table.lines().all(|line| line.width() < 130), "{shown}");
                assert!(picture.lines().all(|line| line.width() <= width.clamp(40, WIDEST)), "{shown}");
                assert!(!shown.contains('\u{1b}') && !shown.contains("NaN"), "{shown}");
            }
        }
        assert_eq!(drawn(&Curve::default(), 80), "metric  first  last  least\n");
    }
}
