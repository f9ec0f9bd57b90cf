//! What a model writes, and how.

use serde::{Deserialize, Serialize};

use super::Toggle;

/// Texts that a model writes, complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generate {
    pub begin: Begin,
    /// Texts behind each beginning.
    pub n: usize,
    /// Tokens of a text at most, its beginning not counted.
    pub max_tokens: usize,
    /// 0: always the most probable token.
    pub temperature: f64,
    pub top_p: f64,
    pub top_k: Option<usize>,
    /// None where nothing is drawn.
    pub seed: Option<u64>,
    /// What stands in front of a text; a conversation has what its template writes.
    pub add_bos: Toggle,
    /// Texts that are written side by side.
    pub batch_size: usize,
}

/// What texts begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Begin {
    /// Data.
    Prompts {
        text_column: String,
        /// Whether they go through the model's chat template.
        chat_template: bool,
        /// At most so many.
        limit: Option<usize>,
    },
    /// Tokens of the vocabulary.
    Starts {
        /// So many, drawn anew when all were taken; each once if not given.
        count: Option<usize>,
        /// How many tokens behind the start are the most probable ones: drawn between these two.
        greedy_tokens: [usize; 2],
    },
}

impl Begin {
    /// The column of what is written.
    pub fn column(&self) -> &'static str {
        match self {
            Self::Prompts { chat_template: true, .. } => "messages",
            Self::Prompts { .. } | Self::Starts { .. } => "text",
        }
    }
}
