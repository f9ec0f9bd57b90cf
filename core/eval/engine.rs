//! What answers the questions of an evaluation.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_model::tokenizer::{ChatTemplate, Tokenizer};

use crate::{error::Result, progress::Progress};

/// A model that can be asked: how likely tokens are, and what it writes. The [local decoder](super::Loaded) is one; a server that
/// holds the model would be another. Protocols ([`perplexity`](super::perplexity), [`choice`](super::choice),
/// [`generate`](super::generate)) know this and nothing more of a model.
pub trait Engine {
    /// Size and arithmetic, for the record and for tables.
    fn facts(&self) -> Value;

    /// What cuts texts into the model's tokens.
    fn tokenizer(&self) -> &Tokenizer;

    /// How conversations are written, where the model has a way.
    fn template(&self) -> Option<&ChatTemplate>;

    /// The most tokens of a sequence.
    fn max_positions(&self) -> usize;

    /// Scores the tokens of sequences that count. `found` hears what was found out about the next ones, some whole batches of
    /// `batch` sequences at a time and in their order. The result does not depend on where the sequences of a batch stand.
    ///
    /// # Errors
    /// The model cannot be asked; whatever `found` returns.
    fn score(
        &self,
        sequences: &[Sequence<'_>],
        batch: usize,
        progress: &dyn Progress,
        found: &mut dyn FnMut(Vec<Vec<TokenScore>>) -> Result<()>,
    ) -> Result<()>;

    /// Has the model write on greedily behind prompts, each at least one token long, `batch` of them side by side. `found` hears
    /// the answers to the next prompts.
    ///
    /// # Errors
    /// The model cannot be asked; whatever `found` returns.
    fn write(
        &self,
        prompts: &[Vec<u32>],
        limits: Limits<'_>,
        batch: usize,
        progress: &dyn Progress,
        found: &mut dyn FnMut(Vec<Answer>) -> Result<()>,
    ) -> Result<()>;
}

/// A sequence of tokens, those from `scored` on (at least 1) to be predicted from all before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sequence<'a> {
    pub ids: &'a [u32],
    pub scored: usize,
}

/// What a model says of a token that follows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenScore {
    /// Natural logarithm of its probability.
    pub log_probability: f64,
    /// Whether no other token is more likely.
    pub likeliest: bool,
}

/// When an answer ends, beside the model's own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits<'a> {
    pub max_new_tokens: usize,
    /// Texts that end an answer.
    pub stop: &'a [String],
}

/// What a model wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// Up to the first text that ends it.
    pub text: String,
    /// How many tokens were written, those behind that included.
    pub tokens: usize,
}
