//! What rotations are learned by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The loss of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// -log p of the token that follows, as SpinQuant has it.
    #[default]
    NextToken,
    /// The divergence of the predicted distribution from the unquantized model's. Where little is lost, what the next token
    /// says about it drowns in what the token says about the model; this is zero where nothing is lost.
    Divergence,
}
