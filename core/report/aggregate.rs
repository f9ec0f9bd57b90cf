//! From items to cells: rows that differ only in their seed become one group, and every (group, metric) one cell.

use std::collections::{BTreeSet, HashMap};

use polars::prelude::*;

use super::ReportError;
use super::input::{Labels, Metric, MetricKind, Row, RowState, SEED_LABEL, Table};

/// One line of the table: a row, or several that differ only in their seed.
#[derive(Debug, Clone)]
pub struct Group {
    /// Labels without the seed where the group has several rows.
    pub labels: Labels,
    /// Rows of the input, in order.
    pub rows: Vec<usize>,
    /// Reasons of the rows that failed.
    pub failures: Vec<String>,
    /// How many of its rows are complete.
    pub complete: usize,
    /// Whether it has several rows, and every one of them the same values: nothing that matters was drawn.
    pub undrawn: bool,
}

/// A metric of a task, across all rows.
#[derive(Debug, Clone)]
pub struct MetricKey {
    /// Task name.
    pub task: String,
    /// Metric name.
    pub name: String,
    /// Unit.
    pub kind: MetricKind,
    /// Which direction is an improvement.
    pub higher_is_better: Option<bool>,
    /// It stands for its task.
    pub primary: bool,
}

impl MetricKey {
    /// Differences are tested on the metric that stands for the task, and on the likelihood wherever it was measured.
    #[must_use]
    pub fn is_tested(&self) -> bool {
        self.primary || self.is_nll()
    }

    /// Whether rows are tested against the baseline on it: tested, and not itself a distance to a reference model, whose
    /// difference to the reference's own zero would only say the same again.
    #[must_use]
    pub fn is_tested_against_baseline(&self) -> bool {
        self.is_tested() && !["kl", "top1"].contains(&self.name.as_str())
    }

    /// The likelihood metric, which is shown as perplexity.
    #[must_use]
    pub fn is_nll(&self) -> bool {
        self.name == "nll" && self.kind == MetricKind::MeanNats
    }

    /// The range that a value can lie in.
    #[must_use]
    pub fn bounds(&self) -> (f64, f64) {
        match self.kind {
            MetricKind::Rate => (0.0, 1.0),
            MetricKind::MeanNats => (0.0, f64::INFINITY),
            MetricKind::Mean => (f64::NEG_INFINITY, f64::INFINITY),
        }
    }
}

/// The items of one cell, in ascending order of their identifier.
#[derive(Debug, Clone, Default)]
pub(super) struct Items {
    /// Identifiers, numbered in the order of their text over the whole table.
    pub ids: Vec<u32>,
    /// Weight of each item; the mean over the seeds in a group of several.
    pub weights: Vec<f64>,
    /// Sum of each item; the mean over the seeds in a group of several.
    pub sums: Vec<f64>,
}

impl Items {
    /// Whether this is one right / wrong answer per item.
    #[must_use]
    pub(super) fn is_binary(&self) -> bool {
        self.weights.iter().all(|w| *w == 1.0) && self.sums.iter().all(|s| *s == 0.0 || *s == 1.0)
    }

    /// `Σ sum / Σ weight` in the order of the items, so that the last bit is the same on every machine.
    #[must_use]
    pub(super) fn estimate(&self) -> f64 {
        self.sums.iter().sum::<f64>() / self.weights.iter().sum::<f64>()
    }
}

/// What is known about one metric of one group, before statistics.
#[derive(Debug, Clone)]
pub(super) struct RawCell {
    /// Items, averaged over the seeds; the reason where they cannot be used.
    pub items: Result<Items, String>,
    /// Estimates of the single rows, in the order of the group's rows.
    pub per_seed: Vec<f64>,
    /// The seeds of those rows.
    pub seeds: Vec<String>,
    /// Unparsed answers over all rows of the group.
    pub unparsed: usize,
    /// How the task was scored.
    pub protocol: String,
    /// Digest of what was scored.
    pub subject: Option<String>,
    /// Those of the models that divergences are measured from, of all rows of the group.
    pub references: BTreeSet<String>,
}

