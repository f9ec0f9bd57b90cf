//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use workbench_api::sdk::rescale::Mapping;
use workbench_api::sdk::{Context, Error};
use workbench_model::Precision;
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

use crate::algorithm::{GridPoints, Span};

/// Parameters of `awq`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    /// What the search rounds weights to, as the `weights` of a scheme: give what the model will be quantized with.
    #[schemars(with = "QuantizationArgs", extend("aliases" = ["weights", "args"]))]
    pub(crate) scheme: Map<String, Value>,
    /// Points of the search grid.
    #[schemars(range(min = 3), extend("unit" = "points", "aliases" = ["grid_size", "n_points"]))]
    pub(crate) n_grid: usize,
    /// Let weights decide beside activations.
    #[schemars(extend("aliases" = ["duo", "use_duo"]))]
    pub(crate) duo_scaling: bool,
    /// Which points: `llm_compressor` (from 0 to 1, the identity among them) or `original` (AutoAWQ's and llm-awq's: from 0 to
    /// below 1).
    pub(crate) grid: GridPoints,
    /// The pairs of layers to rescale: `norm->qkv`, `v->o`, `norm->gate_up`, `up->down`.
    #[schemars(length(min = 1))]
    pub(crate) mappings: Vec<Mapping>,
    /// Rescale `v->o` also where query heads share a KV head, whose channels then share a scale. The reference tools leave
    /// such a pair alone, and so does this without the flag.
    pub(crate) grouped_v_to_o: bool,
    /// In a mixture of experts: search the scales of each expert's `up->down` over every token, not only those that are routed to it.
    #[schemars(extend("aliases" = ["moe_calibrate_all_experts"]))]
    pub(crate) calibrate_all_experts: bool,
    /// In a mixture of experts: an expert's `up->down` that fewer tokens of the calibration data reach is left alone, and named under
    /// every table. 64 if not given.
    #[schemars(extend("unit" = "tokens"))]
    pub(crate) min_expert_tokens: Option<u64>,
    /// What hidden states are kept in, behind attention and behind the MLP of each block: half the disk and page cache in bfloat16.
    pub(crate) hidden_states: HiddenStatesDtype,
}

/// Tokens that have to reach an expert, where nothing else is asked for.
pub(crate) const MIN_EXPERT_TOKENS: u64 = 64;

/// In what hidden states are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HiddenStatesDtype {
    Float32,
    Bfloat16,
}

impl HiddenStatesDtype {
    pub(crate) fn precision(self) -> Precision {
        match self {
            Self::Float32 => Precision::F32,
            Self::Bfloat16 => Precision::Bf16,
        }
    }
}

impl Default for Parameters {
    fn default() -> Self {
        let scheme =
            json!({ "num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 128 });
        Self {
            scheme: scheme.as_object().cloned().unwrap_or_default(),
            n_grid: 20,
            duo_scaling: true,
            grid: GridPoints::LlmCompressor,
            mappings: Mapping::ALL.to_vec(),
            grouped_v_to_o: false,
            calibrate_all_experts: false,
            min_expert_tokens: None,
            hidden_states: HiddenStatesDtype::Float32,
        }
    }
}

impl Parameters {
    /// The grid that the search rounds to. Scales are kept in f32 unless the scheme names a `scale_dtype`.
    ///
    /// # Errors
    /// The scheme contradicts itself.
    pub(crate) fn rounding(&self) -> Result<Grid, Error> {
        let what = || "reading `scheme`".to_owned();
        let args = QuantizationArgs::deserialize(&Value::Object(self.scheme.clone())).context(what)?;
        args.validate().map_err(|e| Error::parameters(e.to_string()).maybe_hint(e.hint)).context(what)?;
        Grid::new(&args, StorageDtype::F32, Conventions::default())
            .map_err(|e| Error::parameters(e.to_string()).maybe_hint(e.hint()))
            .context(what)
    }

    /// Neighbours along a row that share a scale.
    ///
    /// # Errors
    /// Duo scaling looks at what shares a scale within a row, and this strategy goes across rows.
    pub(crate) fn span(&self, grid: &Grid) -> Result<Span, Error> {
        match (grid.args().strategy, grid.args().group_size) {
            (Strategy::Group | Strategy::TensorGroup, Some(size)) => Ok(Span::Group(size)),
            (Strategy::Channel, _) => Ok(Span::Row),
            _ if !self.duo_scaling => Ok(Span::Row),
            (strategy, _) => {
                let message =
                    format!("duo scaling needs a scale per row or group, not the strategy `{}`", strategy.name());
                Err(Error::parameters(message).with_hint("set `duo_scaling: false`, or another `strategy`"))
            }
        }
    }
}
