//! Values of a task file that take more than one TOML type.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

/// Where the choices of an item come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choices {
    /// The field of the item that lists them.
    Field(String),
    /// The same for every item.
    Fixed(Vec<String>),
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
