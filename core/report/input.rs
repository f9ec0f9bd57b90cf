//! What a report is made of: plain structs that the caller fills from its records.
//!
//! The report never opens a record itself, so that a table can be made from anything that has items: a finished run,
//! a run that is still going, or synthetic values in a test.

use serde_json::Value;

use crate::store::Curve;

/// Labels of a row in the order in which the script gave them, e.g. `method = "rtn"`, `ignore = ["*.down_proj"]`.
pub type Labels = Vec<(String, Value)>;

/// Name of the label that tells repetitions of one configuration apart; rows that differ in nothing else are summarised
/// together: mean and standard deviation over the seeds, and intervals and tests that take seeds and items as drawn at random.
pub const SEED_LABEL: &str = "seed";

/// One ablation table.
#[derive(Debug, Clone, Default)]
pub struct Table {
    /// Name that the script gave to the report; it titles every output.
    pub name: String,
    /// Path of the script, as a person would type it.
    pub script: String,
    /// Index into `rows` of the row that the others are compared with; `None`: no comparison with a baseline.
    pub baseline: Option<usize>,
    /// Rows in the order of the script. A row that has no result yet is present with its state.
    pub rows: Vec<Row>,
    /// Comparisons that the script declared; where there are any they replace the comparison with the baseline as the
    /// family of tests.
    pub contrasts: Vec<Contrast>,
    /// What a reader would give up of a metric, by its name or `task.name`, on the scale on which differences are shown (points of a rate,
    /// nats): comparisons get a verdict at it.
    pub margins: Vec<(String, f64)>,
    /// Pictures of the rows over two of their labels, for the HTML page.
    pub heat_maps: Vec<HeatMap>,
    /// What nodes behind the rows reported step by step, for the HTML page.
    pub curves: Vec<NodeCurve>,
    /// Facts about the run for the end of the page, in order: commit, engine, CPU, threads, seed, command line, ...
    pub provenance: Vec<(String, String)>,
    /// Sentences that belong under the table whatever its values, e.g. the observer or a method's fallbacks.
    pub remarks: Vec<String>,
    /// The graph that was run, for the picture in the HTML page; may be empty.
    pub graph: GraphPicture,
}

/// One configuration: its labels, and what every task said about it.
#[derive(Debug, Clone, Default)]
pub struct Row {
    /// What distinguishes this row from the others.
    pub labels: Labels,
    /// How far this row has come.
    pub state: RowState,
    /// Results that exist so far; a failed row may hold some.
    pub tasks: Vec<TaskResult>,
    /// Size and arithmetic of the model behind this row.
    pub model: ModelFacts,
    /// The values were computed by an older version of the engine and re-accepted by the user; the row is marked.
    pub stale_engine: bool,
}

/// How far a row has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum RowState {
    /// All its results are here.
    #[default]
    Complete,
    /// A node it depends on failed.
    Failed {
        /// The reason in one line: which node, and why.
        message: String,
    },
    /// Not run yet.
    Missing,
}

/// Facts about the model behind a row, read off the artifact. `None`: not known (the row failed before it existed).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelFacts {
    /// Bits per weight of the linears of the decoder blocks, scales and zero-points counted.
    pub bits_per_weight: Option<f64>,
    /// Bits per parameter of the whole model, everything counted.
    pub bits_per_parameter: Option<f64>,
    /// Whether `lm_head` or the embeddings are quantized.
    pub quantized_embeddings: bool,
    /// Bytes of the checkpoint's files.
    pub bytes_on_disk: Option<u64>,
    /// Dtype of the arithmetic that produced the scores, e.g. `f32`.
    pub compute_dtype: Option<String>,
    /// What produced the scores: `exact` (unquantized), `fake-quantized` (here), or a server's name and version.
    pub engine: Option<String>,
}

