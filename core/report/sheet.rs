//! The table as text in rows and columns: what the terminal and the Markdown writer have in common.

use std::sync::Arc;

use polars::prelude::*;

use super::aggregate::{Group, MetricKey};
use super::analysis::{Analysis, Cell};
use super::cells::{self, FAKE_QUANTIZED, Intervals, Tone, constant, facts};
use super::compare::{Comparison, Method};
use super::input::{Contrast, Labels};
use super::{ReportError, format, labels, verdict};
use crate::printable::{lines, one_line};

/// One column.
#[derive(Debug, Clone)]
pub(super) struct Column {
    /// Task that the column belongs to; empty for labels and model facts.
    pub group: String,
    pub header: String,
    /// Numbers are aligned at their decimal point, text to the left.
    pub numeric: bool,
    /// Means nothing without the column before it: the p-value of a difference.
    pub glued: bool,
}

/// A table of strings.
#[derive(Debug)]
pub(super) struct Sheet {
    pub columns: Vec<Column>,
    /// How many columns on the left name the row.
    pub labels: usize,
    /// One string column per entry of `columns`, named by its index; null where a row has nothing to say.
    pub frame: DataFrame,
    /// Tones by row, then column.
    pub tones: Vec<Vec<Tone>>,
    /// Instead of values: why a row has none.
    pub messages: Vec<Option<String>>,
}

impl Sheet {
    /// The text of one cell.
    pub(super) fn text(&self, row: usize, column: usize) -> Option<&str> {
        self.frame.columns().get(column + 1)?.as_materialized_series().str().ok()?.get(row)
    }

    pub(super) fn rows(&self) -> usize {
        self.messages.len()
    }

    /// The same with numbers instead of labels, for screens with no room for a column each, and the labels of each row
    /// as one line.
    pub(super) fn numbered(&self) -> Result<(Self, Vec<String>), ReportError> {
        let legend = |row: usize| {
            let named = (0..self.labels).filter_map(|column| {
                let text = self.text(row, column).filter(|text| !text.is_empty())?;
                Some(format!("{}={text}", self.columns[column].header))
            });
            format!("{}: {}", row + 1, named.collect::<Vec<_>>().join(", "))
        };
        let numbers = (1..=self.rows()).map(|row| row.to_string()).collect::<Vec<_>>();
        let label = polars::prelude::Column::new("labels".into(), numbers);
        let old = self.frame.columns();
        let mut columns = vec![old[0].clone(), label];
        columns.extend(old.iter().skip(1 + self.labels).cloned());
        let header = Column { group: String::new(), header: "row".to_owned(), numeric: false, glued: false };
        let sheet = Self {
            columns: std::iter::once(header).chain(self.columns[self.labels..].iter().cloned()).collect(),
            labels: 1,
            frame: DataFrame::new(self.rows(), columns)?,
            tones: self.tones.iter().map(|row| [&[Tone::Plain], &row[self.labels..]].concat()).collect(),
            messages: self.messages.clone(),
        };
        Ok((sheet, (0..self.rows()).map(legend).collect()))
    }
}

/// Collects cells in any order and pivots them into a sheet.
struct Builder {
    columns: Vec<Column>,
    labels: usize,
    cells: Vec<(u32, u32, Option<String>)>,
    tones: Vec<Vec<(usize, Tone)>>,
    messages: Vec<Option<String>>,
}

impl Builder {
    fn new(rows: usize) -> Self {
        Self {
            columns: Vec::new(),
            labels: 0,
            cells: Vec::new(),
            tones: vec![Vec::new(); rows],
            messages: vec![None; rows],
        }
    }

