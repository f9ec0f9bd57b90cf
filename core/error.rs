//! The error that reaches a person: what is wrong, where, why, and what to do about it.
//!
//! Libraries of the workspace have typed errors of their own; here they become a message, a chain of causes, hints, and
//! an exit code that scripts can rely on. Rendering happens in one place, `cli::diagnostic`.

use std::{fmt, path::Path};

/// What kind of failure this is. Each kind has a documented exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A defect of the workbench itself.
    Internal,
    /// The command line or the script is wrong.
    Usage,
    /// The plan was refused before anything ran: a missing file, plugin, disk space or memory.
    Refused,
    /// Some nodes of the run failed.
    NodesFailed,
    /// The run was interrupted.
    Interrupted,
}

impl ErrorKind {
    /// The process exit code: 1 defect, 2 usage or script, 3 plan refused, 4 nodes failed, 5 interrupted.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Usage => 2,
            Self::Refused => 3,
            Self::NodesFailed => 4,
            Self::Interrupted => 5,
        }
    }

    /// The word used for it in `--json` output.
    pub fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::Usage => "usage",
            Self::Refused => "refused",
            Self::NodesFailed => "nodes_failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A place in a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The script's name as the user gave it.
    pub file: String,
    /// Its whole text, so that the line can be shown.
    pub source: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The text at fault, searched from the position onwards to draw the span.
    pub needle: Option<String>,
}

/// A message with its place, causes and hints.
#[derive(Clone, Debug)]
pub struct Error {
    /// Decides the exit code.
    pub kind: ErrorKind,
    /// What is wrong: a lowercase fragment without a full stop.
    pub message: String,
    /// Where in a script, if it is there.
    pub location: Option<Box<Location>>,
    /// Why, from the outermost to the innermost cause.
    pub causes: Vec<String>,
    /// What the user can do.
    pub hints: Vec<String>,
    /// Text of the script to underline, before a location is known.
    pub needle: Option<String>,
}

/// The result type of the host.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), location: None, causes: Vec::new(), hints: Vec::new(), needle: None }
    }

    /// The command line or the script is wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Usage, message)
    }

    /// The plan cannot run here and now.
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Refused, message)
    }

    /// A defect of the workbench, or of the machine under it.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// An operation on a file that failed; a full disk and a read-only folder get a hint.
    pub fn io(doing: &str, path: &Path, error: &std::io::Error) -> Self {
        let mut this = Self::refused(format!("failed to {doing} `{}`", path.display())).cause(error.to_string());
        match error.kind() {
            std::io::ErrorKind::StorageFull => {
                this.hints.push("free some space; `workbench gc` lists what the store could give up".into())
            }
            std::io::ErrorKind::FileTooLarge => {
                this.hints.push("the file size limit (ulimit -f) of this shell is too small".into())
            }
            std::io::ErrorKind::ReadOnlyFilesystem
            | std::io::ErrorKind::PermissionDenied
            | std::io::ErrorKind::NotADirectory => {
                this.hints.push("choose a writable folder with --results".into());
            }
            _ => {}
        }
        this
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        let hint = hint.into();
        if !self.hints.contains(&hint) {
            self.hints.push(hint);
        }
        self
    }

    /// Adds a hint if there is one.
    pub fn maybe_hint(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Adds a cause behind those already there.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// Puts a new message in front; the old one becomes the first cause.
    pub fn context(mut self, message: impl Into<String>) -> Self {
        self.causes.insert(0, std::mem::replace(&mut self.message, message.into()));
        self
    }

    /// Names the text of the script to underline.
    pub fn at(mut self, needle: impl Into<String>) -> Self {
        self.needle = Some(needle.into());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        for cause in &self.causes {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl From<workbench_model::ModelError> for Error {
    fn from(error: workbench_model::ModelError) -> Self {
        Self::refused(error.to_string()).maybe_hint(error.hint())
    }
}

/// The candidate closest to `wanted`, if it is close enough to be a likely typing error.
pub fn did_you_mean<'a>(wanted: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(wanted, candidate), candidate))
        .filter(|&(distance, candidate)| distance <= 1 + candidate.len().max(wanted.len()) / 4)
        .min()
        .map(|(_, candidate)| candidate)
}
