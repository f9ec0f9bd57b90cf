//! Errors of plugins and of the host services they call.

use std::fmt;

pub use crate::abi::ErrorKind;
use crate::abi::PluginError;

/// An error with a kind, a hint and the chain of what was being done.
///
/// Any [`std::error::Error`] turns into one by `?`, so it is none itself.
#[derive(Clone, Debug)]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// What happened.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
    /// What was being done, innermost first.
    pub context: Vec<String>,
}

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, context: Vec::new() }
    }

    /// The parameters contradict each other or the model.
    pub fn parameters(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Parameters, message)
    }

    /// The model, its tensors or the batches are not what the method needs.
    pub fn input(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Input, message)
    }

    /// The method cannot do this.
    pub fn unsupported(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unsupported, message)
    }

    /// The computation left the finite numbers or did not converge.
    pub fn numeric(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Numeric, message)
    }

    /// The host asked to stop.
    pub fn cancelled() -> Self {
        Self::new(ErrorKind::Cancelled, "cancelled")
    }

    /// Adds what the user can do.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds what the user can do, where that is known.
    #[must_use]
    pub fn maybe_hint(self, hint: Option<String>) -> Self {
        Self { hint: hint.or(self.hint), ..self }
    }

    /// Adds what was being done.
    #[must_use]
    pub fn context(mut self, context: impl Into<String>) -> Self {
        self.context.push(context.into());
        self
    }
}

impl fmt::Display for Error {
    /// Outermost context first, the message last.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.context.iter().rev() {
            write!(f, "{context}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_message = cause.to_string();
            // Many errors repeat their cause in their own text.
            if !message.contains(&cause_message) {
                message = format!("{message}: {cause_message}");
            }
            source = cause.source();
        }
        Self::new(ErrorKind::Other, message)
    }
}

/// Adds what was being done to whatever error comes.
pub trait Context<T> {
    /// Names what was being done.
    ///
    /// # Errors
    /// The error itself, with the context.
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| error.into().context(context()))
    }
}

impl Error {
    pub(crate) fn into_abi(self) -> PluginError {
        PluginError {
            kind: self.kind,
            message: self.message.into(),
            hint: self.hint.map(Into::into).into(),
            context: self.context.into_iter().map(Into::into).collect(),
        }
    }

    pub(crate) fn from_abi(error: PluginError) -> Self {
        Self {
            kind: error.kind,
            message: error.message.into(),
            hint: error.hint.into_option().map(Into::into),
            context: error.context.into_iter().map(Into::into).collect(),
        }
    }
}
