//! Jobs, needs and reports: the JSON that travels beside the tensors.
//!
//! Unknown fields are ignored, so that a later host can say more to a plugin built before it.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{Context, Error};
use crate::rollouts::Policy;

/// What a plugin is asked to do. In JSON the variant is the field `scope`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "scope", rename_all = "snake_case")]
pub enum Job {
    /// Quantize one linear.
    Linear(Linear),
    /// Quantize the linears of one decoder block.
    Block(Block),
    /// Rewrite a model without changing its function.
    Transform(Model),
    /// Train a model.
    Train(Model),
}

impl Job {
    /// The value of the field `scope`.
    pub fn scope(&self) -> &'static str {
        match self {
            Self::Linear(_) => "linear",
            Self::Block(_) => "block",
            Self::Transform(_) => "transform",
            Self::Train(_) => "train",
        }
    }
}

/// What a linear is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Makes queries.
    Query,
    /// Makes keys.
    Key,
    /// Makes values.
    Value,
    /// Ends attention.
    Output,
    /// Makes what gates the MLP's inner activation.
    Gate,
    /// Makes what is gated.
    Up,
    /// Ends the MLP.
    Down,
    /// Makes logits.
    Head,
    /// Weighs the experts of a mixture; it is never quantized.
    Router,
}

/// One linear of the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// For example `model.layers.0.mlp.down_proj`.
    pub module: String,
    /// Name of its weight, `[out_features, in_features]`.
    pub weight: String,
    /// Name of its bias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bias: Option<String>,
    /// The site that it reads, for example `model.layers.0.mlp.down_proj.input`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    /// What it is for, where the host says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The grid of its weight (JSON of workbench-quant's `Grid`); null where the linear is left alone.
    #[serde(default)]
    pub grid: Value,
    /// The grid of its input (JSON of workbench-quant's `Grid`); null where inputs stay as they are.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub input_grid: Value,
}

impl Linear {
    /// The grid of its weight as the caller's own copy of workbench-quant spells it.
    ///
    /// # Errors
    /// The JSON is no such grid.
    pub fn grid<G: DeserializeOwned>(&self) -> Result<G, Error> {
        G::deserialize(&self.grid).context(|| format!("reading the grid of `{}`", self.module))
    }

    /// The grid of its input, as [`grid`](Self::grid); `None` where inputs stay as they are.
    ///
    /// # Errors
    /// The JSON is no such grid.
    pub fn input_grid<G: DeserializeOwned>(&self) -> Result<Option<G>, Error> {
        optional(&self.input_grid, || format!("reading the grid of the input of `{}`", self.module))
    }
}

/// What JSON holds, if it is not null.
fn optional<G: DeserializeOwned>(json: &Value, context: impl Fn() -> String) -> Result<Option<G>, Error> {
    (!json.is_null()).then(|| G::deserialize(json).context(context)).transpose()
}

/// One decoder block. Its inputs come as the stream `inputs`: batches with `full_precision` and `quantized`, both
/// `[batch, tokens, hidden]` F32, `mask` `[batch, tokens]` U8 and `positions` `[batch, tokens]` U32.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Block {
    /// Index of the decoder layer.
    pub block: usize,
    /// Start of its tensors' names, for example `model.layers.3`.
    pub prefix: String,
    /// Its linears in forward order; those without a grid are left alone.
    pub linears: Vec<Linear>,
    /// Names of all its tensors.
    #[serde(default)]
    pub tensors: Vec<String>,
    /// How many batches the stream `inputs` has.
    #[serde(default)]
    pub batches: usize,
}

/// A whole model: the job of a transform or a trainer. Tensors that the plugin does not put stay as they are.
///
/// Where anything has a grid, the job is to learn codes: they are due for every linear with a grid, on that grid
/// ([`Host::put_codes`](crate::sdk::Host::put_codes)), for no other one, and no plain weight of such a linear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Model {
    /// The linears of its decoder blocks, in forward order. A grid is set where a trainer shall learn codes for it.
    #[serde(default)]
    pub linears: Vec<Linear>,
    /// `lm_head` with its grids, where it is quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<Linear>,
    /// The table of embeddings with its grid, where it is quantized.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings: Option<Linear>,
    /// The grid (JSON of workbench-quant's `Grid`) to which keys, and values, are rounded before they are cached: of all heads
    /// side by side, `[tokens, kv_heads · head_dim]`. Null where they stay as they are.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub kv_cache: Value,
    /// Whether the model's weights are codes already: those of linears with a grid, on that grid
    /// ([`Host::codes`](crate::sdk::Host::codes)). Only a trainer that [starts from codes](crate::sdk::Trainer::STARTS_FROM) is given such
    /// a job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub codes: bool,
    /// The pairs of layers in its decoder blocks between which a scale can move, block by block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Pair>,
    /// Names of the models at hand: `model`, and `teacher` where there is one.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// The streams of batches at hand.
    #[serde(default)]
    pub streams: Vec<Stream>,
    /// Where the model is a policy that writes for [prompts](crate::rollouts).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
}