    fn column(
        &mut self,
        group: &str,
        header: &str,
        numeric: bool,
        mut cell: impl FnMut(usize) -> Option<(String, Tone)>,
    ) {
        let index = self.columns.len();
        let (group, name) = (one_line(group).into_owned(), one_line(header).into_owned());
        self.columns.push(Column { group, header: name, numeric, glued: header == "p" });
        for row in 0..self.messages.len() {
            let content = cell(row);
            let tone = content.as_ref().map_or(Tone::Plain, |(_, tone)| *tone);
            self.tones[row].push((index, tone));
            self.cells.push((row as u32, index as u32, content.map(|(text, _)| lines(&text).into_owned())));
        }
    }

    fn build(self) -> Result<Sheet, ReportError> {
        let names: Vec<String> = (0..self.columns.len()).map(|index| index.to_string()).collect();
        let long = df!(
            "row" => self.cells.iter().map(|(row, _, _)| *row).collect::<Vec<_>>(),
            "column" => self.cells.iter().map(|(_, column, _)| names[*column as usize].clone()).collect::<Vec<_>>(),
            "text" => self.cells.iter().map(|(_, _, text)| text.clone()).collect::<Vec<_>>(),
        )?;
        let frame = long
            .lazy()
            .pivot(
                by_name(["column"], true, false),
                Arc::new(df!("column" => names)?),
                by_name(["row"], true, false),
                by_name(["text"], true, false),
                element().first(),
                true,
                "".into(),
                polars::frame::PivotColumnNaming::Auto,
            )
            .sort(["row"], SortMultipleOptions::default())
            .collect()?;
        let width = self.columns.len();
        let tones = self.tones.into_iter().map(|row| {
            let mut tones = vec![Tone::Plain; width];
            row.into_iter().for_each(|(column, tone)| tones[column] = tone);
            tones
        });
        Ok(Sheet { columns: self.columns, labels: self.labels, frame, tones: tones.collect(), messages: self.messages })
    }
}

/// The main table: one line per group.
pub(super) fn main(analysis: &Analysis<'_>, intervals: Intervals) -> Result<Sheet, ReportError> {
    let groups = &analysis.groups;
    let mut sheet = Builder::new(groups.len());
    label_columns(&mut sheet, analysis);
    for (metric, key) in analysis.metrics.iter().enumerate().filter(|(_, key)| is_shown(key, intervals)) {
        metric_columns(&mut sheet, analysis, metric, key, intervals);
    }
    model_columns(&mut sheet, analysis);
    for (row, group) in groups.iter().enumerate() {
        let empty = (0..analysis.metrics.len()).all(|metric| analysis.cell(row, metric).is_none());
        if empty {
            sheet.messages[row] = Some(lines(&reason(group)).into_owned());
        }
    }
    sheet.build()
}

/// The declared contrasts: one line per matched pair. `None` without any.
pub(super) fn contrasts(analysis: &Analysis<'_>, intervals: Intervals) -> Result<Option<Sheet>, ReportError> {
    let mut pairs = Vec::new();
    for comparison in &analysis.contrasts {
        if !pairs.contains(&&comparison.pair) {
            pairs.push(&comparison.pair);
        }
    }
    if pairs.is_empty() {
        return Ok(None);
    }
    let mut sheet = Builder::new(pairs.len());
    sheet.column("", "contrast", false, |row| {
        let declared = pairs[row].contrast.and_then(|index| analysis.table.contrasts.get(index))?;
        Some((contrast_name(declared), Tone::Plain))
    });
    let others: Vec<Labels> = pairs.iter().map(|pair| shared_labels(analysis, pair)).collect();
    for key in labels::split(&others.iter().collect::<Vec<_>>()).columns {
        sheet.column("", &key, false, |row| Some((labels::text(labels::get(&others[row], &key)), Tone::Plain)));
    }
    sheet.labels = sheet.columns.len();
    for (metric, key) in analysis.metrics.iter().enumerate().filter(|(_, key)| key.is_tested()) {
        let find = |row: usize| analysis.contrasts.iter().find(|c| c.pair == *pairs[row] && c.metric == metric);
        if (0..pairs.len()).all(|row| find(row).is_none()) {
            continue;
        }
        sheet.column(&key.task, &cells::difference_header(key), true, |row| {
            Some(cells::difference_text(find(row)?, key, intervals))
        });
        sheet.column(&key.task, "p", true, |row| cells::p_text(find(row)?));
        verdict_column(&mut sheet, analysis, key, find);
    }
    Ok(Some(sheet.build()?))
}

