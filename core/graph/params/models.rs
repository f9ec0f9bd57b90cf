//! Parameters of the nodes that make a model of a model.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_quant::{Conventions, QuantizationArgs, Scheme};

use super::{Reward, TokenOptions};

/// The dtype of written weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum WeightDtype {
    #[default]
    Float32,
    Float16,
    Bfloat16,
}

impl WeightDtype {
    /// Its name in torch and in config.json.
    pub fn name(self) -> &'static str {
        match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        }
    }
}

/// A dtype that calibration can compute in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CalibrationDtype {
    Float32,
    Bfloat16,
}

/// Which model the activations that are looked at come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The quantized model so far, up to the linears that read the site: what it will receive at deployment. Introduced as
    /// "true sequential" by GPTQ's authors.
    #[default]
    Sequential,
    /// The model with all blocks before this one quantized.
    Block,
    /// The model as it was given.
    FullPrecision,
}

/// Another model of the same function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transform {
    /// Dtype of the written weights.
    pub dtype: WeightDtype,
    /// How the calibration data become tokens, where the plugin reads any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<TokenOptions>,
    /// The plugin's own.
    pub parameters: Value,
}

/// A quantized model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quantize {
    /// Who is quantized how. Each module stands in one group at most.
    pub groups: Vec<Group>,
    /// How keys and values are rounded before they are cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvCache>,
    /// Whether tied embeddings are untied.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untie_word_embeddings: bool,
    /// In which model calibration looks. Set together with `calibration` alone, as the two dtypes are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observe: Option<Order>,
    /// In which activations are kept between the pieces of a block; the model's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden_states: Option<CalibrationDtype>,
    /// Of the operands of matrix products, whose sums are f32; the model's if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_dtype: Option<CalibrationDtype>,
    /// Whether each expert of a mixture sees every token of the calibration data. Set together with `min_expert_tokens` alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub calibrate_all_experts: bool,
    /// Tokens below which an expert's linears are rounded to nearest, in a mixture that is calibrated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_expert_tokens: Option<usize>,
    /// How the calibration data become tokens, where anything reads them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calibration: Option<TokenOptions>,
    /// The plugin's own.
    pub parameters: Value,
}

/// Tokens below which an expert's linears are rounded to nearest unless a script says otherwise: what fewer say about the inputs of a
/// linear fits them and not the next ones.
pub const MIN_EXPERT_TOKENS: usize = 64;

/// Modules with one scheme.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub modules: Vec<String>,
    pub scheme: GroupScheme,
}

/// A scheme with what it leaves open.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupScheme {
    pub args: Scheme,
    pub conventions: Conventions,
}

/// How keys and values are quantized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KvCache {
    pub args: QuantizationArgs,
    pub conventions: Conventions,
}

/// A trained model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Train {
    /// Dtype of the written weights; that of the model if not given.
    pub dtype: Option<WeightDtype>,
    /// The folder's weights, if it has any, are not looked at.
    pub from_scratch: bool,
    /// Whether it starts from codes, whose grids are those of the result.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub codes: bool,
    /// How the data become tokens.
    pub data: TokenOptions,
    /// How the data that it is only looked at with become tokens, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<TokenOptions>,
    /// What a completion is worth, where the model is trained on what it writes: the data are then prompts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rewards: Vec<Reward>,
    /// On which grids weights and inputs of linears are trained. Each module stands in one group at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// How keys and values are rounded before they are cached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_cache: Option<KvCache>,
    /// The plugin's own.
    pub parameters: Value,
}

impl Train {
    /// Whether the result is quantized.
    pub fn quantizes(&self) -> bool {
        self.codes || !self.groups.is_empty() || self.kv_cache.is_some()
    }
}
