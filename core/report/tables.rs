//! From a script's tables and the store's records to reports: the one place that reads many records.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Map, Value, json};

use super::{
    Analysis, CsvColumns, CsvWriter, ReportError, Terminal, Verdict,
    input::{
        Contrast, GraphNode, GraphPicture, HeatMap, Item, Metric, MetricKind, ModelFacts, Row, RowState, Table,
        TaskResult,
    },
    markdown,
    progressions::curves,
    provenance::{machines, remarks},
    terminal,
};
use crate::{
    error::{Error, Result},
    eval::{self, Method, MetricInfo, Unit},
    exec::{End, Event, Outcome},
    graph::{Graph, Input, Key, NodeId, node::DataSource},
    script::{Builder, Caution, ReportSpec, RowSpec},
    store::{Object, Record, Store, read_sealed, write_atomic, write_sealed},
};

/// A report that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub name: String,
    /// Its folder; `None` where the results folder cannot be written.
    pub folder: Option<PathBuf>,
    /// The table for a terminal.
    pub terminal: String,
    /// The table for a program.
    pub json: Value,
    /// Why its files could not be written, where that was needed.
    pub unwritten: Option<Error>,
}

/// The tables of a run, filled as nodes end.
pub struct Tables<'a> {
    builder: &'a Builder,
    keys: &'a [(Value, Key)],
    store: &'a Store,
    script: String,
    reports: Vec<Filling<'a>>,
}

/// A table on its way: rows are appended to its CSV as soon as they are complete.
struct Filling<'a> {
    spec: &'a ReportSpec,
    csv: Option<CsvWriter>,
    appended: Vec<bool>,
    /// The fingerprint of the report that lies there already, if it is the same.
    unchanged: Option<Rendered>,
    fingerprint: String,
}

/// What was drawn the last time, so that a run in which nothing is new need not test everything again.
#[derive(serde::Serialize, serde::Deserialize)]
struct Rendered {
    fingerprint: String,
    /// Digests of the files that were written with it.
    files: BTreeMap<String, String>,
    width: Option<usize>,
    color: bool,
    terminal: String,
    json: Value,
}

impl Rendered {
    /// Whether its files are there as they were written.
    fn lies_in(&self, folder: &Path) -> bool {
        let same = |(name, digest): (&String, &String)| {
            std::fs::read(folder.join(name)).is_ok_and(|bytes| blake3::hash(&bytes).to_hex().as_str() == digest)
        };
        self.files.iter().all(same)
    }
}

/// The rows that are done, while a run goes on.
const GROWING: &str = "table.partial.csv";

const RENDERED: &str = "rendered.json";

impl<'a> Tables<'a> {
    /// Prepares the reports that a script asked to write.
    ///
    /// # Errors
    /// A CSV file that cannot be begun, unless the whole results folder cannot be written.
    pub fn new(builder: &'a Builder, keys: &'a [(Value, Key)], store: &'a Store, script: &str) -> Result<Self> {
        let mut tables = Self { builder, keys, store, script: script.to_owned(), reports: Vec::new() };
        for spec in builder.reports.iter().filter(|r| r.written) {
            let fingerprint = tables.fingerprint(spec);
            let path = store.report_folder(&spec.name);
            let known: Option<Rendered> =
                read_sealed(&path.join(RENDERED)).and_then(|text| serde_json::from_str(&text).ok());
            let complete = spec.rows.iter().flat_map(|r| &r.tasks).all(|(_, node)| store.holds(tables.key(*node)));
            let unchanged = known.filter(|r| complete && r.fingerprint == fingerprint && r.lies_in(&path));
            let csv = if unchanged.is_some() { None } else { tables.begin_csv(spec)? };
            tables.reports.push(Filling { spec, csv, appended: vec![false; spec.rows.len()], unchanged, fingerprint });
        }
        Ok(tables)
    }