/// Groups, metrics and cells of a table, with the texts of the item identifiers.
pub(super) struct Aggregate {
    pub groups: Vec<Group>,
    pub metrics: Vec<MetricKey>,
    /// `groups x metrics`, row-major.
    pub cells: Vec<Option<RawCell>>,
    pub item_names: Vec<String>,
}

/// Groups the rows and gathers their items.
pub(super) fn aggregate(table: &Table) -> Result<Aggregate, ReportError> {
    let mut groups = group_rows(&table.rows);
    let metrics = metric_keys(&table.rows);
    let names = ItemNames::of(&table.rows);
    let long = long_frame(&groups, &metrics, &names, &table.rows)?;
    let mut cells = empty_cells(&groups, &metrics, &table.rows);
    fill_items(&mut cells, &long, metrics.len(), &names)?;
    fill_seeds(&mut cells, &long, metrics.len(), &table.rows)?;
    mark_undrawn(&mut groups, &mut cells, &metrics);
    Ok(Aggregate { groups, metrics, cells, item_names: names.sorted })
}

/// Rows with a seed label join the first group that has the same other labels; a row without one stands alone.
fn group_rows(rows: &[Row]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    let mut seeded: HashMap<String, usize> = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let has_seed = row.labels.iter().any(|(key, _)| key == SEED_LABEL);
        let mut rest: Vec<String> =
            row.labels.iter().filter(|(key, _)| key != SEED_LABEL).map(|(k, v)| format!("{k}\u{1f}{v}")).collect();
        rest.sort();
        let slot = if has_seed { *seeded.entry(rest.join("\u{1e}")).or_insert(groups.len()) } else { groups.len() };
        if slot == groups.len() {
            groups.push(Group {
                labels: row.labels.clone(),
                rows: Vec::new(),
                failures: Vec::new(),
                complete: 0,
                undrawn: false,
            });
        }
        let group = &mut groups[slot];
        group.rows.push(index);
        match &row.state {
            RowState::Complete => group.complete += 1,
            RowState::Failed { message } => group.failures.push(message.clone()),
            RowState::Missing => {}
        }
    }
    for group in &mut groups {
        if group.rows.len() > 1 {
            group.labels.retain(|(key, _)| key != SEED_LABEL);
        }
    }
    groups
}

/// All metrics in the order of tasks, then of metrics, of their first appearance; a task's primary metric comes first.
fn metric_keys(rows: &[Row]) -> Vec<MetricKey> {
    let mut tasks: Vec<(String, Vec<MetricKey>)> = Vec::new();
    for result in rows.iter().flat_map(|row| &row.tasks) {
        let slot = tasks.iter().position(|(task, _)| *task == result.task).unwrap_or_else(|| {
            tasks.push((result.task.clone(), Vec::new()));
            tasks.len() - 1
        });
        for metric in &result.metrics {
            let keys = &mut tasks[slot].1;
            if keys.iter().any(|key| key.name == metric.name) {
                continue;
            }
            let primary = metric.name == result.primary;
            let key = MetricKey {
                task: result.task.clone(),
                name: metric.name.clone(),
                kind: metric.kind,
                higher_is_better: metric.higher_is_better,
                primary,
            };
            keys.insert(if primary { 0 } else { keys.len() }, key);
        }
    }
    tasks.into_iter().flat_map(|(_, keys)| keys).collect()
}

