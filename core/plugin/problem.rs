//! What can be wrong with a plugin file.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What kind of thing is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemKind {
    /// The file or folder cannot be read.
    Unreadable,
    /// The file is no dynamic library of this platform, or one that the loader refuses.
    NotALibrary,
    /// A dynamic library that exports no probe.
    NotAPlugin,
    /// Built for another version of the plugin ABI.
    Abi,
    /// Carries other rounding rules than the host.
    Grid,
    /// The types at its boundary are laid out differently, though the versions agree.
    Layout,
    /// It ended the process that loaded it.
    Crash,
    /// Loading it does not end.
    Hang,
    /// It answered with an error, or with nonsense.
    Faulty,
    /// Another file holds a plugin of the same name.
    Duplicate,
}

/// A file in a plugin folder that cannot be used, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// The file (or the folder that cannot be read).
    pub file: PathBuf,
    /// What kind of thing is wrong.
    pub kind: ProblemKind,
    /// What is wrong, in one sentence.
    pub message: String,
    /// What the user can do.
    pub hint: Option<String>,
    /// The rest of a long explanation, for a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl Problem {
    /// A problem with a file.
    pub fn new(file: &Path, kind: ProblemKind, message: impl Into<String>) -> Self {
        Self { file: file.to_path_buf(), kind, message: message.into(), hint: None, detail: None }
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.message)
    }
}

impl std::error::Error for Problem {}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::refused(problem.to_string()).maybe_hint(problem.hint)
    }
}
