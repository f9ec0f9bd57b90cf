//! The lazy values of a script.

use std::{path::PathBuf, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_model::ModelConfig;

use super::calls::Tokens;
use crate::{
    eval::task::Extent,
    graph::{Input, NodeId, coded::Schemes, node::DataSource, params},
};

/// What is known of a model without reading its weights.
#[derive(Clone, Debug)]
pub struct Signature {
    /// How the user named the model it began with.
    pub name: String,
    pub config: ModelConfig,
    /// Module names of the linears of its blocks, in forward order.
    pub linears: Vec<String>,
    /// Whether its weights are codes.
    pub quantized: bool,
    /// On which grids they are then.
    pub schemes: Schemes,
    /// Whether its experts are published as codes, which are taken for the numbers that they stand for.
    pub coded_experts: bool,
    /// Whether it has weights at all.
    pub weights: bool,
    /// Parameters in total, embeddings included.
    pub parameters: u64,
    /// Bytes on disk of the model it began with.
    pub bytes: u64,
    /// Whether it has the demo's vocabulary.
    pub knows_demo: bool,
    /// Whether it rounds inputs of linears, or keys and values, while it runs: something that its weights do not show.
    pub rounds_activations: bool,
    /// Whether it has a template for conversations.
    pub has_template: bool,
    /// Its tokenizer.json, which goes with whatever is made of the model; `None` where it has no such file, as a GGUF file.
    pub tokenizer: Option<PathBuf>,
}

impl Signature {
    /// Peak memory of a process that holds the model in f32, in bytes: weights, and as much again for what flows
    /// through it, within bounds. An estimate for scheduling, not a limit.
    pub fn memory_estimate(&self) -> u64 {
        let weights = self.parameters * 4;
        weights + (weights / 2).max(128 << 20)
    }
}

/// A model: one that is there, or one that a node will make.
#[derive(Clone, Debug)]
pub struct ModelHandle {
    pub input: Input,
    pub signature: Arc<Signature>,
    /// What was done to it, for labels: `outliers`, `rtn W8A8`.
    pub history: Vec<String>,
    /// Data that it was calibrated or trained on.
    pub seen: Vec<DataSource>,
}

/// Text, and how to make tokens of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DatasetHandle {
    /// As the user named it.
    pub name: String,
    pub source: DataSource,
    /// Options of `.tokens(…)`, with defaults filled in.
    pub tokens: Option<Tokens>,
}

impl DatasetHandle {
    /// The column that its texts stand in, where its rows are known to have another than `text`.
    pub(super) fn column(&self) -> Option<&str> {
        match &self.source {
            DataSource::Node(made) => Some(&made.column),
            DataSource::File(_) | DataSource::Demo(_) => None,
        }
    }

    /// How it becomes tokens: as was said, or by these defaults.
    pub(super) fn tokens_or(&self, defaults: Tokens) -> Tokens {
        let column = self.column().map_or_else(|| defaults.text_column.clone(), str::to_owned);
        self.tokens.clone().unwrap_or(Tokens { text_column: column, ..defaults })
    }
}

/// What a completion is worth.
#[derive(Clone, Debug)]
pub struct RewardHandle {
    pub reward: params::Reward,
}

/// Something to measure.
#[derive(Clone, Debug)]
pub struct TaskHandle {
    pub name: String,
    /// `perplexity`, `kl`, `choice` or `generate`.
    pub method: &'static str,
    pub measured: Measured,
    /// Data by role.
    pub data: Vec<(String, DataSource)>,
    /// The model to compare with.
    pub reference: Option<ModelHandle>,
    /// The file that the task was read from; for messages.
    pub file: Option<PathBuf>,
}

/// How something is measured; what depends on the model is still open.
#[derive(Clone, Debug, PartialEq)]
pub enum Measured {
    /// A text, with its context if one was asked for.
    RunningText { options: params::TextOptions, context: Option<usize> },
    /// The text of a task file, with its context if the file says one.
    TextTask { file: Value, limit: Option<usize>, batch_size: usize, context: Option<usize> },
    /// The questions of a task file.
    Items { file: Value, limit: Option<usize>, batch_size: usize, extent: Extent },
}

/// Measurements of one model.
#[derive(Clone, Debug)]
pub struct EvaluationHandle {
    /// Names of the tasks and their nodes.
    pub tasks: Vec<(String, NodeId)>,
}
