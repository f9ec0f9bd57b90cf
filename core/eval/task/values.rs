//! Values of a task file that take more than one TOML type.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Where the choices of an item come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choices {
    /// The field of the item that lists them.
    Field(String),
    /// The same for every item.
    Fixed(Vec<String>),
}

impl JsonSchema for Choices {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Choices".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array", "null"], "items": { "type": "string" } })
    }
}

impl Serialize for Choices {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Field(name) => serializer.serialize_str(name),
            Self::Fixed(list) => list.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Choices {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Choices;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field or a list of texts")
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Choices, E> {
                Ok(Choices::Field(value.to_owned()))
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, seq: A) -> Result<Choices, A::Error> {
                Vec::deserialize(de::value::SeqAccessDeserializer::new(seq)).map(Choices::Fixed)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