    fn key(&self, node: NodeId) -> &'a Key {
        &self.keys[node.0].1
    }

    /// Everything that a report is made of.
    fn fingerprint(&self, spec: &ReportSpec) -> String {
        let rows: Vec<Value> = spec
            .rows
            .iter()
            .map(|r| json!({ "labels": r.labels, "tasks": r.tasks.iter().map(|(name, node)| json!([name, self.key(*node)])).collect::<Vec<_>>() }))
            .collect();
        let cautions: Vec<String> = self.builder.cautions.all().into_iter().map(|caution| caution.text).collect();
        let whole = json!({
            "report": crate::engine::report(), "name": spec.name, "script": self.script, "baseline": spec.baseline,
            "rows": rows, "cautions": cautions, "contrasts": spec.contrasts, "margins": spec.margins, "heat_maps": spec.heat_maps, "settings": self.builder.settings.pairs(),
        });
        Key::of(&whole).to_string()
    }

    /// Begins the table that grows while the run goes on, beside the files of the last run that ended.
    fn begin_csv(&self, spec: &ReportSpec) -> Result<Option<CsvWriter>> {
        let mut columns = CsvColumns { labels: Vec::new(), metrics: Vec::new() };
        for row in &spec.rows {
            for (name, _) in &row.labels {
                if !columns.labels.contains(name) {
                    columns.labels.push(name.clone());
                }
            }
            for (task, node) in &row.tasks {
                let method = &self.builder.graph.node(*node).method;
                let method = Method::named(method)
                    .ok_or_else(|| Error::internal(format!("nobody knows what `{method}` measures")))?;
                // A CSV needs its header before its first row.
                for metric in method.metrics() {
                    let column = (task.clone(), metric.name.to_owned());
                    if !columns.metrics.contains(&column) {
                        columns.metrics.push(column);
                    }
                }
            }
        }
        let folder = self.store.report_folder(&spec.name);
        // A results folder that cannot be written is found out before anything runs; a run without work may go on without.
        let made = std::fs::create_dir_all(&folder).is_ok();
        Ok(if made { CsvWriter::create(&folder.join(GROWING), columns).ok() } else { None })
    }

    /// Hears an event of the run: a row whose last task has ended is appended to its CSV.
    pub fn on_event(&mut self, event: &Event) {
        if !matches!(event, Event::NodeEnded { end: End::Done, .. } | Event::RunStarted { .. }) {
            return;
        }
        let (builder, keys, store) = (self.builder, self.keys, self.store);
        for filling in &mut self.reports {
            let Some(csv) = &mut filling.csv else { continue };
            for (index, spec) in filling.spec.rows.iter().enumerate() {
                let complete = || spec.tasks.iter().all(|(_, node)| store.holds(&keys[node.0].1));
                if !filling.appended[index] && complete() {
                    filling.appended[index] = true;
                    // The table is written as a whole at the end: a row that cannot be appended now is not lost.
                    let appended = row(spec, builder, keys, store, &Outcome::default()).map(|row| csv.append(&row));
                    if !matches!(appended, Ok(Ok(()))) {
                        tracing::warn!("a row could not be appended to {GROWING}");
                    }
                }
            }
        }
    }

    /// Writes every report: `index.html`, `table.csv`, `comparisons.csv`, `table.md`, and the text for the terminal.
    ///
    /// # Errors
    /// A record or a file that cannot be read or written.
    pub fn finish(self, outcome: &Outcome, run: &Option<String>, look: Terminal) -> Result<Vec<Written>> {
        let Self { builder, keys, store, script, reports } = self;
        reports.into_iter().map(|filling| finish(filling, builder, keys, store, &script, outcome, run, look)).collect()
    }
}

