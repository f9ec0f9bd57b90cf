//! Tables as CSV with every digit: a line as soon as a row is done, and the whole with its comparisons at the end.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use polars::prelude::*;
use polars_io::SerWriter;
use serde_json::Value;

use super::analysis::Analysis;
use super::cells::mean_and_sd;
use super::input::{Row, RowState, Table};
use super::{Comparison, ReportError, Verdict, footer, labels};

/// The columns of a table's CSV file, known before the first result.
///
/// A file has the labels, `state` and `message`, then for every metric `TASK.METRIC` (the estimate on its stored scale:
/// nats, a share, or as it is) with `.low` and `.high` (95 % interval), `.items`, `.weight`, `.unparsed`; `.seeds`,
/// `.seed_mean`, `.seed_sd` of the configuration; and its comparison with the baseline, `.delta`, `.delta_low`,
/// `.delta_high`, `.p`, `.p_adjusted`, `.detectable`; then the facts of the model. What is not known is empty. Rows
/// that differ only in their seed have a line each; their seed and comparison columns, which belong to all of them
/// together, say the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsvColumns {
    /// Names of the labels.
    pub labels: Vec<String>,
    /// Task and name of every metric.
    pub metrics: Vec<(String, String)>,
}

/// Suffixes of a metric's columns, the estimate itself first.
const SUFFIXES: [&str; 15] = [
    "",
    ".low",
    ".high",
    ".items",
    ".weight",
    ".unparsed",
    ".seeds",
    ".seed_mean",
    ".seed_sd",
    ".delta",
    ".delta_low",
    ".delta_high",
    ".p",
    ".p_adjusted",
    ".detectable",
];
const FACTS: [&str; 6] =
    ["bits_per_weight", "bits_per_parameter", "bytes_on_disk", "compute_dtype", "engine", "stale_engine"];

impl CsvColumns {
    /// The columns that the rows of a table have so far.
    #[must_use]
    pub fn of(table: &Table) -> Self {
        let mut columns = Self { labels: labels::keys(table.rows.iter().map(|row| &row.labels)), metrics: Vec::new() };
        for task in table.rows.iter().flat_map(|row| &row.tasks) {
            for metric in &task.metrics {
                columns.add_metric(&task.task, &metric.name);
            }
        }
        columns
    }

    fn add_metric(&mut self, task: &str, metric: &str) {
        let key = (task.to_owned(), metric.to_owned());
        if !self.metrics.contains(&key) {
            self.metrics.push(key);
        }
    }

    /// These columns and whatever `other` has beyond them.
    fn extended(mut self, other: &Self) -> Self {
        for label in &other.labels {
            if !self.labels.contains(label) {
                self.labels.push(label.clone());
            }
        }
        for (task, metric) in &other.metrics {
            self.add_metric(task, metric);
        }
        self
    }

    /// Column names of the labels: a label that is called like another column gets a prefix.
    fn label_headers(&self) -> Vec<String> {
        let metrics: Vec<String> = self.metrics.iter().map(|(task, metric)| format!("{task}.{metric}")).collect();
        let taken = |name: &str| {
            ["state", "message"].contains(&name)
                || FACTS.contains(&name)
                || metrics
                    .iter()
                    .any(|metric| name.strip_prefix(metric.as_str()).is_some_and(|s| SUFFIXES.contains(&s)))
        };
        let header = |name: &String| if taken(name) { format!("label:{name}") } else { name.clone() };
        self.labels.iter().map(header).collect()
    }
}

/// Writes a table line by line while its rows come in.
#[derive(Debug)]
pub struct CsvWriter {
    path: PathBuf,
    file: File,
    columns: CsvColumns,
}

impl CsvWriter {
    /// Creates (or empties) the file and writes its header.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn create(path: &Path, columns: CsvColumns) -> Result<Self, ReportError> {
        let io = |source| ReportError::Io { path: path.to_owned(), source };
        let mut file = File::create(path).map_err(io)?;
        let empty = Table::default();
        let header = render(frame(&Analysis::new(&empty)?, &columns)?, true)?;
        file.write_all(header.as_bytes()).map_err(io)?;
        Ok(Self { path: path.to_owned(), file, columns })
    }

    /// Appends one row, without comparisons: those need the other rows. Metrics that the header does not have are left
    /// to [`CsvWriter::finish`].
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn append(&mut self, row: &Row) -> Result<(), ReportError> {
        let table = Table { rows: vec![row.clone()], ..Table::default() };
        let line = render(frame(&Analysis::new(&table)?, &self.columns)?, false)?;
        let io = |source| ReportError::Io { path: self.path.clone(), source };
        self.file.write_all(line.as_bytes()).map_err(io)?;
        self.file.flush().map_err(io)
    }

    /// Replaces the file by the whole table with its comparisons, in the order of the script, in one rename.
    ///
    /// # Errors
    /// Where the file beside it cannot be written or renamed.
    pub fn finish(self, analysis: &Analysis<'_>) -> Result<(), ReportError> {
        let columns = self.columns.extended(&CsvColumns::of(analysis.table));
        write_then_rename(&self.path, &render(frame(analysis, &columns)?, true)?)
    }
}