/// What the margin of a metric says about each row, where it has one.
fn verdict_column<'a>(
    sheet: &mut Builder,
    analysis: &Analysis<'_>,
    key: &MetricKey,
    find: impl Fn(usize) -> Option<&'a Comparison>,
) {
    let Some(margin) = analysis.margin(key) else { return };
    let header = format!("at {}", format::short(margin * cells::scale(key)));
    sheet.column(&key.task, &header, false, |row| Some(verdict::text(analysis.verdict(find(row)?)?)));
}

/// `activations: static vs dynamic`: the labels in which the two sides differ.
pub(super) fn contrast_name(contrast: &Contrast) -> String {
    let keys = labels::keys([&contrast.left, &contrast.right].into_iter());
    let sides = |key: &String| (labels::get(&contrast.left, key), labels::get(&contrast.right, key));
    let text = |value: &serde_json::Value| if value.is_null() { "any".to_owned() } else { labels::text(value) };
    let differing = keys.iter().filter(|key| sides(key).0 != sides(key).1);
    let named: Vec<String> =
        differing.map(|key| format!("{key}: {} vs {}", text(sides(key).0), text(sides(key).1))).collect();
    named.join(", ")
}

/// Labels that the two sides of a contrast have in common.
pub(super) fn shared_labels(analysis: &Analysis<'_>, pair: &super::Pair) -> Labels {
    let right = &analysis.groups[pair.right].labels;
    let shared = |(key, value): &&(String, serde_json::Value)| labels::get(right, key) == value;
    analysis.groups[pair.left].labels.iter().filter(shared).cloned().collect()
}

/// Why a line has no values.
pub(super) fn reason(group: &Group) -> String {
    match group.failures.first() {
        Some(message) => format!("failed: {message}"),
        None if group.complete == 0 => "not run yet".to_owned(),
        None => "no results".to_owned(),
    }
}

/// Where there is room every metric is shown, elsewhere those that tables of quantized models are read for.
fn is_shown(key: &MetricKey, intervals: Intervals) -> bool {
    intervals == Intervals::Ends || key.is_tested() || key.name == "kl" || key.name == "top1"
}

fn label_columns(sheet: &mut Builder, analysis: &Analysis<'_>) {
    let groups = &analysis.groups;
    let all: Vec<&Labels> = groups.iter().map(|group| &group.labels).collect();
    let columns = labels::split(&all).columns;
    let stale = |row: usize| groups[row].rows.iter().any(|index| analysis.table.rows[*index].stale_engine);
    let mark = |row: usize, text: String| if stale(row) { format!("{text}†") } else { text };
    for (position, key) in columns.iter().enumerate() {
        sheet.column("", key, false, |row| {
            let unnamed = groups[row].labels.is_empty();
            let text = if position == 0 && unnamed && analysis.baseline == Some(row) {
                "baseline".to_owned()
            } else {
                labels::text(labels::get(&groups[row].labels, key))
            };
            Some((if position == 0 { mark(row, text) } else { text }, Tone::Plain))
        });
    }
    if columns.is_empty() {
        sheet.column("", "row", false, |row| Some((mark(row, (row + 1).to_string()), Tone::Plain)));
    }
    sheet.labels = sheet.columns.len();
}