impl Model {
    /// All that can have codes: the linears, then head and embeddings where they are quantized.
    pub fn coded(&self) -> impl Iterator<Item = &Linear> {
        self.linears.iter().chain(&self.head).chain(&self.embeddings)
    }

    /// Whether the job is to learn codes, or to train for a quantized cache.
    pub fn quantizes(&self) -> bool {
        !self.kv_cache.is_null() || self.coded().any(|linear| !linear.grid.is_null())
    }

    /// The grid of keys and values as the caller's own copy of workbench-quant spells it; `None` where they stay as they are.
    ///
    /// # Errors
    /// The JSON is no such grid.
    pub fn kv_cache<G: DeserializeOwned>(&self) -> Result<Option<G>, Error> {
        optional(&self.kv_cache, || "reading the grid of keys and values".to_owned())
    }

    /// The pairs of some kinds, block by block in the order of the forward pass.
    ///
    /// # Errors
    /// The model has none of one of the kinds.
    pub fn pairs_of(&self, mappings: &[Mapping]) -> Result<Vec<&Pair>, Error> {
        if let Some(missing) = mappings.iter().find(|wanted| self.pairs.iter().all(|pair| pair.mapping != **wanted)) {
            return Err(Error::unsupported(format!("the model has no pair of layers `{}`", missing.name()))
                .with_hint("leave it out of `mappings`"));
        }
        Ok(self.pairs.iter().filter(|pair| mappings.contains(&pair.mapping)).collect())
    }
}

/// A kind of pair of layers in a decoder block that a rescaling can act between: the source is divided, its readers are
/// multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Mapping {
    /// The norm before attention, read by q, k and v.
    #[serde(rename = "norm->qkv")]
    NormToQkv,
    /// Values, read by o through attention, which mixes tokens but not channels.
    #[serde(rename = "v->o")]
    ValueToOutput,
    /// The norm before the MLP, read by gate and up.
    #[serde(rename = "norm->gate_up")]
    NormToGateUp,
    /// up, read by down; the gate between them is a factor per channel.
    #[serde(rename = "up->down")]
    UpToDown,
}

impl Mapping {
    /// Every mapping, in the order in which a forward pass meets them.
    pub const ALL: [Self; 4] = [Self::NormToQkv, Self::ValueToOutput, Self::NormToGateUp, Self::UpToDown];

    /// The name that scripts use.
    pub fn name(self) -> &'static str {
        match self {
            Self::NormToQkv => "norm->qkv",
            Self::ValueToOutput => "v->o",
            Self::NormToGateUp => "norm->gate_up",
            Self::UpToDown => "up->down",
        }
    }
}

/// A pair of layers of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// Its kind.
    pub mapping: Mapping,
    /// The block that it is in, for example `model.layers.3`.
    pub block: String,
    /// The module that is divided: a norm or a linear, of which the rows and the bias are.
    pub source: String,
    /// The linears that read what is divided, and whose columns are multiplied.
    pub readers: Vec<String>,
    /// The site of the readers' input.
    pub site: String,
}

impl Pair {
    /// A name for facts about it: that of its kind, and its source where its block has several of the kind.
    pub fn label(&self, others: &[&Self]) -> String {
        let same = |other: &&&Self| other.mapping == self.mapping && other.block == self.block;
        match others.iter().filter(same).count() {
            0 | 1 => self.mapping.name().to_owned(),
            _ => format!("{} {}", self.mapping.name(), self.source),
        }
    }
}

/// A stream of batches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// The name to ask for, for example `train`.
    pub name: String,
    /// How many batches it has; absent where it does not end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batches: Option<usize>,
}

/// A per-site calibration statistic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Statistic {
    /// Largest absolute value per channel, `[features]` F32.
    Absmax,
    /// Smallest value per channel, `[features]` F32.
    Min,
    /// Largest value per channel, `[features]` F32.
    Max,
    /// Mean absolute value per channel, `[features]` F32.
    MeanAbs,
    /// `XᵀX` over all tokens, `[features, features]` F32 (both halves filled).
    Gram,
    /// Number of tokens that the statistics were taken over, `[1]` F64.
    Count,
}

