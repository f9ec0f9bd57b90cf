//! What a script has asked for so far.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
};

use serde_json::Value;

use super::{Cautions, Clock, ScriptEnv, Settings, handle::Signature};
use crate::graph::{
    Graph, NodeId,
    node::{DataSource, Origin},
};

/// Labels of a row, in the order in which the script gave them.
pub type Labels = Vec<(String, Value)>;

/// A row of a table: labels and the evaluations that fill it.
#[derive(Clone, Debug)]
pub struct RowSpec {
    pub labels: Labels,
    /// Evaluation nodes with the names of their tasks.
    pub tasks: Vec<(String, NodeId)>,
    pub origin: Origin,
}

/// A table that a script declares.
#[derive(Clone, Debug)]
pub struct ReportSpec {
    pub name: String,
    /// Index of the baseline among the rows.
    pub baseline: Option<usize>,
    pub rows: Vec<RowSpec>,
    /// Pairs of label sets to compare.
    pub contrasts: Vec<(Labels, Labels)>,
    /// What may be given up of a metric, by its name.
    pub margins: Vec<(String, f64)>,
    /// Pairs of labels to draw against each other: rows and columns of a heat map.
    pub heat_maps: Vec<(String, String)>,
    /// Whether the script asked for it to be written.
    pub written: bool,
    pub origin: Origin,
}

/// An artifact to copy out of the store.
#[derive(Clone, Debug, PartialEq)]
pub struct SaveSpec {
    pub node: NodeId,
    pub folder: PathBuf,
    pub origin: Origin,
}

/// What a model from outside is, the files that decide its meaning, and those that would if they were there.
pub(crate) type Opened = (Arc<Signature>, Vec<PathBuf>, Vec<PathBuf>);

/// Grows while a script runs; the graph and the tables are its result.
#[derive(Debug, Default)]
pub struct Builder {
    pub graph: Graph,
    pub reports: Vec<ReportSpec>,
    pub saves: Vec<SaveSpec>,
    pub settings: Settings,
    /// Text of every script and module read, by name, so that errors can show lines.
    pub sources: BTreeMap<String, String>,
    /// Things that look wrong but do not stop a run.
    pub warnings: Vec<String>,
    /// What looks wrong about the texts that nodes read.
    pub cautions: Cautions,
    /// Whether a step draws numbers from the run's seed.
    pub draws: bool,
    /// What data that nodes make were made from: whoever learns of them has seen it too.
    pub(crate) made_of: BTreeMap<NodeId, Vec<DataSource>>,
    /// Models opened so far.
    pub(crate) models: BTreeMap<PathBuf, Opened>,
    pub(crate) clock: Arc<Mutex<Clock>>,
    pub(crate) seed: u64,
    pub(crate) label_seed: bool,
    /// Reports that existed before the current pass, when a script runs once per seed.
    pub(crate) first_report_of_pass: usize,
    pub(crate) opened: Vec<usize>,
}

impl Builder {
    /// Prepares for a pass of a script.
    pub(crate) fn enter(&mut self, name: &str, source: &str, env: &ScriptEnv) {
        self.sources.insert(name.to_owned(), source.to_owned());
        if self.settings.is_unset() {
            self.settings = env.settings.clone();
        }
        self.seed = env.seed;
        self.label_seed = env.label_seed;
        self.first_report_of_pass = self.reports.len();
        self.opened.clear();
        self.clock = Arc::default();
    }

    /// The report of a name, made if this is the first pass that asks for it. `None` if this pass has opened it already.
    pub(crate) fn open_report(&mut self, name: &str, origin: Origin) -> Option<usize> {
        let index = self.reports.iter().position(|r| r.name == name).unwrap_or(self.reports.len());
        if self.opened.contains(&index) {
            return None;
        }
        if index == self.reports.len() {
            self.reports.push(ReportSpec {
                name: name.to_owned(),
                baseline: None,
                rows: Vec::new(),
                contrasts: Vec::new(),
                margins: Vec::new(),
                heat_maps: Vec::new(),
                written: false,
                origin,
            });
        }
        self.opened.push(index);
        Some(index)
    }

    /// What data were made from, as far as nodes of this graph made them.
    pub(crate) fn behind<'a>(&self, data: impl IntoIterator<Item = &'a DataSource>) -> Vec<DataSource> {
        let made = data.into_iter().filter_map(|source| match source {
            DataSource::Node(made) => self.made_of.get(&made.node),
            DataSource::File(_) | DataSource::Demo(_) => None,
        });
        made.flatten().cloned().collect()
    }

    /// Notes what looks wrong, once.
    pub fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    /// Everything that looks wrong, for people.
    pub fn all_warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().chain(self.cautions.all().into_iter().map(|caution| caution.text)).collect()
    }

    /// The evaluation nodes of every written table, and the nodes to save: what a run is for.
    pub fn wanted(&self) -> Vec<NodeId> {
        let rows = self.reports.iter().filter(|r| r.written).flat_map(|r| &r.rows);
        let mut wanted: Vec<NodeId> = rows.flat_map(|r| r.tasks.iter().map(|t| t.1)).collect();
        wanted.extend(self.saves.iter().map(|s| s.node));
        wanted.sort_unstable();
        wanted.dedup();
        wanted
    }
}