fn metric_columns(sheet: &mut Builder, analysis: &Analysis<'_>, metric: usize, key: &MetricKey, intervals: Intervals) {
    let cell = |row: usize| analysis.cell(row, metric);
    let rows = 0..analysis.groups.len();
    sheet.column(&key.task, &cells::metric_header(key), true, |row| {
        Some((cells::estimate_text(cell(row)?, key, intervals), Tone::Plain))
    });
    if key.is_tested() && rows.clone().filter_map(cell).any(|cell| cell.per_seed.len() > 1) {
        sheet.column(&key.task, "over seeds", true, |row| Some((cells::seeds_text(cell(row)?, key)?, Tone::Plain)));
    }
    if rows.clone().filter_map(cell).any(|cell| cell.unparsed > 0) {
        let text = |cell: &Cell| (format::count(cell.unparsed as f64), Tone::Plain);
        sheet.column(&key.task, "unparsed", true, |row| cell(row).map(text));
    }
    if !key.is_tested_against_baseline() || analysis.baseline.is_none() || analysis.groups.len() < 2 {
        return;
    }
    let compared = |row: usize| analysis.difference(row, metric);
    sheet.column(&key.task, &cells::difference_header(key), true, |row| {
        if analysis.baseline == Some(row) {
            return Some(("baseline".to_owned(), Tone::Plain));
        }
        Some(cells::difference_text(compared(row)?, key, intervals))
    });
    if analysis.table.contrasts.is_empty() {
        sheet.column(&key.task, "p", true, |row| cells::p_text(compared(row)?));
    }
    verdict_column(sheet, analysis, key, compared);
}

fn model_columns(sheet: &mut Builder, analysis: &Analysis<'_>) {
    let facts = |row: usize| facts(analysis, row);
    let rows = 0..analysis.groups.len();
    if rows.clone().any(|row| facts(row).is_some_and(|f| f.bits_per_weight.is_some())) {
        let text = |bits: f64| (format!("{bits:.2}"), Tone::Plain);
        sheet.column("", "bits/weight", true, |row| facts(row)?.bits_per_weight.map(text));
    }
    // The column before counts the linears of the blocks alone.
    if rows.clone().any(|row| facts(row).is_some_and(|f| f.quantized_embeddings)) {
        let text = |bits: f64| (format!("{bits:.2}"), Tone::Plain);
        sheet.column("", "bits/parameter", true, |row| facts(row)?.bits_per_parameter.map(text));
    }
    if rows.clone().any(|row| facts(row).is_some_and(|f| f.bytes_on_disk.is_some())) {
        sheet.column("", "size", true, |row| Some((format::bytes(facts(row)?.bytes_on_disk?), Tone::Plain)));
    }
    if constant(analysis, |f| f.compute_dtype.clone()).is_none() {
        sheet.column("", "dtype", false, |row| Some((facts(row)?.compute_dtype.clone()?, Tone::Plain)));
    }
    if constant(analysis, |f| f.engine.clone()).is_none() {
        sheet.column("", "engine", false, |row| {
            let engine = facts(row)?.engine.as_deref()?;
            // The long word is worth a footer, not a column of its own width.
            Some((if engine == FAKE_QUANTIZED { "fake" } else { engine }.to_owned(), Tone::Plain))
        });
    }
}

/// Methods that occur in the table, for the footer.
pub(super) fn methods(analysis: &Analysis<'_>, style: Intervals) -> (Vec<Method>, Vec<Method>) {
    let mut intervals = Vec::new();
    for group in 0..analysis.groups.len() {
        for (metric, key) in analysis.metrics.iter().enumerate() {
            if let Some(cell) =
                analysis.cell(group, metric).filter(|cell| is_shown(key, style) && cell.interval.is_some())
            {
                intervals.push(cell.method);
            }
        }
    }
    let compared = analysis.against_baseline.iter().chain(&analysis.contrasts);
    let mut tests: Vec<Method> = compared.filter_map(|c| c.outcome.as_ref().ok().map(|p| p.method)).collect();
    for list in [&mut intervals, &mut tests] {
        list.sort_unstable();
        list.dedup();
    }
    (intervals, tests)
}