impl Statistic {
    /// The name under which a plugin asks for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Absmax => "absmax",
            Self::Min => "min",
            Self::Max => "max",
            Self::MeanAbs => "mean_abs",
            Self::Gram => "gram",
            Self::Count => "count",
        }
    }
}

/// A statistic that a job wants.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatisticNeed {
    /// Which one.
    pub kind: Statistic,
    /// Globs on site names. Empty: the site that the job's linear reads, or every site of the job's block.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sites: Vec<String>,
    /// Kinds of pairs whose readers' sites are meant as well.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pairs: Vec<Mapping>,
    /// The job can be done without it.
    #[serde(default)]
    pub optional: bool,
}

/// What a job wants to have ready before it runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Needs {
    /// Calibration statistics.
    #[serde(default)]
    pub statistics: Vec<StatisticNeed>,
    /// Models beside `model`, for example `teacher`. A host that has none of that name says so before the job.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Models that it reads if they are there. Named as those of [`optional_streams`](Self::optional_streams) are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional_inputs: Vec<String>,
    /// Streams of batches, for example `train`, or `inputs` at block scope.
    #[serde(default)]
    pub streams: Vec<String>,
    /// Streams that some parameters make it read, and others not. A plugin whose needs depend on its parameters names them
    /// with its default ones, which is all that a script's host can ask before it runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub optional_streams: Vec<String>,
}

impl Needs {
    /// Nothing but the model.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Adds a statistic of the job's own sites.
    #[must_use]
    pub fn statistic(mut self, kind: Statistic) -> Self {
        self.statistics.push(StatisticNeed { kind, sites: Vec::new(), pairs: Vec::new(), optional: false });
        self
    }

    /// Adds a model beside the one that the job is about.
    #[must_use]
    pub fn input(mut self, name: &str) -> Self {
        self.inputs.push(name.to_owned());
        self
    }

    /// Adds a model that is read if it is there.
    #[must_use]
    pub fn optional_input(mut self, name: &str) -> Self {
        self.optional_inputs.push(name.to_owned());
        self
    }

    /// Adds a stream of batches.
    #[must_use]
    pub fn stream(mut self, name: &str) -> Self {
        self.streams.push(name.to_owned());
        self
    }

    /// Adds a stream of batches that is read if it is there.
    #[must_use]
    pub fn optional_stream(mut self, name: &str) -> Self {
        self.optional_streams.push(name.to_owned());
        self
    }
}

/// What a plugin says about a finished job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Whatever the method wants on record: loss, damping, what it had to repair.
    #[serde(default)]
    pub facts: Facts,
}

/// Facts by name.
pub type Facts = Map<String, Value>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What a later host adds, an older plugin reads over, and of an older host nothing is there.
    #[test]
    fn grids_that_are_not_there_are_not_written() {
        let old = json!({ "scope": "train", "linears": [{ "module": "a", "weight": "a.weight", "grid": null }],
            "inputs": ["model"], "streams": [] });
        let Ok(Job::Train(model)) = serde_json::from_value(old.clone()) else { panic!("a job of a trainer") };
        assert!(!model.quantizes() && model.linears[0].input_grid::<Value>().unwrap().is_none());
        assert_eq!(model.kv_cache::<Value>().unwrap(), None);
        assert_eq!(serde_json::to_value(Job::Train(model.clone())).unwrap(), old);
        let linear = Linear { grid: json!(4), input_grid: json!(8), ..model.linears[0].clone() };
        assert_eq!((linear.grid().ok(), linear.input_grid().unwrap()), (Some(4), Some(8)));
        let told = linear.input_grid::<String>().unwrap_err().to_string();
        assert!(told.contains("reading the grid of the input of `a`"), "{told}");
        for quantized in [
            Model { linears: vec![linear.clone()], ..Model::default() },
            Model { embeddings: Some(linear), ..model.clone() },
            Model { kv_cache: json!(8), ..model },
        ] {
            assert!(quantized.quantizes());
            let again: Model = serde_json::from_value(serde_json::to_value(&quantized).unwrap()).unwrap();
            assert_eq!(again, quantized);
        }
        let needs = Needs::nothing().optional_input("teacher").optional_stream("validation");
        assert_eq!(serde_json::to_value(&needs).unwrap()["optional_inputs"], json!(["teacher"]));
        assert!(serde_json::to_value(Needs::nothing()).unwrap().get("optional_inputs").is_none());
    }
}
