//! How text becomes token sequences.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How text becomes sequences, complete.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenOptions {
    /// At most so many sequences; all there are if not given.
    pub num_calibration_samples: Option<usize>,
    /// Tokens in a sequence, with a BOS and whatever else the tokenizer adds.
    pub max_seq_length: usize,
    /// Draw the sequences in a random order instead of taking the first.
    pub shuffle: bool,
    /// Seed of that order; none where nothing is drawn.
    pub seed: Option<u64>,
    /// Join all documents and cut the stream into sequences of equal length, the tail dropped; otherwise each document is a
    /// sequence of its own, cut at `max_seq_length`.
    pub concatenate: bool,
    pub text_column: String,
    /// What stands around a text; `auto`: what the tokenizer itself adds. A conversation has what its template writes.
    pub add_bos: Toggle,
    /// Put conversations into the model's chat template. Plain text never goes through it, unless this says so.
    pub chat_template: Toggle,
    /// Read only the first characters of a text file.
    pub characters: Option<usize>,
}

/// A switch that can be left to the workbench.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Toggle {
    /// Chat template: on for `generate`, off otherwise. BOS: as the tokenizer says.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl JsonSchema for Toggle {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Toggle".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["auto", true, false] })
    }
}

impl Serialize for Toggle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::On => serializer.serialize_bool(true),
            Self::Off => serializer.serialize_bool(false),
        }
    }
}

// Written by hand and not `untagged`, whose errors name no type that would have been right.
impl<'de> Deserialize<'de> for Toggle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Toggle;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Toggle, E> {
                Ok(if value { Toggle::On } else { Toggle::Off })
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Toggle, E> {
                if value == "auto" {
                    Ok(Toggle::Auto)
                } else {
                    Err(E::invalid_value(de::Unexpected::Str(value), &self))
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