#[allow(clippy::too_many_arguments)]
fn finish(
    filling: Filling<'_>,
    builder: &Builder,
    keys: &[(Value, Key)],
    store: &Store,
    script: &str,
    outcome: &Outcome,
    run: &Option<String>,
    look: Terminal,
) -> Result<Written> {
    let spec = filling.spec;
    let folder = store.report_folder(&spec.name);
    if let Some(known) = filling.unchanged.filter(|r| r.width == look.width && r.color == look.color) {
        return Ok(Written {
            name: spec.name.clone(),
            folder: Some(folder),
            terminal: known.terminal,
            json: known.json,
            unwritten: None,
        });
    }
    let table = table(spec, builder, keys, store, script, outcome, run)?;
    let analysis = Analysis::new(&table).map_err(failed)?;
    let text = terminal(&analysis, look).map_err(failed)?;
    let json = as_json(&analysis);
    let files = [
        ("table.csv", super::csv(&analysis).map_err(failed)?),
        ("comparisons.csv", super::comparisons_csv(&analysis).map_err(failed)?),
        ("table.md", markdown(&analysis).map_err(failed)?),
        ("index.html", super::html(&analysis).map_err(failed)?),
    ];
    let digest =
        |(name, text): &(&str, String)| ((*name).to_owned(), blake3::hash(text.as_bytes()).to_hex().to_string());
    let rendered = Rendered {
        fingerprint: filling.fingerprint,
        files: files.iter().map(digest).collect(),
        width: look.width,
        color: look.color,
        terminal: text.clone(),
        json: json.clone(),
    };
    let complete = table.rows.iter().all(|r| r.state == RowState::Complete);
    let write = || -> Result<()> {
        // The next run of this name, of whatever model, replaces the first; the second stays with the run.
        let of_run = run.iter().map(|run| store.report_folder_of(run, &spec.name));
        for folder in std::iter::once(folder.clone()).chain(of_run) {
            for (name, text) in &files {
                write_atomic(&folder.join(name), text.as_bytes())?;
            }
        }
        let _ = std::fs::remove_file(folder.join(GROWING));
        if complete {
            let text = serde_json::to_string_pretty(&rendered).map_err(|e| Error::internal(e.to_string()))?;
            write_sealed(&folder.join(RENDERED), &text)?;
        }
        Ok(())
    };
    let (folder, unwritten) = match write() {
        Ok(()) => (Some(folder), None),
        // Only a run that had nothing to do gets here with a folder that cannot be written.
        Err(_) if outcome.ends.is_empty() => (None, None),
        // The table itself is not lost.
        Err(e) => (None, Some(e)),
    };
    Ok(Written { name: spec.name.clone(), folder, terminal: text, json, unwritten })
}

fn failed(error: ReportError) -> Error {
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let message = Error::internal(error.to_string());
    match cause {
        Some(cause) => message.cause(cause),
        None => message,
    }
}

fn table(
    spec: &ReportSpec,
    builder: &Builder,
    keys: &[(Value, Key)],
    store: &Store,
    script: &str,
    outcome: &Outcome,
    run: &Option<String>,
) -> Result<Table> {
    let rows = spec.rows.iter().map(|r| row(r, builder, keys, store, outcome)).collect::<Result<Vec<_>>>()?;
    let contrasts =
        spec.contrasts.iter().map(|(left, right)| Contrast { left: left.clone(), right: right.clone() }).collect();
    let mut provenance = vec![("script".to_owned(), script.to_owned())];
    provenance.extend(run.iter().map(|id| ("run".to_owned(), id.clone())));
    provenance.extend(builder.settings.pairs().into_iter().map(|(k, v)| (format!("--set {k}"), v)));
    provenance.push(("workbench".to_owned(), env!("CARGO_PKG_VERSION").to_owned()));
    let wanted: Vec<NodeId> = spec.rows.iter().flat_map(|r| r.tasks.iter().map(|t| t.1)).collect();
    let closure = builder.graph.closure(wanted);
    provenance.extend(machines(&closure, keys, store));
    let cautions = cautions(builder, &closure);
    Ok(Table {
        name: spec.name.clone(),
        script: script.to_owned(),
        baseline: spec.baseline,
        rows,
        contrasts,
        margins: spec.margins.clone(),
        heat_maps: spec.heat_maps.iter().cloned().map(|(rows, columns)| HeatMap { rows, columns }).collect(),
        curves: curves(&closure, &spec.rows, &builder.graph, keys, store),
        provenance,
        remarks: remarks(&closure, &spec.rows, &builder.graph, keys, store).into_iter().chain(cautions).collect(),
        graph: picture(&closure, &builder.graph, keys, store, outcome),
    })
}

