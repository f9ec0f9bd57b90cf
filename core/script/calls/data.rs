//! What `tokens` takes.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use workbench_model::ModelConfig;

use crate::{
    error::Result,
    graph::params::{Toggle, TokenOptions},
    script::api::context,
};

/// Options of `tokens`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Tokens {
    /// At most so many sequences, and an error where the data hold fewer; all there are if not given, or `"all"`. Calibration data
    /// without `.tokens(…)` are 128 sequences.
    #[serde(deserialize_with = "count_or_all")]
    #[schemars(schema_with = "count_or_all_schema", extend("unit" = "sequences"))]
    pub num_calibration_samples: Option<usize>,
    /// Tokens in a sequence, with a BOS and whatever else the tokenizer adds; the context of the model that reads them, and 2048 at
    /// most, if not given. More than its context is an error.
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    pub max_seq_length: Option<usize>,
    /// Draw the sequences in a random order instead of taking the first.
    pub shuffle: bool,
    /// Seed of that order; the run's if not given (`--seed`, else 0).
    pub seed: Option<u64>,
    /// Join all documents and cut the stream into sequences of equal length, the tail dropped; otherwise each document is a
    /// sequence of its own, cut at `max_seq_length`. Sequences are not padded, and nothing masks one document from the next.
    pub concatenate: bool,
    /// The column of a file with rows that holds the text, or the messages of a conversation.
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

/// A number, or `"all"`, which is no limit.
fn count_or_all<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<usize>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Given {
        Count(Option<usize>),
        Word(String),
    }
    match Given::deserialize(deserializer)? {
        Given::Count(count) => Ok(count),
        Given::Word(word) if word == "all" => Ok(None),
        Given::Word(word) => Err(de::Error::custom(format!("`{word}` is no number, nor \"all\""))),
    }
}

fn count_or_all_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "anyOf": [{ "type": ["integer", "null"], "minimum": 1 }, { "const": "all" }] })
}
