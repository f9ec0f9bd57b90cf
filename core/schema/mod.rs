//! JSON Schemas that schemars derives from types: of the options of a script's calls, of the keys of files, of the
//! parameters of plugins.
//!
//! One type says what can be given, and everything else follows from its schema: what is refused while the script runs
//! ([`check`]), and what a person reads about it ([`fields`]).

mod aliases;
mod check;
mod error;
mod fields;
mod read;
mod written;

#[cfg(test)]
mod tests;

pub use check::{check, check_noting};
pub use error::{Owner, ParameterError};
pub use fields::{Choice, Field, fields};
pub use written::{value_written, written};

use schemars::JsonSchema;
use serde_json::Value;

/// The key of the object that stands for a dataset among options. No script can write it: a key that begins with this
/// character is refused there.
pub const DATASET: &str = "\u{1}dataset";

/// The same for a model.
pub const MODEL: &str = "\u{1}model";

/// The same for a reward.
pub const REWARD: &str = "\u{1}reward";

/// The fields of a struct's schema by name.
pub fn names(schema: &Value) -> Vec<String> {
    read::properties(schema).into_iter().flatten().map(|(name, _)| name.clone()).collect()
}

/// The schema of a type.
pub fn of<T: JsonSchema>() -> Value {
    written(schemars::schema_for!(T).to_value())
}