/// What a reader has to know of the texts behind a table.
fn cautions(builder: &Builder, closure: &[NodeId]) -> Vec<String> {
    let about = |caution: &Caution| caution.nodes.iter().any(|node| closure.contains(node));
    builder.cautions.all().into_iter().filter(about).map(|caution| format!("Warning: {}", caution.text)).collect()
}

fn picture(closure: &[NodeId], graph: &Graph, keys: &[(Value, Key)], store: &Store, outcome: &Outcome) -> GraphPicture {
    let mut picture = GraphPicture::default();
    for id in closure {
        let node = graph.node(*id);
        let name = keys[id.0].1.short().to_owned();
        let state = match outcome.ends.get(id) {
            Some(End::Done) => "done",
            Some(End::Failed { .. }) => "failed",
            Some(End::Skipped { .. }) => "skipped",
            Some(End::Interrupted | End::Cancelled) => "pending",
            None if store.holds(&keys[id.0].1) => "cached",
            None => "pending",
        };
        for input in node.inputs.values() {
            let from = match input {
                Input::Node(parent) => keys[parent.0].1.short().to_owned(),
                Input::Source(source) => {
                    if picture.nodes.iter().all(|n| n.id != source.name) {
                        let (id, label) = (source.name.clone(), source.name.clone());
                        picture.nodes.push(GraphNode { id, label, kind: "model".into(), state: "cached".into() });
                    }
                    source.name.clone()
                }
            };
            picture.edges.push((from, name.clone()));
        }
        for source in node.data.values() {
            if let DataSource::Node(made) = source {
                picture.edges.push((keys[made.node.0].1.short().to_owned(), name.clone()));
            }
        }
        let label = node.label.strip_prefix(node.kind.name()).unwrap_or(&node.label).trim().to_owned();
        picture.nodes.push(GraphNode { id: name, label, kind: node.kind.to_string(), state: state.into() });
    }
    picture
}

fn row(spec: &RowSpec, builder: &Builder, keys: &[(Value, Key)], store: &Store, outcome: &Outcome) -> Result<Row> {
    let mut row = Row { labels: spec.labels.clone(), ..Row::default() };
    for (task, node) in &spec.tasks {
        match store.object(&keys[node.0].1) {
            Ok(object) => {
                let record = object.record()?;
                row.model = model_facts(&record);
                row.tasks.push(task_result(task, &object, &record)?);
            }
            Err(_) => row.state = missing(*node, &builder.graph, outcome),
        }
    }
    Ok(row)
}

/// Why a result is not there: its own failure, or that of the node which it waited for.
fn missing(node: NodeId, graph: &Graph, outcome: &Outcome) -> RowState {
    let mut closure = graph.closure([node]);
    closure.reverse();
    let failure = closure.iter().rev().find_map(|id| match outcome.ends.get(id) {
        Some(End::Failed { message, causes, .. }) => {
            Some((id, std::iter::once(message).chain(causes).cloned().collect::<Vec<_>>().join(": ")))
        }
        _ => None,
    });
    match failure {
        Some((id, message)) => RowState::Failed { message: format!("{}: {message}", graph.node(*id).label) },
        None => RowState::Missing,
    }
}

fn model_facts(record: &Record) -> ModelFacts {
    let model = &record.facts["model"];
    let text = |key: &str| model[key].as_str().map(str::to_owned);
    ModelFacts {
        bits_per_weight: model["bits_per_weight"].as_f64(),
        bits_per_parameter: model["bits_per_parameter"].as_f64(),
        quantized_embeddings: model["quantized_embeddings"].as_array().is_some_and(|ends| !ends.is_empty()),
        bytes_on_disk: model["bytes_on_disk"].as_u64(),
        compute_dtype: text("compute_dtype"),
        engine: text("engine"),
    }
}