/// Item identifiers as numbers in the order of their text: the order of floating-point sums then does not depend on the
/// order in which a task listed its items.
struct ItemNames {
    sorted: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl ItemNames {
    fn of(rows: &[Row]) -> Self {
        let items = rows.iter().flat_map(|row| &row.tasks).flat_map(|task| &task.metrics).flat_map(|m| &m.items);
        let mut sorted: Vec<String> = items.map(|item| item.id.clone()).collect();
        sorted.sort_unstable();
        sorted.dedup();
        let numbers = sorted.iter().enumerate().map(|(number, name)| (name.clone(), number as u32)).collect();
        Self { sorted, numbers }
    }
}

/// One line per item: group, metric, item, row, weight, sum.
fn long_frame(
    groups: &[Group],
    metrics: &[MetricKey],
    names: &ItemNames,
    rows: &[Row],
) -> Result<DataFrame, ReportError> {
    let (mut group_column, mut metric_column, mut item_column, mut row_column) = (vec![], vec![], vec![], vec![]);
    let (mut weights, mut sums) = (Vec::new(), Vec::new());
    for (group_index, group) in groups.iter().enumerate() {
        for &row in &group.rows {
            for (metric_index, metric) in row_metrics(&rows[row], metrics) {
                for item in &metric.items {
                    group_column.push(group_index as u32);
                    metric_column.push(metric_index as u32);
                    item_column.push(names.numbers.get(&item.id).copied().unwrap_or_default());
                    row_column.push(row as u32);
                    weights.push(item.weight);
                    sums.push(item.sum);
                }
            }
        }
    }
    Ok(df!(
        "group" => group_column, "metric" => metric_column, "item" => item_column, "row" => row_column,
        "weight" => weights, "sum" => sums,
    )?)
}

/// The metrics of one row with their index among `keys`.
fn row_metrics<'a>(row: &'a Row, keys: &'a [MetricKey]) -> impl Iterator<Item = (usize, &'a Metric)> {
    row.tasks.iter().flat_map(move |task| {
        task.metrics.iter().filter_map(move |metric| {
            let index = keys.iter().position(|key| key.task == task.task && key.name == metric.name)?;
            Some((index, metric))
        })
    })
}

/// Cells of the metrics that a group has at all, still without items.
fn empty_cells(groups: &[Group], metrics: &[MetricKey], rows: &[Row]) -> Vec<Option<RawCell>> {
    let mut cells: Vec<Option<RawCell>> = vec![None; groups.len() * metrics.len()];
    for (group_index, group) in groups.iter().enumerate() {
        for row in group.rows.iter().map(|row| &rows[*row]) {
            for task in &row.tasks {
                for metric in &task.metrics {
                    let Some(index) = metrics.iter().position(|k| k.task == task.task && k.name == metric.name) else {
                        continue;
                    };
                    let cell = cells[group_index * metrics.len() + index].get_or_insert_with(|| RawCell {
                        items: Err("no items".to_owned()),
                        per_seed: Vec::new(),
                        seeds: Vec::new(),
                        unparsed: 0,
                        protocol: task.protocol.clone(),
                        subject: task.subject.clone(),
                        references: BTreeSet::new(),
                    });
                    cell.unparsed += metric.unparsed;
                    cell.references.extend(task.reference.clone());
                    if cell.protocol != task.protocol {
                        cell.items = Err("its seeds were scored under different protocols".to_owned());
                    }
                    if cell.subject != task.subject {
                        cell.items = Err("its seeds were scored on different tokens or questions".to_owned());
                    }
                }
            }
        }
    }
    cells
}