/// Result of one task for one row.
#[derive(Debug, Clone, Default)]
pub struct TaskResult {
    /// Name of the task, unique within the row, e.g. `wikitext`.
    pub task: String,
    /// One line for the footer that says how the task was scored: blocks or rolling, context, BOS, tokens, few-shot, ...
    /// Rows are only compared where this line is equal.
    pub protocol: String,
    /// Digest of what was scored: of tokens, where metrics are means over tokens (a text is other tokens to another tokenizer, and nats
    /// per token are then another unit), of questions and answers otherwise. Rows are only compared where it is equal.
    pub subject: Option<String>,
    /// Digest of the model that a divergence is measured from. Rows are only compared where it is equal.
    pub reference: Option<String>,
    /// Name of the metric that stands for the task, and that differences are tested on; one of `metrics`.
    pub primary: String,
    /// Every metric of the task.
    pub metrics: Vec<Metric>,
}

/// One metric with the items it is made of: `estimate = Σ sum / Σ weight`.
#[derive(Debug, Clone)]
pub struct Metric {
    /// The field's name: `nll`, `kl`, `top1`, `acc`, `acc_norm`, `exact_match`, ...
    pub name: String,
    /// Unit, and with it the interval, the test and the way it is printed.
    pub kind: MetricKind,
    /// Which direction is an improvement; `None` where neither is.
    pub higher_is_better: Option<bool>,
    /// The items that were scored; order does not matter, identifiers must be unique.
    pub items: Vec<Item>,
    /// Answers that could not be read and were counted as wrong.
    pub unparsed: usize,
}

/// Unit of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Mean of a quantity in nats per token, never negative (`nll`, `kl`); `nll` is also shown as perplexity.
    MeanNats,
    /// Share between 0 and 1, shown in percent.
    Rate,
    /// Any other mean.
    Mean,
}

/// The unit that is resampled and paired: a question, or a chunk of text with all its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Identifier that is the same in every row that scored this item.
    pub id: String,
    /// How many observations it stands for: tokens of a chunk, 1 for a question. Positive.
    pub weight: f64,
    /// Sum of the quantity over those observations.
    pub sum: f64,
}

/// A declared comparison: every row that has the labels of `left` against the row that has the labels of `right` and is
/// equal to it in all other labels (the seed apart).
#[derive(Debug, Clone, Default)]
pub struct Contrast {
    /// Labels of the rows whose value comes first in the difference `left - right`.
    pub left: Labels,
    /// Labels of the rows they are compared with.
    pub right: Labels,
}

/// A picture of the rows that have two labels: one metric over both.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeatMap {
    /// Name of the label whose values are the rows of the picture.
    pub rows: String,
    /// Name of the label whose values are its columns. The value `all` stands apart, in rows as in columns.
    pub columns: String,
}

/// What a node reported step by step: a training, rotations that are learned.
#[derive(Debug, Clone, Default)]
pub struct NodeCurve {
    /// What tells it from the other nodes of the table.
    pub name: String,
    /// What reported them, `train sft`: metrics of others are other quantities, whatever their names.
    pub method: String,
    /// Its numbers.
    pub curve: Curve,
}

/// The run's graph, reduced to what a picture needs.
#[derive(Debug, Clone, Default)]
pub struct GraphPicture {
    /// Nodes, in any order.
    pub nodes: Vec<GraphNode>,
    /// Edges `(from, to)` by node identifier, in the direction in which data flows.
    pub edges: Vec<(String, String)>,
}

/// One node of the picture.
#[derive(Debug, Clone, Default)]
pub struct GraphNode {
    /// Identifier that edges refer to (the node's short key).
    pub id: String,
    /// What a person calls it, e.g. `rtn W8A8_STATIC`.
    pub label: String,
    /// Kind of the node: `model`, `dataset`, `transform`, `quantize`, `train`, `evaluate`, ...
    pub kind: String,
    /// State at the time of the report: `done`, `cached`, `failed`, `skipped`, `pending`, ...
    pub state: String,
}
