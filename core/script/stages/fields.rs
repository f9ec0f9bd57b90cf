//! The keys of one modifier, taken out as they are read.

use serde_json::{Map, Value};

use crate::error::{Error, Result, did_you_mean};

/// Keys of a part of a stage file. What is not taken when [`finish`](Self::finish) is called is an error.
pub(super) struct Fields<'a> {
    title: &'a str,
    keys: Map<String, Value>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The keys of a map; nothing at all counts as none.
    pub(super) fn new(title: &'a str, value: &Value) -> Result<Self> {
        let keys = match value {
            Value::Null => Map::new(),
            Value::Object(keys) => keys.clone(),
            other => return Err(Error::usage(format!("`{title}` is a map of options, not {other}")).at(title)),
        };
        Ok(Self { title, keys, known: Vec::new() })
    }

    /// The value of a key; null means not given.
    pub(super) fn take(&mut self, key: &'static str) -> Option<Value> {
        self.take_even_null(key).filter(|value| !value.is_null())
    }

    /// The value of a key for which null is a choice of its own.
    pub(super) fn take_even_null(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.keys.shift_remove(key)
    }

    /// Puts the value of a key among options, under the name that it has there.
    pub(super) fn pass(&mut self, key: &'static str, options: &mut Map<String, Value>, name: &str) {
        if let Some(value) = self.take(key) {
            options.insert(name.to_owned(), value);
        }
    }

    /// A text.
    pub(super) fn text(&mut self, key: &'static str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong(key, &other, "text")),
        }
    }

    /// A list of texts; a single text counts as a list of one.
    pub(super) fn texts(&mut self, key: &'static str) -> Result<Option<Vec<String>>> {
        let Some(value) = self.take(key) else { return Ok(None) };
        texts(&value).map(Some).ok_or_else(|| self.wrong(key, &value, "a list of texts"))
    }

    /// A switch that can only stand as `only`, because the other position is not there in this version.
    pub(super) fn must_be(&mut self, key: &'static str, only: &Value, why: &str) -> Result<()> {
        match self.take(key) {
            Some(value) if value != *only => {
                let message = format!("`{key}` of `{}` is {value}, and only {only} is supported", self.title);
                Err(Error::usage(message).at(key).hint(why))
            }
            _ => Ok(()),
        }
    }

    /// The names that were asked for.
    pub(super) fn known(&self) -> &[&'static str] {
        &self.known
    }

    pub(super) fn wrong(&self, key: &str, value: &Value, wanted: &str) -> Error {
        Error::usage(format!("`{key}` of `{}` must be {wanted}, not {value}", self.title)).at(key)
    }

    /// Everything that was not taken, as a script's options, for whoever checks them.
    pub(super) fn rest(self) -> Map<String, Value> {
        self.keys.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// An error for the first key that nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        let Some(key) = self.keys.keys().next() else { return Ok(()) };
        let error = Error::usage(format!("`{}` has no option `{key}`", self.title)).at(key.as_str());
        Err(match did_you_mean(key, self.known.iter().copied()) {
            Some(near) => error.hint(format!("did you mean `{near}`?")),
            None => error.hint(format!("it has {}", self.known.join(", "))),
        })
    }
}

/// A list of texts, or one text.
pub(super) fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}
