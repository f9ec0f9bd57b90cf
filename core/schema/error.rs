//! What does not fit, and whose it is.

use std::fmt;

use serde_json::{Map, Value};

use super::aliases::aliases;
use crate::error::{Error, did_you_mean};

/// A value that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// Which one, with the path to it: `schedule.warmup`.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What the user may have meant.
    pub hint: Option<String>,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParameterError {}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        let needle =
            error.key.rsplit('.').next().and_then(|last| last.split('[').next()).unwrap_or(&error.key).to_owned();
        Self::usage(error.message).maybe_hint(error.hint).at(needle)
    }
}

/// Whose values are checked, as messages name them.
#[derive(Clone, Copy, Debug)]
pub enum Owner<'a> {
    /// A plugin, whose values are parameters.
    Plugin(&'a str),
    /// A call or a part of a file (`` `tokens` ``, `a stage`), whose values are options.
    Call(&'a str),
}

impl Owner<'_> {
    pub(super) fn name(self, key: &str) -> String {
        match self {
            Self::Plugin(_) if key.is_empty() => "the parameters".to_owned(),
            Self::Plugin(_) => format!("parameter `{key}`"),
            Self::Call(call) if key.is_empty() => format!("the options of {call}"),
            Self::Call(call) => format!("`{key}` of {call}"),
        }
    }

    /// A key that is not known. The hint is the name spelled most alike, aliases among them.
    pub(super) fn unknown(self, path: &str, entry: &str, known: &Map<String, Value>) -> ParameterError {
        let names = known.iter().flat_map(|(name, schema)| std::iter::once(name.as_str()).chain(aliases(schema)));
        let near = did_you_mean(entry, names);
        let all = || known.keys().cloned().collect::<Vec<_>>().join(", ");
        let hint = match (near, self) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, Self::Plugin(_)) if known.is_empty() => "there are no parameters here".to_owned(),
            (None, Self::Plugin(_)) => format!("known here: {}", all()),
            (None, Self::Call(_)) if known.is_empty() => "it has none at all".to_owned(),
            (None, Self::Call(_)) => format!("it has {}", all()),
        };
        let message = match self {
            Self::Plugin(_) => format!("unknown parameter `{path}`"),
            Self::Call(call) => format!("{call} has no option `{path}`"),
        };
        ParameterError { key: path.to_owned(), message, hint: Some(hint) }
    }

    pub(super) fn missing(self, path: &str) -> String {
        match self {
            Self::Plugin(_) => format!("parameter `{path}` is missing"),
            Self::Call(call) => format!("{call} needs `{path}`"),
        }
    }
}
