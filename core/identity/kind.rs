//! Kinds of nodes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeKind {
    /// Model to model of the same function.
    Transform,
    /// Model to quantized model.
    Quantize,
    /// Model to trained model.
    Train,
    /// Model to measured items.
    Evaluate,
    /// Model to texts that it writes.
    Generate,
}

impl NodeKind {
    /// The word for it in plans, logs and records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transform => "transform",
            Self::Quantize => "quantize",
            Self::Train => "train",
            Self::Evaluate => "evaluate",
            Self::Generate => "generate",
        }
    }
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
