//! Task files: an evaluation described by a TOML file and a file of items, so that a user adds one without Rust.
//!
//! ```toml
//! name = "facts"
//! kind = "choice"                                  # or "generate", or "perplexity"
//! data = "facts.jsonl"                             # one JSON object a line, or .parquet; beside this file
//! prompt = "Question: {question}\nAnswer:"         # {field} or {field.0}; {{ and }} are braces
//! choices = "choices"                              # the field that lists them, or a list for every item
//! answer = "answer"                                # the field with the index or the text of the right one
//! ```
//!
//! Loading checks everything that scoring will need, on every line, and names file and line of what is wrong: an
//! evaluation that fails after an hour on line 800 of its data should have failed before it began. The result holds the
//! prompts as structure (description, examples, question), because raw text and chat turns are two renderings of it.

mod extent;
mod items;
mod lines;
mod shots;
mod template;
#[cfg(test)]
mod tests;
mod values;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use extent::Extent;
pub(crate) use items::answers_of;
pub use items::{ChoiceItem, GenerateItem, Items, Prompt, Shots, TextItem};
pub use template::Template;
pub use values::Choices;

use super::Method;
pub use crate::graph::params::{Match, Protocol, Toggle};

/// A task file that cannot be used, with the place of the fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {message}", .file.display(), .line.map(|line| format!(":{line}")).unwrap_or_default())]
pub struct TaskError {
    /// The task file or its data file.
    pub file: PathBuf,
    /// Line, or row of a table, from 1, where the fault has one.
    pub line: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What the user can do about it, where that is known.
    pub hint: Option<String>,
}

impl TaskError {
    fn new(file: &Path, line: Option<usize>, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), line, message: message.into(), hint: None }
    }

    fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TaskKind {
    /// The choice with the largest log-likelihood after the prompt is the model's answer.
    Choice,
    /// The loss of running text, in nats per token.
    Perplexity,
    /// Text that the model writes, compared with the answer.
    Generate,
}

/// The figure that stands for the task in a table. The others that its kind yields are recorded beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Mean negative log-likelihood in nats per token (perplexity).
    Nll,
    /// Share of right answers (choice: by the sum of the log-probabilities).
    Acc,
    /// Share of right answers by log-probability per character (choice).
    AccNorm,
}

impl Metric {
    /// Its name in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nll => "nll",
            Self::Acc => "acc",
            Self::AccNorm => "acc_norm",
        }
    }
}

impl TaskKind {
    /// The kind of evaluation that scores it.
    pub fn method(self) -> Method {
        match self {
            Self::Choice => Method::Choice,
            Self::Perplexity => Method::Perplexity,
            Self::Generate => Method::Generate,
        }
    }
}

/// The TOML file. Keys that do not belong to the task's kind are errors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TaskFile {
    /// Name in tables and records: letters, digits, `-` and `_`.
    pub name: String,
    /// What is measured.
    pub kind: TaskKind,
    /// One sentence for people.
    #[serde(default)]
    pub summary: String,
    /// The items, relative to the task file: `.jsonl` with one object a line, the rows of a `.parquet`, or for running text also
    /// `.txt`, one document.
    pub data: PathBuf,
    /// Running text: the field that holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Running text: how it is cut; `blocks` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Running text: tokens in a window; the model's context, and 2048 at most, if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    pub context_length: Option<usize>,
    /// What stands before the examples and the question; the system turn of a chat.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The question, with `{field}` placeholders.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The choices of a choice task: a list, with `{field}` placeholders where items differ, or the field that holds one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub choices: Option<Choices>,
    /// The field with the answer. Choice: an index from 0, or the text of a choice. Generate: the text, a number, or a list
    /// of texts of which any will do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Between prompt and answer in raw text; a chat has its turns instead.
    #[serde(default = "space")]
    pub answer_separator: String,
    /// How many solved examples stand before the question.
    #[serde(default)]
    #[schemars(extend("unit" = "examples"))]
    pub few_shot: usize,
    /// The file whose first lines are those examples. It has the fields of `data`; an item that stands in it, as all do in
    /// `data` itself, is left out of its own prompt and the next line takes its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub few_shot_data: Option<PathBuf>,
    /// Between description, examples and question in raw text.
    #[serde(default = "blank_line")]
    pub few_shot_separator: String,
    /// Generate: the longest answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("unit" = "tokens"))]
    pub max_new_tokens: Option<usize>,
    /// Generate: texts that end an answer, beside the model's own end tokens.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stop: Vec<String>,
    /// Generate: how answers are compared; `exact` if not given.
    #[serde(default, rename = "match", skip_serializing_if = "Option::is_none")]
    pub matching: Option<Match>,
    /// Whether prompts are put into the model's chat template.
    #[serde(default)]
    pub chat_template: Toggle,
    /// Whether the text starts with the begin-of-text token.
    #[serde(default)]
    pub add_bos: Toggle,
    /// The figure for tables; the usual one of the kind if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
}

