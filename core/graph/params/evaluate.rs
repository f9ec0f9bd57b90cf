//! What is measured, and how.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Toggle;

/// How running text is cut into windows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// The documents joined, cut into blocks of the context length that do not overlap; the tail is dropped.
    #[default]
    Blocks,
    /// Each document by itself, every token scored once with as much context as fits.
    Rolling,
}

/// Parameters of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Evaluate {
    /// Loss or divergence on a text.
    RunningText(TextOptions),
    /// Loss on the texts of a task file.
    TextTask(TextTask),
    /// Questions of a task file.
    Items(Items),
}

impl Evaluate {
    /// The task's name.
    pub fn task(&self) -> &str {
        match self {
            Self::RunningText(text) => &text.task,
            Self::TextTask(text) => &text.task,
            Self::Items(items) => &items.task,
        }
    }
}

/// Running text, complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextOptions {
    pub protocol: Protocol,
    /// Tokens that the model is given for a window, with what stands in front of it. The last token of a window is predicted
    /// and not given, so that with a BOS in front so many are predicted too.
    pub max_seq_length: usize,
    /// At most so many blocks, or documents.
    pub blocks: Option<usize>,
    pub add_bos: Toggle,
    pub text_column: String,
    pub characters: Option<usize>,
    /// Windows in one forward pass. It may change the last bits, so it is no matter of free memory.
    pub batch_size: usize,
    /// The task's name.
    pub task: String,
}

/// The running text of a task file, which says the rest itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextTask {
    /// What the task file means; its text and where it lies are no part of the key.
    pub file: Value,
    /// At most so many blocks, or documents.
    pub limit: Option<usize>,
    /// Windows in one forward pass.
    pub batch_size: usize,
    /// Tokens that the model is given for a window.
    pub max_seq_length: usize,
    /// The task's name.
    pub task: String,
}

/// The questions of a task file, which says the rest itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Items {
    /// What the task file means; its text and where it lies are no part of the key.
    pub file: Value,
    /// At most so many items.
    pub limit: Option<usize>,
    /// Sequences in one forward pass.
    pub batch_size: usize,
    /// The task's name.
    pub task: String,
}
