//! The table with its statistics: everything that the renderers print, nothing that they compute.

use rayon::prelude::*;

use super::ReportError;
use super::aggregate::{Aggregate, Group, MetricKey, RawCell, aggregate};
use super::compare::{self, Comparison, Method, Pair, ResampleCache};
use super::input::Table;
use super::labels;
use super::stats::Interval;

/// One metric of one line of the table.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Point estimate `Σ sum / Σ weight`; the reason where the items cannot be used.
    pub estimate: Result<f64, String>,
    /// Its 95 % interval; `None` for too few items.
    pub interval: Option<Interval>,
    /// Method behind the interval.
    pub method: Method,
    /// Number of items.
    pub items: usize,
    /// What the items stand for: tokens, or questions.
    pub weight: f64,
    /// Answers that could not be read.
    pub unparsed: usize,
    /// Estimates of the rows of the group; more than one where the row was repeated with other seeds.
    pub per_seed: Vec<f64>,
    /// How the task was scored.
    pub protocol: String,
}

/// A table with its statistics.
#[derive(Debug)]
pub struct Analysis<'a> {
    /// The input.
    pub table: &'a Table,
    /// Lines of the table.
    pub groups: Vec<Group>,
    /// Index into `groups` of the baseline.
    pub baseline: Option<usize>,
    /// Metrics of all tasks.
    pub metrics: Vec<MetricKey>,
    /// Each line against the baseline; adjusted p-values only where no contrasts are declared.
    pub against_baseline: Vec<Comparison>,
    /// Declared contrasts, matched row by row.
    pub contrasts: Vec<Comparison>,
    /// What a reader must know about the comparisons: contrasts without rows, protocols that differ.
    pub warnings: Vec<String>,
    cells: Vec<Option<Cell>>,
}

impl<'a> Analysis<'a> {
    /// Aggregates the items of a table, and estimates and tests everything that its outputs show.
    ///
    /// # Errors
    /// Where `baseline` is no row of the table, or the aggregation fails.
    pub fn new(table: &'a Table) -> Result<Self, ReportError> {
        if let Some(row) = table.baseline.filter(|row| *row >= table.rows.len()) {
            return Err(ReportError::Baseline { row, rows: table.rows.len() });
        }
        let data = aggregate(table)?;
        let baseline = table.baseline.and_then(|row| data.groups.iter().position(|group| group.rows.contains(&row)));
        let declared: Vec<Vec<Pair>> =
            table.contrasts.iter().enumerate().map(|(i, c)| compare::matched(c, i, &data.groups)).collect();
        let mut warnings = Vec::new();
        for (contrast, pairs) in table.contrasts.iter().zip(&declared) {
            if pairs.is_empty() {
                warnings.push(format!(
                    "contrast {} against {}: no two rows that are equal in all other labels",
                    labels::line(&contrast.left),
                    labels::line(&contrast.right),
                ));
            }
        }
        let default_pairs = compare::against_baseline(data.groups.len(), baseline);
        let declared: Vec<Pair> = declared.into_iter().flatten().collect();
        let family = if table.contrasts.is_empty() { default_pairs.len() } else { declared.len() };
        let sizes =
            data.cells.iter().flatten().filter_map(|cell| cell.items.as_ref().ok()).map(|items| items.ids.len());
        let cache = ResampleCache::new(sizes, family);
        let cells = estimate(&data, &cache);
        let mut against_baseline = test(&data, &default_pairs, MetricKey::is_tested_against_baseline, &cache);
        let mut contrasts = test(&data, &declared, MetricKey::is_tested, &cache);
        compare::adjust(if table.contrasts.is_empty() { &mut against_baseline } else { &mut contrasts });
        warnings.extend(protocol_warnings(&data));
        warnings.extend(unlike_seeds(table, &data));
        let Aggregate { groups, metrics, .. } = data;
        let mut analysis = Self { table, groups, baseline, metrics, against_baseline, contrasts, warnings, cells };
        analysis.warnings.extend(analysis.idle_margins());
        Ok(analysis)
    }

    /// The cell of a line and a metric; `None` where the line has no such result.
    #[must_use]
    pub fn cell(&self, group: usize, metric: usize) -> Option<&Cell> {
        self.cells.get(group * self.metrics.len() + metric).and_then(Option::as_ref)
    }