/// Averages every item over the rows of its group and hands each cell its items.
fn fill_items(
    cells: &mut [Option<RawCell>],
    long: &DataFrame,
    metrics: usize,
    names: &ItemNames,
) -> Result<(), ReportError> {
    let merged = long
        .clone()
        .lazy()
        .group_by_stable([col("group"), col("metric"), col("item")])
        .agg([col("weight").mean(), col("sum").mean(), col("row").n_unique().alias("rows"), len().alias("entries")])
        .sort(["group", "metric", "item"], SortMultipleOptions::default())
        .collect()?;
    let column = |name: &str| -> PolarsResult<Vec<u32>> {
        Ok(merged.column(name)?.cast(&DataType::UInt32)?.u32()?.into_no_null_iter().collect())
    };
    let (group, metric, item) = (column("group")?, column("metric")?, column("item")?);
    let (rows, entries) = (column("rows")?, column("entries")?);
    let weight: Vec<f64> = merged.column("weight")?.f64()?.into_no_null_iter().collect();
    let sum: Vec<f64> = merged.column("sum")?.f64()?.into_no_null_iter().collect();

    let mut start = 0;
    while start < group.len() {
        let same = |i: &usize| group[*i] == group[start] && metric[*i] == metric[start];
        let end = (start..group.len()).take_while(same).last().map_or(start, |last| last + 1);
        let slot = group[start] as usize * metrics + metric[start] as usize;
        let cell = cells.get_mut(slot).and_then(Option::as_mut);
        if let Some(cell) = cell {
            let most = rows[start..end].iter().max().copied().unwrap_or_default();
            let name = |i: usize| names.sorted.get(item[i] as usize).map_or("", String::as_str);
            let problem = (start..end).find_map(|i| {
                if entries[i] != rows[i] {
                    Some(format!("item `{}` is listed twice", name(i)))
                } else if rows[i] != most {
                    Some(format!("its seeds were scored on different items (`{}`)", name(i)))
                } else if !sum[i].is_finite() || !weight[i].is_finite() || weight[i] <= 0.0 {
                    Some(format!("item `{}` has the value {} over the weight {}", name(i), sum[i], weight[i]))
                } else {
                    None
                }
            });
            let unusable = matches!(&cell.items, Err(reason) if reason != "no items");
            if !unusable {
                cell.items = problem.map_or_else(
                    || {
                        Ok(Items {
                            ids: item[start..end].to_vec(),
                            weights: weight[start..end].to_vec(),
                            sums: sum[start..end].to_vec(),
                        })
                    },
                    Err,
                );
            }
        }
        start = end;
    }
    Ok(())
}

/// The seed of a row as text; empty for one without.
fn seed_of(row: &Row) -> String {
    row.labels.iter().find(|(key, _)| key == SEED_LABEL).map_or_else(String::new, |(_, seed)| seed.to_string())
}

/// Estimates of the single rows: what the spread over the seeds is taken from.
fn fill_seeds(
    cells: &mut [Option<RawCell>],
    long: &DataFrame,
    metrics: usize,
    rows: &[Row],
) -> Result<(), ReportError> {
    let per_row = long
        .clone()
        .lazy()
        .group_by_stable([col("group"), col("metric"), col("row")])
        .agg([(col("sum").sum() / col("weight").sum()).alias("estimate")])
        .sort(["group", "metric", "row"], SortMultipleOptions::default())
        .collect()?;
    let group = per_row.column("group")?.u32()?.into_no_null_iter();
    let metric = per_row.column("metric")?.u32()?.into_no_null_iter();
    let row = per_row.column("row")?.u32()?.into_no_null_iter();
    let estimate = per_row.column("estimate")?.f64()?.into_no_null_iter();
    for (((group, metric), row), estimate) in group.zip(metric).zip(row).zip(estimate) {
        if let Some(cell) = cells.get_mut(group as usize * metrics + metric as usize).and_then(Option::as_mut) {
            cell.per_seed.push(estimate);
            cell.seeds.push(rows.get(row as usize).map_or_else(String::new, seed_of));
        }
    }
    Ok(())
}

/// Finds the groups whose rows are the same to the last bit: a spread over seeds of which none mattered is none. Only likelihoods
/// tell, which no two models share; the same number of right answers is luck.
fn mark_undrawn(groups: &mut [Group], cells: &mut [Option<RawCell>], metrics: &[MetricKey]) {
    let tells: Vec<bool> = metrics.iter().map(|key| key.kind == MetricKind::MeanNats).collect();
    let metrics = metrics.len();
    for (index, group) in groups.iter_mut().enumerate().filter(|(_, group)| group.rows.len() > 1) {
        let cells = &mut cells[index * metrics..(index + 1) * metrics];
        let same = |cell: &RawCell| {
            cell.per_seed.len() == group.rows.len() && cell.per_seed.iter().all(|value| *value == cell.per_seed[0])
        };
        let told = cells.iter().zip(&tells).any(|(cell, tells)| *tells && cell.is_some());
        group.undrawn = told && cells.iter().flatten().all(same);
        if group.undrawn {
            cells.iter_mut().flatten().for_each(|cell| {
                cell.per_seed.truncate(1);
                cell.seeds.truncate(1);
            });
        }
    }
}