/// The whole table as CSV, header included.
///
/// # Errors
/// Where the columns cannot be put together.
pub fn csv(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    render(frame(analysis, &CsvColumns::of(analysis.table))?, true)
}

/// Every comparison of the table as CSV: with the baseline, then the declared contrasts.
///
/// # Errors
/// Where the columns cannot be put together.
pub fn comparisons_csv(analysis: &Analysis<'_>) -> Result<String, ReportError> {
    let all: Vec<&Comparison> = analysis.against_baseline.iter().chain(&analysis.contrasts).collect();
    let paired = |get: fn(&super::Paired) -> Option<f64>| -> Vec<Option<f64>> {
        all.iter().map(|c| c.outcome.as_ref().ok().and_then(get)).collect()
    };
    let names = |side: fn(&super::Pair) -> usize| -> Vec<String> {
        all.iter().map(|c| footer::name(analysis, side(&c.pair))).collect()
    };
    let key = |c: &&Comparison| &analysis.metrics[c.metric];
    let verdicts: Vec<Option<Verdict>> = all.iter().map(|c| analysis.verdict(c)).collect();
    let margin = |c: &&Comparison| analysis.margin(key(c));
    let method = |c: &&Comparison| c.outcome.as_ref().ok().map(|p| format!("{:?}", p.method).to_lowercase());
    let frame = df!(
        "against" => all.iter().map(|c| if c.pair.contrast.is_some() { "contrast" } else { "baseline" }).collect::<Vec<_>>(),
        "left" => names(|pair| pair.left),
        "right" => names(|pair| pair.right),
        "task" => all.iter().map(|c| key(c).task.clone()).collect::<Vec<_>>(),
        "metric" => all.iter().map(|c| key(c).name.clone()).collect::<Vec<_>>(),
        "delta" => paired(|p| Some(p.difference)),
        "low" => paired(|p| p.interval.map(|i| i.low)),
        "high" => paired(|p| p.interval.map(|i| i.high)),
        "p" => paired(|p| p.p_value),
        "p_adjusted" => paired(|p| p.p_adjusted),
        "items" => paired(|p| Some(p.items as f64)),
        "left_only" => paired(|p| p.discordance.map(|d| d.left_only as f64)),
        "right_only" => paired(|p| p.discordance.map(|d| d.right_only as f64)),
        "detectable" => paired(|p| p.detectable),
        "margin" => all.iter().map(margin).collect::<Vec<_>>(),
        "verdict" => verdicts.iter().map(|verdict| verdict.map(Verdict::name)).collect::<Vec<_>>(),
        "items_needed" => verdicts.iter().map(|verdict| verdict.and_then(Verdict::items).map(|n| n as f64)).collect::<Vec<_>>(),
        "test" => all.iter().map(method).collect::<Vec<_>>(),
        "unpaired" => all.iter().map(|c| c.outcome.as_ref().err().cloned()).collect::<Vec<_>>(),
    )?;
    render(frame, true)
}