    /// The comparison of a line with the baseline.
    #[must_use]
    pub fn difference(&self, group: usize, metric: usize) -> Option<&Comparison> {
        self.against_baseline.iter().find(|c| c.pair.left == group && c.metric == metric)
    }

    /// The comparisons whose p-values were adjusted together, metric by metric.
    #[must_use]
    pub fn family(&self) -> &[Comparison] {
        if self.table.contrasts.is_empty() { &self.against_baseline } else { &self.contrasts }
    }
}

fn estimate(data: &Aggregate, cache: &ResampleCache) -> Vec<Option<Cell>> {
    let width = data.metrics.len();
    let one = |(index, raw): (usize, &Option<RawCell>)| {
        let raw = raw.as_ref()?;
        let key = &data.metrics[index % width];
        let mut cell = Cell {
            estimate: Err(String::new()),
            interval: None,
            method: Method::Bootstrap,
            items: 0,
            weight: 0.0,
            unparsed: raw.unparsed,
            per_seed: raw.per_seed.clone(),
            protocol: raw.protocol.clone(),
        };
        match &raw.items {
            Ok(items) => {
                cell.estimate = Ok(items.estimate());
                (cell.interval, cell.method) = compare::interval(items, &raw.per_seed, key, cache);
                cell.items = items.ids.len();
                cell.weight = items.weights.iter().sum();
            }
            Err(reason) => cell.estimate = Err(reason.clone()),
        }
        Some(cell)
    };
    data.cells.par_iter().enumerate().map(one).collect()
}

fn test(data: &Aggregate, pairs: &[Pair], tested: fn(&MetricKey) -> bool, cache: &ResampleCache) -> Vec<Comparison> {
    let width = data.metrics.len();
    let mut wanted = Vec::new();
    for pair in pairs {
        for (metric, key) in data.metrics.iter().enumerate().filter(|(_, key)| tested(key)) {
            let side = |group: usize| data.cells[group * width + metric].as_ref();
            if let (Some(left), Some(right)) = (side(pair.left), side(pair.right)) {
                wanted.push((pair, metric, key, left, right));
            }
        }
    }
    let one = |(pair, metric, key, left, right): (&Pair, usize, &MetricKey, &RawCell, &RawCell)| {
        let outcome = compare::compare(left, right, key, &data.item_names, cache);
        Comparison { pair: pair.clone(), metric, outcome }
    };
    wanted.into_par_iter().map(one).collect()
}

fn all_equal<T: PartialEq>(mut values: impl Iterator<Item = T>) -> bool {
    let first = values.next();
    first.is_none_or(|first| values.all(|value| value == first))
}

/// One warning per line whose seeds are models of other sizes: the line shows those of its first.
fn unlike_seeds(table: &Table, data: &Aggregate) -> Vec<String> {
    let unlike = |group: &&Group| {
        let models = group.rows.iter().map(|row| &table.rows[*row].model);
        let known = models.filter(|model| model.bits_per_weight.is_some());
        !all_equal(known.map(|model| (model.bits_per_weight.map(f64::to_bits), &model.engine)))
    };
    let line = |group: &Group| {
        format!(
            "{}: the models of its seeds differ in bits/weight; the line shows those of the first, table.csv each",
            labels::line(&group.labels)
        )
    };
    data.groups.iter().filter(unlike).map(line).collect()
}

/// One warning per task whose rows were not all scored in the same way.
fn protocol_warnings(data: &Aggregate) -> Vec<String> {
    let mut warnings: Vec<String> = Vec::new();
    let width = data.metrics.len();
    for (metric, key) in data.metrics.iter().enumerate().filter(|(_, key)| key.primary) {
        let cells = || data.cells.iter().skip(metric).step_by(width.max(1)).flatten();
        let one_protocol = all_equal(cells().map(|cell| &cell.protocol));
        if !one_protocol {
            warnings.push(format!("{}: rows were scored under different protocols and are not compared", key.task));
        }
        if one_protocol && !all_equal(cells().map(|cell| &cell.subject)) {
            warnings.push(format!(
                "{}: rows were scored on different tokens or questions (their tokenizers read the text differently, or their task files \
                 hold others) and are not compared",
                key.task
            ));
        }
        if !all_equal(cells().map(|cell| &cell.references)) {
            warnings.push(format!("{}: rows are measured from different models and are not compared", key.task));
        }
    }
    warnings
}
