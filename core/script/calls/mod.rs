//! What the calls of a script take: one type for each, from which its options are read, checked and documented.

mod data;
mod generate;
mod models;
mod stages;
mod text;

pub(super) use data::Samples;
pub use data::Tokens;
pub(super) use generate::{Generate, Starts};
pub(super) use models::{Apply, GroupTargets, Quantize, SchemeOptions, Targets, Texts, Train, Transform};
pub(super) use stages::{EvaluationKeys, MeasureKeys, Sampling, StageKeys};
pub(super) use text::{RunningText, TaskOptions};

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::DatasetHandle;
use crate::graph::params;

/// A dataset among options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dataset {
    /// Under [`crate::schema::DATASET`], which no script can write.
    #[serde(rename = "\u{1}dataset")]
    pub handle: DatasetHandle,
}

impl JsonSchema for Dataset {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Dataset".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "handle": "a dataset" })
    }
}

/// A reward among options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Reward {
    /// Under [`crate::schema::REWARD`].
    #[serde(rename = "\u{1}reward")]
    pub reward: params::Reward,
}

impl JsonSchema for Reward {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Reward".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "handle": "a reward" })
    }
}

/// A model among options.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Model {
    /// As the user named the model that it began with, under [`crate::schema::MODEL`]. The handle itself stays beside the options.
    #[serde(rename = "\u{1}model")]
    pub name: String,
}

impl JsonSchema for Model {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Model".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "handle": "a model" })
    }
}
