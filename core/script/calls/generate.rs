//! What `generate` takes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Dataset;
use crate::graph::params::Toggle;

/// Options of `generate`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Generate {
    /// What is answered: a row each of a table, or a paragraph each of a text; `dataset(…)` without `.tokens(…)`. A conversation that
    /// ends with an answer is given without it.
    pub prompts: Option<Dataset>,
    /// Instead of prompts: texts that begin with tokens of the vocabulary, special ones left out.
    pub starts: Option<Starts>,
    /// Texts behind each prompt or start.
    #[schemars(range(min = 1, max = 65_536), extend("unit" = "texts"))]
    pub n: usize,
    /// Only the first prompts; all if not given.
    #[schemars(range(min = 1), extend("unit" = "prompts"))]
    pub limit: Option<usize>,
    /// The column of prompts: texts or conversations; `messages` where the first row has that, else `text`, if not given.
    pub text_column: Option<String>,
    /// Whether prompts go through the model's chat template, a text as what a user says; `"auto"`: if the model has one. Rows then have
    /// `messages`, and else a `text` that begins with the prompt.
    pub chat_template: Toggle,
    /// What stands in front of a text: `"auto"`: what the tokenizer itself adds, and nothing where a template writes it; `true`: the
    /// same, or the BOS; `false`: nothing.
    pub add_bos: Toggle,
    /// New tokens of a text at most; prompts that leave no room for so many in the model's context are left out, and counted.
    #[schemars(range(min = 1), extend("unit" = "tokens"))]
    pub max_tokens: usize,
    /// Logits are divided by it; 0: always the most probable token.
    #[schemars(range(min = 0.0))]
    pub temperature: f64,
    /// Only the most probable tokens that together reach this probability are drawn.
    #[schemars(extend("exclusiveMinimum" = 0.0, "maximum" = 1.0))]
    pub top_p: f64,
    /// Only so many of the most probable tokens are drawn; all if not given.
    #[schemars(range(min = 1), extend("unit" = "tokens"))]
    pub top_k: Option<usize>,
    /// Seed of the draws; the run's if not given (`--seed`, else 0).
    pub seed: Option<u64>,
    /// Texts that are written side by side; of what the model computes it changes the last bits.
    #[schemars(range(min = 1), extend("unit" = "texts"))]
    pub batch_size: usize,
}

impl Default for Generate {
    fn default() -> Self {
        Self {
            prompts: None,
            starts: None,
            n: 1,
            limit: None,
            text_column: None,
            chat_template: Toggle::Auto,
            add_bos: Toggle::Auto,
            max_tokens: 256,
            temperature: 1.0,
            top_p: 1.0,
            top_k: None,
            seed: None,
            batch_size: 8,
        }
    }
}

/// Texts that begin with tokens of the vocabulary.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Starts {
    /// So many, drawn without putting back until all were taken; each token once if not given.
    #[schemars(range(min = 1, max = 16_777_216), extend("unit" = "tokens"))]
    pub count: Option<usize>,
    /// Of the tokens behind the start, the first are the most probable ones: so many at least.
    #[schemars(extend("unit" = "tokens"))]
    pub min_greedy_tokens: usize,
    /// So many of them at most; how many there are is drawn for each text.
    #[schemars(extend("unit" = "tokens"))]
    pub max_greedy_tokens: usize,
}

impl Default for Starts {
    fn default() -> Self {
        Self { count: None, min_greedy_tokens: 3, max_greedy_tokens: 5 }
    }
}