fn space() -> String {
    " ".into()
}

fn blank_line() -> String {
    "\n\n".into()
}

/// The keys of a task file, and those that only some kinds know.
const KEYS: [&str; 20] = [
    "name",
    "kind",
    "summary",
    "data",
    "text",
    "protocol",
    "context_length",
    "description",
    "prompt",
    "choices",
    "answer",
    "answer_separator",
    "few_shot",
    "few_shot_data",
    "few_shot_separator",
    "max_new_tokens",
    "stop",
    "match",
    "chat_template",
    "add_bos",
];
const TEXT_KEYS: [&str; 3] = ["text", "protocol", "context_length"];
const QUESTION_KEYS: [&str; 8] = [
    "description",
    "prompt",
    "answer",
    "answer_separator",
    "few_shot",
    "few_shot_data",
    "few_shot_separator",
    "chat_template",
];
const GENERATE_KEYS: [&str; 3] = ["max_new_tokens", "stop", "match"];

/// A task, read and checked.
#[derive(Clone, Debug)]
pub struct Task {
    /// What the TOML file says.
    pub file: TaskFile,
    /// The data, rendered.
    pub items: Items,
    /// Every file that was read, for digests: the task file first.
    pub files: Vec<PathBuf>,
}

impl Task {
    /// Reads a task file and its data.
    ///
    /// # Errors
    /// [`TaskError`] with file and line for anything that would keep an item from being scored.
    pub fn load(path: &Path) -> Result<Self, TaskError> {
        let (file, keys) = TaskFile::read(path)?;
        let (items, mut data) = items::load(&file, path, &keys)?;
        let mut files = vec![path.to_path_buf()];
        files.append(&mut data);
        Ok(Self { file, items, files })
    }

    /// The name of the figure that stands for this task in a table.
    pub fn metric(&self) -> &'static str {
        let usual = self.file.kind.method().metrics().first();
        self.file.metric.map_or_else(|| usual.map_or("", |metric| metric.name), Metric::name)
    }

    /// Where the examples of some of its prompts come from, for the protocol line.
    pub fn describe_shots<'p>(&self, prompts: impl Iterator<Item = &'p Prompt>) -> String {
        shots::described(&self.file, prompts)
    }

    /// Whether prompts go through the chat template: as the file says, by default for `generate` alone. A model without a
    /// template falls back to raw text, which is the caller's business.
    pub fn uses_chat_template(&self) -> bool {
        match self.file.chat_template {
            Toggle::Auto => self.file.kind == TaskKind::Generate,
            Toggle::On => true,
            Toggle::Off => false,
        }
    }
}

/// The line on which each key of a task file stands.
pub(crate) type KeyLines = BTreeMap<String, usize>;

impl TaskFile {
    /// What the file means, for the keys of what reads it: every key but those that are for people, with defaults filled in. How the
    /// file of data is called is no part of it, what it holds is keyed by itself; how it is read goes by its ending. That of the
    /// examples is named in the protocol that is stored.
    pub fn meaning(&self) -> serde_json::Value {
        let mut meaning = serde_json::to_value(self).unwrap_or_default();
        if let Some(keys) = meaning.as_object_mut() {
            keys.remove("summary");
            let ending = self.data.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
            keys.insert("data".to_owned(), ending.into());
            let of_the_tested_file = self.few_shot_data.as_ref() == Some(&self.data);
            keys.insert("few_shot_of_the_tested_file".to_owned(), of_the_tested_file.into());
        }
        meaning
    }

    /// Whether its data are one running text, and no items.
    pub fn is_one_text(&self) -> bool {
        let ending = self.data.extension();
        self.kind == TaskKind::Perplexity && ending.is_some_and(|ending| ending.eq_ignore_ascii_case("txt"))
    }

