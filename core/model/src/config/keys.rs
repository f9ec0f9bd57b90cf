//! Typed access to the keys of a JSON object, with errors that name them.

use std::path::Path;

use serde_json::{Map, Value};

use crate::ModelError;

/// No real model comes near this; a file that claims more is broken, and the products of sizes stay far from overflow.
pub(super) const MAX_SIZE: u64 = 1 << 24;

/// An object of the file. `null` counts as absent.
pub(crate) struct Keys<'a> {
    pub(crate) object: &'a Map<String, Value>,
    pub(crate) file: &'a Path,
}

impl<'a> Keys<'a> {
    pub(crate) fn error(&self, message: impl Into<String>, hint: impl Into<String>) -> ModelError {
        ModelError::config(self.file, message, hint)
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("`{key}` is missing"), ""))?;
        match value.as_u64() {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(size as usize),
            _ => Err(self.error(format!("`{key}` is {value}, expected a whole number from 1 to {MAX_SIZE}"), "")),
        }
    }

    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(format!("`{key}` is {other}, expected true or false"), "")),
        }
    }

    /// A number that is positive, also after it was rounded to single precision, in which models compute.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number as f32 > 0.0 && (number as f32).is_finite() => Ok(Some(number)),
            _ => Err(self.error(format!("`{key}` is {value}, expected a positive number of single precision"), "")),
        }
    }

    /// Refuses two spellings of one setting that differ.
    pub(crate) fn agree(&self, key: &str, other: &str) -> Result<(), ModelError> {
        match (self.get(key), self.get(other)) {
            (Some(value), Some(found)) if value != found => {
                let message = match (value, found) {
                    (Value::String(value), Value::String(found)) => {
                        format!("`{key}` is \"{value}\", but `{other}` is \"{found}\"")
                    }
                    _ => format!("`{key}` and `{other}` differ"),
                };
                Err(self.error(message, "both are names of one setting: remove the wrong one"))
            }
            _ => Ok(()),
        }
    }

    /// A list of whole numbers below a limit, or none.
    pub(crate) fn indices(&self, key: &str, limit: usize) -> Result<Vec<usize>, ModelError> {
        let wrong =
            |value: &Value| self.error(format!("`{key}` is {value}, expected a list of numbers below {limit}"), "");
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let items = value.as_array().ok_or_else(|| wrong(value))?;
        let index = |item: &Value| item.as_u64().map(|index| index as usize).filter(|index| *index < limit);
        items.iter().map(|item| index(item).ok_or_else(|| wrong(value))).collect()
    }

    /// How many of `count` experts a token passes.
    pub(crate) fn experts_per_token(&self, count: usize) -> Result<usize, ModelError> {
        let key = "num_experts_per_tok";
        match self.size(key)? {
            taken if taken <= count => Ok(taken),
            taken => Err(self.error(format!("`{key}` is {taken}, but there are {count} experts"), "")),
        }
    }

    /// One token id, a list of them, or none; each has to have an embedding.
    pub(crate) fn token_ids(&self, key: &str, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
        let listed = match self.get(key) {
            None => &[],
            Some(Value::Array(ids)) => ids.as_slice(),
            Some(value) => std::slice::from_ref(value),
        };
        listed.iter().map(|value| token_id(value, key, vocab_size, self.file)).collect()
    }
}

/// A token id that the model has an embedding for; `key` is for messages.
pub(crate) fn token_id(value: &Value, key: &str, vocab_size: usize, file: &Path) -> Result<u32, ModelError> {
    let Some(id) = value.as_u64().and_then(|id| u32::try_from(id).ok()) else {
        let message = format!("`{key}` holds {value}, expected a token id or a list of token ids");
        return Err(ModelError::config(file, message, ""));
    };
    if id as usize >= vocab_size {
        let message = format!("`{key}` holds {id}, but the model has only {vocab_size} embeddings");
        return Err(ModelError::config(file, message, "the file belongs to another model"));
    }
    Ok(id)
}
