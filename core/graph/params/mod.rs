//! The parameters of nodes: one type for each kind.
//!
//! The script fills one in, its JSON is hashed into the key and stored in record and recipe, and the step reads the same type
//! again: what nobody reads cannot be asked for. Steps take these types apart without `..`, so that a field without a reader does
//! not compile.

mod evaluate;
mod generate;
mod models;
mod rewards;
mod tokens;

#[cfg(test)]
mod tests;

pub use evaluate::{Evaluate, Items, Protocol, TextOptions, TextTask};
pub use generate::{Begin, Generate};
pub use models::{
    CalibrationDtype, Group, GroupScheme, KvCache, MIN_EXPERT_TOKENS, Order, Quantize, Train, Transform, WeightDtype,
};
pub use rewards::{Match, Reward};
pub use tokens::{Toggle, TokenOptions};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::NodeKind;
use crate::error::{Error, Result};

/// Everything that can change the result of a node, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Params {
    Transform(Transform),
    Quantize(Quantize),
    Train(Train),
    Evaluate(Evaluate),
    Generate(Generate),
}

impl Params {
    /// The kind of node that reads them.
    pub fn kind(&self) -> NodeKind {
        match self {
            Self::Transform(_) => NodeKind::Transform,
            Self::Quantize(_) => NodeKind::Quantize,
            Self::Train(_) => NodeKind::Train,
            Self::Evaluate(_) => NodeKind::Evaluate,
            Self::Generate(_) => NodeKind::Generate,
        }
    }

    /// As they stand in keys, records and recipes.
    ///
    /// # Errors
    /// Never: every key is text.
    pub fn to_json(&self) -> Result<Value> {
        serde_json::to_value(self).map_err(|e| Error::internal("parameters are no JSON").cause(e.to_string()))
    }
}

/// The parameters of a stored node as their type.
///
/// # Errors
/// Another build of the workbench wrote them.
pub fn read<T: DeserializeOwned>(params: &Value) -> Result<T> {
    serde_json::from_value(params.clone())
        .map_err(|e| Error::internal("the job's parameters are not understood").cause(e.to_string()))
}