    /// Reads and checks the TOML file alone.
    fn read(path: &Path) -> Result<(Self, KeyLines), TaskError> {
        let source = read_text(path)?;
        let fault = |line: Option<usize>, message: String, hint: Option<String>| TaskError {
            file: path.to_path_buf(),
            line,
            message,
            hint,
        };
        let from_toml = |error: toml::de::Error| {
            fault(error.span().map(|span| line_of(&source, span.start)), error.message().trim().to_owned(), None)
        };
        let table = toml::de::DeTable::parse(&source).map_err(from_toml)?;
        let keys: KeyLines =
            table.get_ref().keys().map(|key| (key.get_ref().to_string(), line_of(&source, key.span().start))).collect();
        for (key, &line) in &keys {
            if !KEYS.contains(&key.as_str()) && key != "metric" {
                let known = KEYS.iter().copied().chain(["metric"]);
                let hint = closest(key, known.clone()).map_or_else(
                    || format!("a task file knows {}", known.collect::<Vec<_>>().join(", ")),
                    |near| format!("did you mean `{near}`?"),
                );
                return Err(fault(Some(line), format!("unknown key `{key}`"), Some(hint)));
            }
        }
        let file: Self = toml::from_str(&source).map_err(from_toml)?;
        file.check(&keys).map_err(|(key, message, hint)| fault(keys.get(key).copied(), message, hint))?;
        Ok((file, keys))
    }

    /// What one key says against the others: the key at fault, the message, a hint.
    fn check(&self, keys: &KeyLines) -> Result<(), (&'static str, String, Option<String>)> {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if self.name.is_empty() || !self.name.chars().all(good) {
            let message = format!("`{}` cannot name a task", self.name);
            return Err(("name", message, Some("use letters, digits, `-` and `_`".into())));
        }
        let (foreign, needed): (Vec<&'static str>, &[&'static str]) = match self.kind {
            TaskKind::Perplexity => ([&QUESTION_KEYS[..], &GENERATE_KEYS, &["choices"]].concat(), &[]),
            TaskKind::Choice => ([&TEXT_KEYS[..], &GENERATE_KEYS].concat(), &["prompt", "choices", "answer"]),
            TaskKind::Generate => ([&TEXT_KEYS[..], &["choices"]].concat(), &["prompt", "answer", "max_new_tokens"]),
        };
        if let Some(key) = foreign.into_iter().find(|key| keys.contains_key(*key)) {
            return Err((key, format!("`{key}` has no meaning for a {} task", self.kind), None));
        }
        if let Some(key) = needed.iter().find(|key| !keys.contains_key(**key)) {
            return Err(("kind", format!("a {} task needs the key `{key}`", self.kind), None));
        }
        if self.few_shot > 0 && self.few_shot_data.is_none() {
            let hint = "name the file that the examples come from; an item is left out of its own prompt";
            return Err(("few_shot", "`few_shot` needs `few_shot_data`".into(), Some(hint.into())));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(("stop", "an empty text would end every answer before it begins".into(), None));
        }
        if self.max_new_tokens == Some(0) {
            return Err(("max_new_tokens", "no answer fits into 0 tokens".into(), None));
        }
        if self.context_length.is_some_and(|length| length < 2) {
            return Err(("context_length", "a window of fewer than 2 tokens predicts nothing".into(), None));
        }
        let measured = self.kind.method().metrics();
        let fits = self.metric.is_none_or(|wanted| measured.iter().any(|metric| metric.name == wanted.name()));
        if !fits {
            let hint = "perplexity has `nll`, choice `acc` and `acc_norm`, generate `acc`";
            return Err(("metric", format!("a {} task has no such metric", self.kind), Some(hint.into())));
        }
        Ok(())
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Choice => "choice",
            Self::Perplexity => "perplexity",
            Self::Generate => "generate",
        })
    }
}

/// Reads a file as UTF-8 text.
fn read_text(path: &Path) -> Result<String, TaskError> {
    let fault = |line, message: String| TaskError { file: path.to_path_buf(), line, message, hint: None };
    let bytes = workbench_model::regular_file(path).and_then(|()| std::fs::read(path));
    let bytes = bytes.map_err(|error| fault(None, format!("failed to read: {error}")))?;
    crate::data::decode(bytes).map_err(|(line, message, hint)| TaskError { hint, ..fault(line, message) })
}

/// The line, from 1, of a byte offset.
fn line_of(source: &str, offset: usize) -> usize {
    1 + source.as_bytes()[..offset.min(source.len())].iter().filter(|&&byte| byte == b'\n').count()
}

/// The known word that was probably meant.
fn closest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(wanted, word), word))
        .filter(|&(distance, word)| distance <= 1 + word.len().max(wanted.len()) / 4)
        .min()
        .map(|(_, word)| word)
}