fn task_result(task: &str, object: &Object, record: &Record) -> Result<TaskResult> {
    let measured = &record.facts["measured"];
    let damaged = |what: &str| {
        Error::refused(format!("the record of {} has no {what}", object.key().short()))
            .hint("delete its folder and run again")
    };
    let metrics: Vec<MetricInfo> =
        serde_json::from_value(measured["metrics"].clone()).map_err(|_| damaged("metrics"))?;
    let items: Vec<eval::Item> = object.items()?;
    let unparsed = items.iter().filter(|i| i.unparsed).count();
    let collect = |info: &MetricInfo| -> Result<Metric> {
        let item = |i: &eval::Item| {
            let sum = i.sums.get(&info.name).copied();
            let sum = sum.ok_or_else(|| damaged(&format!("`{}` of item `{}`", info.name, i.id)))?;
            Ok(Item { id: i.id.clone(), weight: i.weight, sum })
        };
        Ok(Metric {
            name: info.name.clone(),
            kind: match info.unit {
                Unit::Nats => MetricKind::MeanNats,
                Unit::Rate => MetricKind::Rate,
            },
            higher_is_better: Some(info.higher_is_better),
            items: items.iter().map(item).collect::<Result<_>>()?,
            unparsed,
        })
    };
    let facts = |name: &str| measured["facts"][name].as_str().map(str::to_owned);
    Ok(TaskResult {
        task: task.to_owned(),
        protocol: measured["protocol"].as_str().unwrap_or_default().to_owned(),
        subject: ["tokens_digest", "questions_digest"].iter().find_map(|digest| facts(digest)),
        reference: facts("reference_digest"),
        primary: metrics.first().map(|m| m.name.clone()).ok_or_else(|| damaged("metric"))?,
        metrics: metrics.iter().map(collect).collect::<Result<_>>()?,
    })
}

/// The table for a program: estimates, intervals and differences in full precision.
fn as_json(analysis: &Analysis<'_>) -> Value {
    let rows: Vec<Value> = analysis
        .groups
        .iter()
        .enumerate()
        .map(|(group, found)| {
            let mut metrics = Map::new();
            for (index, key) in analysis.metrics.iter().enumerate() {
                let Some(cell) = analysis.cell(group, index) else { continue };
                let against = analysis.difference(group, index).and_then(|c| c.outcome.as_ref().ok());
                metrics.insert(
                    format!("{}/{}", key.task, key.name),
                    json!({
                        "estimate": cell.estimate.as_ref().ok(), "interval": cell.interval.map(|i| [i.low, i.high]), "items": cell.items, "weight": cell.weight,
                        "unparsed": cell.unparsed, "protocol": cell.protocol,
                        "difference": against.map(|d| json!({
                            "value": d.difference, "interval": d.interval.map(|i| [i.low, i.high]), "p": d.p_value, "p_adjusted": d.p_adjusted, "detectable": d.detectable,
                            "verdict": analysis.difference(group, index).and_then(|c| analysis.verdict(c)).map(Verdict::name),
                        })),
                    }),
                );
            }
            let labels: Map<String, Value> = found.labels.iter().cloned().collect();
            let model = found.rows.first().map(|r| &analysis.table.rows[*r].model);
            json!({
                "labels": labels, "metrics": metrics, "failures": found.failures,
                "bits_per_weight": model.and_then(|m| m.bits_per_weight), "bits_per_parameter": model.and_then(|m| m.bits_per_parameter),
                "bytes_on_disk": model.and_then(|m| m.bytes_on_disk),
            })
        })
        .collect();
    let contrasts: Vec<Value> = analysis
        .contrasts
        .iter()
        .map(|c| {
            let labels = |g: usize| analysis.groups[g].labels.iter().cloned().collect::<Map<_, _>>();
            let d = c.outcome.as_ref().ok();
            json!({
                "left": labels(c.pair.left), "right": labels(c.pair.right), "metric": format!("{}/{}", analysis.metrics[c.metric].task, analysis.metrics[c.metric].name),
                "difference": d.map(|d| d.difference), "interval": d.and_then(|d| d.interval).map(|i| [i.low, i.high]), "p": d.and_then(|d| d.p_value), "p_adjusted": d.and_then(|d| d.p_adjusted),
                "verdict": analysis.verdict(c).map(Verdict::name),
            })
        })
        .collect();
    json!({ "rows": rows, "contrasts": contrasts, "warnings": analysis.warnings })
}
