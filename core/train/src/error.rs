//! What can go wrong in training.

use std::path::PathBuf;

use workbench_model::ModelError;

/// An error of the training loop.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A setting that makes no sense.
    #[error("`{setting}` {problem}")]
    Setting {
        /// Its name.
        setting: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// Something cannot be rewarded.
    #[error("{message}")]
    Reward {
        /// What, and why.
        message: String,
        /// What the user can do about it, where that is known.
        hint: Option<String>,
    },
    /// There is nothing to learn from.
    #[error("{0}")]
    Data(String),
    /// Loss or gradient became infinite or NaN.
    #[error("step {step}: the {what} is {value}: training has diverged")]
    Diverged {
        /// The step, counted from 1.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A parameter got no gradient: the objective's graph is cut somewhere.
    #[error("the parameter `{0}` got no gradient")]
    NoGradient(String),
    /// A checkpoint cannot be written or read.
    #[error("{}: {message}", .path.display())]
    Checkpoint {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The observer asked to stop.
    #[error("training was stopped")]
    Stopped,
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl TrainError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Diverged { .. } => Some("lower `learning_rate`, lengthen the warm-up or lower `max_grad_norm`"),
            Self::Checkpoint { .. } => Some("remove the folder to begin anew"),
            Self::Model(error) => error.hint(),
            Self::Reward { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }
}
