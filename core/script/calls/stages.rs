//! The keys of stage files.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{
    Texts,
    data::{SAMPLES, Samples, count_or_all_schema},
};

/// Keys of a stage that makes a model of a model, beside `quant_modifiers`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct StageKeys {
    /// What the stage calls itself; needed.
    pub name: Option<String>,
    /// What it adds to the name of the model. Left out together with `quant_modifiers`: the stage leaves the model as it is.
    pub output_suffix: Option<String>,
    /// The model that a pipeline begins with, for the script to ask.
    pub input_model: Option<String>,
    /// Only `true`, as models are always saved compressed.
    pub save_compressed: bool,
    /// Calibration data of its own: a file, or `demo:stories/train`. Only for stages with a modifier that reads any.
    pub dataset: Option<String>,
    /// As for `tokens`.
    #[schemars(schema_with = "count_or_all_schema", extend("unit" = "sequences", "aliases" = SAMPLES))]
    pub num_calibration_samples: Option<Samples>,
    /// As for `tokens`.
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    pub max_seq_length: Option<usize>,
    /// In a mixture of experts: whether llm-compressor's modifiers let each expert's linears observe every token, as that package does.
    pub moe_calibrate_all_experts: bool,
    /// What is done to the model, in the order of the file: modifiers of llm-compressor's recipes, or plugins by their names with the
    /// options of their calls. Keys that end in `_stage` and `_modifiers`, as in that package's recipes, are read alike.
    pub quant_modifiers: Option<Map<String, Value>>,
}

impl Default for StageKeys {
    fn default() -> Self {
        Self {
            name: None,
            output_suffix: None,
            input_model: None,
            save_compressed: true,
            dataset: None,
            num_calibration_samples: None,
            max_seq_length: None,
            moe_calibrate_all_experts: true,
            quant_modifiers: None,
        }
    }
}

/// Keys of a stage that measures, beside `datasets`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct EvaluationKeys {
    /// For people.
    pub name: Option<String>,
    /// For people.
    pub dataset_name: Option<String>,
    /// How many samples there are in all.
    pub sampling: Option<Map<String, Value>>,
    /// Has no effect here.
    pub gpu_resources: Option<Value>,
    /// Has no effect here.
    pub output: Option<Value>,
}

/// Keys of `sampling`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Sampling {
    /// Samples of all task files together, shared out by their weights; one that sets a `limit` of its own keeps it.
    #[schemars(range(min = 1), extend("unit" = "samples"))]
    pub total_samples: Option<u64>,
}

/// Keys of an entry of `datasets`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct MeasureKeys {
    /// Its name in tables; needed. The task file has this name if `file` says no other.
    pub name: Option<String>,
    /// `perplexity` or `kl` for running text; anything else is for people.
    pub task_type: Option<String>,
    /// Running text: a file, or `demo:stories/test`.
    pub text: Option<String>,
    /// The task file.
    pub file: Option<String>,
    /// Its share of `total_samples`.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub weight: f64,
    /// For people.
    pub tags: Option<Texts>,
    /// How many examples the task file has to put before a question; an error where it says otherwise.
    pub few_shot_num: Option<u64>,
    /// As for `task`.
    #[schemars(range(min = 1), extend("unit" = "items"))]
    pub limit: Option<u64>,
    /// As for `task`.
    #[schemars(range(min = 1), extend("unit" = "sequences"))]
    pub batch_size: Option<u64>,
}

impl Default for MeasureKeys {
    fn default() -> Self {
        Self {
            name: None,
            task_type: None,
            text: None,
            file: None,
            weight: 1.0,
            tags: None,
            few_shot_num: None,
            limit: None,
            batch_size: None,
        }
    }
}
