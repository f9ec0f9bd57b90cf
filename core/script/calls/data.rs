//! What `tokens` takes.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;
use workbench_model::ModelConfig;

use crate::{
    error::Result,
    graph::params::{Toggle, TokenOptions},
    script::api::context,
};

/// What others call the number of sequences.
pub(super) const SAMPLES: [&str; 2] = ["num_samples", "nsamples"];

/// Options of `tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// At most so many sequences, and an error where the data hold fewer; all there are if not given, or `"all"`. Calibration data
    /// without `.tokens(…)` are 128 sequences.
    #[serde(deserialize_with = "count_or_all")]
    #[schemars(schema_with = "count_or_all_schema", extend("unit" = "sequences", "aliases" = SAMPLES))]
    pub num_calibration_samples: Option<usize>,
    /// Tokens in a sequence, with a BOS and whatever else the tokenizer adds; the context of the model that reads them, and 2048 at
    /// most, if not given. More than its context is an error.
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    pub max_seq_length: Option<usize>,
    /// Draw the sequences in a random order instead of taking the first.
    pub shuffle: bool,
    /// Seed of that order; the run's if not given (`--seed`, else 0).
    pub seed: Option<u64>,
    /// Join all documents, a blank line between them where the tokenizer puts nothing around a text, and cut the stream into sequences
    /// of equal length, the tail dropped; otherwise each document is a sequence of its own, cut at `max_seq_length`. Sequences are not
    /// padded, and nothing masks one document from the next.
    pub concatenate: bool,
    /// The column of a file with rows that holds the text, or the messages of a conversation. Of the demo's conversations, `"text"` is
    /// their `messages`.
    pub text_column: String,
    /// What stands around a text (of a stream of one text: in front of each sequence): `"auto"`: what the tokenizer itself adds;
    /// `true`: the same, or the BOS where it adds nothing; `false`: nothing. A conversation has what its template writes.
    pub add_bos: Toggle,
    /// Whether texts go through the model's chat template. Conversations do, unless this is `false`, which refuses them, and a trainer
    /// learns the assistant's turns of them; plain text does only if this is `true`, as what a user says.
    pub chat_template: Toggle,
    /// Read only the first characters of a text file.
    #[schemars(range(min = 1), extend("unit" = "characters"))]
    pub characters: Option<usize>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            num_calibration_samples: None,
            max_seq_length: None,
            shuffle: false,
            seed: None,
            concatenate: true,
            text_column: "text".to_owned(),
            add_bos: Toggle::Auto,
            chat_template: Toggle::Auto,
            characters: None,
        }
    }
}

impl Tokens {
    /// Sequences that a model can take, found out while the script runs.
    ///
    /// # Errors
    /// They are longer than the model's context.
    pub(in crate::script) fn for_model(self, config: &ModelConfig) -> Result<TokenOptions> {
        let Self {
            num_calibration_samples,
            max_seq_length,
            shuffle,
            seed,
            concatenate,
            text_column,
            add_bos,
            chat_template,
            characters,
        } = self;
        let max_seq_length = context(max_seq_length, config)?;
        Ok(TokenOptions {
            num_calibration_samples,
            max_seq_length,
            shuffle,
            seed,
            concatenate,
            text_column,
            add_bos,
            chat_template,
            characters,
        })
    }
}

/// How many sequences are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(into = "Value")]
pub(in crate::script) enum Samples {
    /// So many.
    Count(usize),
    /// All there are.
    All,
}

impl Samples {
    /// The number, where there is one.
    pub(in crate::script) fn count(self) -> Option<usize> {
        match self {
            Self::Count(count) => Some(count),
            Self::All => None,
        }
    }
}

impl From<Samples> for Value {
    fn from(samples: Samples) -> Self {
        samples.count().map_or_else(|| "all".into(), Value::from)
    }
}

impl<'de> Deserialize<'de> for Samples {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Given {
            Count(usize),
            Word(String),
        }
        match Given::deserialize(deserializer)? {
            Given::Count(count) => Ok(Self::Count(count)),
            Given::Word(word) if word == "all" => Ok(Self::All),
            Given::Word(word) => Err(de::Error::custom(format!("`{word}` is no number, nor \"all\""))),
        }
    }
}

/// A number, or `"all"`, which is no limit.
fn count_or_all<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<usize>, D::Error> {
    Ok(Option::<Samples>::deserialize(deserializer)?.and_then(Samples::count))
}

pub(super) fn count_or_all_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": ["integer", "null"], "minimum": 1 }, { "const": "all" }] })
}
