//! What can be wrong with a model.

use std::path::{Path, PathBuf};

/// An error that names the file and, where there is one, the tensor.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The configuration cannot describe a model that this crate runs.
    #[error("{}: {message}", .file.display())]
    Config { file: PathBuf, message: String, hint: Option<String> },
    /// A file cannot be read as what it claims to be.
    #[error("{}: {message}", .file.display())]
    File { file: PathBuf, message: String, hint: Option<String> },
    /// A tensor is missing, misshapen, of an unexpected type or not finite.
    #[error("{}: tensor `{tensor}`: {message}", .file.display())]
    Tensor { file: PathBuf, tensor: String, message: String, hint: Option<String> },
    /// Text could not be turned into tokens, or a template not rendered.
    #[error("{0}")]
    Text(String),
    /// A computation on tensors failed.
    #[error(transparent)]
    Compute(#[from] candle_core::Error),
}

impl ModelError {
    pub(crate) fn config(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Config { file: file.into(), message: message.into(), hint: some_text(hint) }
    }

    pub(crate) fn file(file: &Path, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::File { file: file.into(), message: message.into(), hint: some_text(hint) }
    }

    pub(crate) fn tensor(
        file: &Path,
        tensor: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Tensor { file: file.into(), tensor: tensor.into(), message: message.into(), hint: some_text(hint) }
    }

    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Config { hint, .. } | Self::File { hint, .. } | Self::Tensor { hint, .. } => hint.as_deref(),
            Self::Text(_) | Self::Compute(_) => None,
        }
    }
}

/// An empty hint is no hint.
fn some_text(hint: impl Into<String>) -> Option<String> {
    Some(hint.into()).filter(|text| !text.is_empty())
}
