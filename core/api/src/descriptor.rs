//! What a plugin says about itself.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::accepts::Accepts;
use crate::example::Example;
use crate::job::Needs;

/// What the host promises about a plugin's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Model to codes, scales and zero-points.
    Quantizer,
    /// Model to model of the same function.
    Transform,
    /// Model and batches to new weights or codes.
    Trainer,
}

impl Kind {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantizer => "quantizer",
            Self::Transform => "transform",
            Self::Trainer => "trainer",
        }
    }
}

/// How much of the model one job of a plugin spans; the field `scope` of its [`Job`](crate::job::Job)s.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One linear.
    Linear,
    /// One decoder block.
    Block,
    /// A whole model, by a transform.
    Transform,
    /// A whole model, by a trainer.
    Train,
}

impl Scope {
    /// The value of a job's field `scope`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Linear => "linear",
            Self::Block => "block",
            Self::Transform => "transform",
            Self::Train => "train",
        }
    }
}

/// What the weights of a model are that a trainer starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartsFrom {
    /// Numbers.
    #[default]
    Weights,
    /// Codes on a grid, which they stay while it trains: it holds no numbers of full precision behind them.
    Codes,
    /// Numbers or codes.
    Either,
}

impl StartsFrom {
    /// Whether a model of codes can be trained.
    pub fn takes_codes(self) -> bool {
        self != Self::Weights
    }
}

/// What `workbench plugins list` shows and the planner works with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Descriptor {
    /// The name that scripts use.
    pub name: String,
    /// The kind.
    pub kind: Kind,
    /// How much one job spans.
    pub scope: Scope,
    /// Version of the plugin's crate.
    pub version: String,
    /// One line.
    pub summary: String,
    /// Where the method is described.
    pub paper: Option<String>,
    /// Version of the rounding rules that it carries; 0 if it rounds nothing.
    pub grid_version: u32,
    /// Digest of the sources that it was built from.
    pub source_digest: Option<String>,
    /// JSON Schema of its parameters.
    pub schema: Value,
    /// Its parameters' defaults.
    pub defaults: Value,
    /// What it needs with default parameters.
    pub needs: Needs,
    /// Which schemes it takes, if it quantizes. Older plugins say nothing here, and older hosts read over it.
    #[serde(default)]
    pub accepts: Accepts,
    /// Whether it takes models with mixtures of experts; who quantizes single linears does anyway.
    #[serde(default)]
    pub takes_experts: bool,
    /// Whether it is a trainer that learns codes: scripts give it schemes as they do to a quantizer, and its jobs carry grids.
    #[serde(default)]
    pub quantizes: bool,
    /// What a trainer starts from. Older plugins say nothing here, and start from plain weights.
    #[serde(default)]
    pub starts_from: StartsFrom,
    /// Whether such a trainer takes models without a scheme too, and then learns plain weights.
    #[serde(default)]
    pub scheme_optional: bool,
    /// Inputs with known outputs, which `workbench plugins check` runs.
    pub examples: Vec<Example>,
}
