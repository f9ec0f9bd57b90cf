//! What `perplexity`, `kl` and `task` take.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::graph::params::{Protocol, Toggle};

/// Options of `perplexity` and `kl`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::script) struct RunningText {
    /// The text: `dataset(…)` without `.tokens(…)`, since the options here cut it.
    pub text: Dataset,
    /// Its name in tables; that of the call if not given.
    pub name: Option<String>,
    /// How the text is cut into windows.
    #[serde(default)]
    pub protocol: Protocol,
    /// Tokens that the model is given for a window, with what stands in front of it; the model's context, and 2048 at most, if not
    /// given. More than its context is an error. Blocks with nothing in front are cut this long, and the last token of each is
    /// only predicted.
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    pub max_seq_length: Option<usize>,
    /// At most so many blocks (of `rolling`: documents), and an error where the text holds fewer blocks; all there are if not given.
    #[schemars(range(min = 1), extend("unit" = "blocks"))]
    pub blocks: Option<usize>,
    /// What stands around a document (of one text: in front of each block): `"auto"`: what the tokenizer itself adds; `true`: the same,
    /// or the BOS where it adds nothing; `false`: nothing. What stands in front of a block is not scored, and without it the first
    /// token of the block is not.
    #[serde(default)]
    pub add_bos: Toggle,
    /// The column of a file with rows that holds the text.
    #[serde(default = "text_column")]
    pub text_column: String,
    /// Read only the first characters of a text file.
    #[schemars(range(min = 1), extend("unit" = "characters"))]
    pub characters: Option<usize>,
    /// Windows in one forward pass; it may change the last bits of a result.
    #[serde(default = "one")]
    #[schemars(range(min = 1), extend("unit" = "windows"))]
    pub batch_size: usize,
}

fn text_column() -> String {
    "text".to_owned()
}

fn one() -> usize {
    1
}

/// Options of `task`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct TaskOptions {
    /// Only the first items (of running text: blocks or documents); all if not given.
    #[schemars(range(min = 1), extend("unit" = "items"))]
    pub limit: Option<usize>,
    /// Sequences in one forward pass; it may change the last bits of a result.
    #[schemars(range(min = 1), extend("unit" = "sequences"))]
    pub batch_size: usize,
}

impl Default for TaskOptions {
    fn default() -> Self {
        Self { limit: None, batch_size: 8 }
    }
}