/// One line per row of the input, in order.
fn frame(analysis: &Analysis<'_>, columns: &CsvColumns) -> Result<DataFrame, ReportError> {
    let rows = &analysis.table.rows;
    let mut result: Vec<Column> = Vec::new();
    for (label, header) in columns.labels.iter().zip(columns.label_headers()) {
        let text = |row: &Row| match labels::get(&row.labels, label) {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        result.push(Column::new(header.into(), rows.iter().map(text).collect::<Vec<_>>()));
    }
    let state = |row: &Row| match row.state {
        RowState::Complete => "complete",
        RowState::Failed { .. } => "failed",
        RowState::Missing => "missing",
    };
    let message = |row: &Row| match &row.state {
        RowState::Failed { message } => Some(message.clone()),
        _ => None,
    };
    result.push(Column::new("state".into(), rows.iter().map(state).collect::<Vec<_>>()));
    result.push(Column::new("message".into(), rows.iter().map(message).collect::<Vec<_>>()));
    for (task, metric) in &columns.metrics {
        let values: Vec<[Option<f64>; SUFFIXES.len()]> =
            (0..rows.len()).map(|row| metric_values(analysis, row, task, metric)).collect();
        for (position, suffix) in SUFFIXES.iter().enumerate() {
            let column: Vec<Option<f64>> = values.iter().map(|row| row[position]).collect();
            let name = format!("{task}.{metric}{suffix}");
            let column = Column::new(name.into(), column);
            let whole = [".items", ".unparsed", ".seeds"].contains(suffix);
            result.push(if whole { column.cast(&DataType::UInt64)? } else { column });
        }
    }
    result.push(Column::new(FACTS[0].into(), rows.iter().map(|r| r.model.bits_per_weight).collect::<Vec<_>>()));
    result.push(Column::new(FACTS[1].into(), rows.iter().map(|r| r.model.bits_per_parameter).collect::<Vec<_>>()));
    result.push(Column::new(FACTS[2].into(), rows.iter().map(|r| r.model.bytes_on_disk).collect::<Vec<_>>()));
    result.push(Column::new(FACTS[3].into(), rows.iter().map(|r| r.model.compute_dtype.clone()).collect::<Vec<_>>()));
    result.push(Column::new(FACTS[4].into(), rows.iter().map(|r| r.model.engine.clone()).collect::<Vec<_>>()));
    result.push(Column::new(FACTS[5].into(), rows.iter().map(|r| r.stale_engine).collect::<Vec<_>>()));
    Ok(DataFrame::new(rows.len(), result)?)
}

/// Values of one row and metric in the order of [`SUFFIXES`]. A row that is one seed of several has its own estimate,
/// and the interval over the items of the configuration belongs to none of them alone, so it is left empty.
fn metric_values(analysis: &Analysis<'_>, row: usize, task: &str, metric: &str) -> [Option<f64>; SUFFIXES.len()] {
    let mut values = [None; SUFFIXES.len()];
    let group = analysis.groups.iter().position(|group| group.rows.contains(&row));
    let key = analysis.metrics.iter().position(|key| key.task == task && key.name == metric);
    let (Some(group), Some(key)) = (group, key) else { return values };
    let Some(input) = analysis.table.rows[row]
        .tasks
        .iter()
        .find(|result| result.task == task)
        .and_then(|result| result.metrics.iter().find(|candidate| candidate.name == metric))
    else {
        return values;
    };
    let Some(cell) = analysis.cell(group, key) else { return values };
    let alone = analysis.groups[group].rows.len() == 1;
    if alone {
        values[0] = cell.estimate.as_ref().ok().copied();
        values[1] = cell.interval.map(|interval| interval.low);
        values[2] = cell.interval.map(|interval| interval.high);
    } else {
        let (sum, weight) = input.items.iter().fold((0.0, 0.0), |(s, w), item| (s + item.sum, w + item.weight));
        values[0] = Some(sum / weight).filter(|value| value.is_finite());
    }
    values[3] = Some(input.items.len() as f64);
    values[4] = Some(input.items.iter().map(|item| item.weight).sum());
    values[5] = Some(input.unparsed as f64);
    if let Some((mean, sd)) = mean_and_sd(&cell.per_seed) {
        (values[6], values[7], values[8]) = (Some(cell.per_seed.len() as f64), Some(mean), Some(sd));
    }
    if let Some(paired) = analysis.difference(group, key).and_then(|comparison| comparison.outcome.as_ref().ok()) {
        values[9] = Some(paired.difference);
        values[10] = paired.interval.map(|interval| interval.low);
        values[11] = paired.interval.map(|interval| interval.high);
        (values[12], values[13], values[14]) = (paired.p_value, paired.p_adjusted, paired.detectable);
    }
    values
}

fn render(mut frame: DataFrame, header: bool) -> Result<String, ReportError> {
    let mut bytes = Vec::new();
    polars_io::csv::write::CsvWriter::new(&mut bytes).include_header(header).finish(&mut frame)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Writes beside `path`, then renames over it: whoever reads the file sees the old one or the new one.
fn write_then_rename(path: &Path, text: &str) -> Result<(), ReportError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let beside = path.with_file_name(name);
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| {
        // The half-written file is worth nothing; the reason for the failure is.
        let _ = std::fs::remove_file(&beside);
        ReportError::Io { path: path.to_owned(), source }
    })
}
