//! What `transform`, `quantize`, `train` and `apply` take, beside the parameters of their plugins.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use workbench_quant::{Conventions, Scheme, observer::NAMES};

use super::{Dataset, Model, Reward};
use crate::graph::params::{CalibrationDtype, Order, WeightDtype};

/// Options of `transform`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Transform {
    /// Dtype of the written weights.
    pub dtype: WeightDtype,
    /// Data for a plugin that observes activations or learns; 128 sequences where it has no `.tokens(…)`.
    pub calibration: Option<Dataset>,
}

/// Options of `train`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Train {
    /// What is learned; needed, but where there are `prompts`. Of conversations the turns of the assistant count, of texts every token.
    pub data: Option<Dataset>,
    /// Dtype of the written weights, and of the scales of codes; that of the model if not given. A model of codes is stored as it was.
    pub dtype: Option<WeightDtype>,
    /// A model to learn from, for a trainer that asks for one. It needs the vocabulary and the tokenizer of the model that is trained.
    pub teacher: Option<Model>,
    /// Data to watch or choose by, for a trainer that reads any; nothing is learned of them.
    pub validation: Option<Dataset>,
    /// What is written for, for a trainer of what the model itself writes: texts that it goes on with, or conversations, of which a last
    /// turn of the assistant becomes the `answer` of their row. Prompts longer than `max_seq_length` are left out.
    pub prompts: Option<Dataset>,
    /// What that is worth: `task(…)` of written answers, whose `answer` is then a field of the prompts' rows, and `reward(…)`. The `stop`
    /// texts of a task end completions, for every reward.
    pub rewards: Vec<Reward>,
}

/// Options of `apply`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Apply {
    /// Data for modifiers that observe activations, where the stage names no `dataset` of its own.
    pub calibration: Option<Dataset>,
}

/// Options that say what schemes are for: of `quantize`, and of `train` with a trainer that learns codes.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Targets {
    /// Tied embeddings and head are one tensor with one scheme; `true` gives `lm_head` a weight of its own.
    pub untie_word_embeddings: bool,
    /// Schemes for some modules: a map of groups by name, a preset's name with the targets that it is for, or a list of groups. `scheme`
    /// is then for the rest.
    #[schemars(schema_with = "groups")]
    pub config_groups: Option<Value>,
    /// Which modules the scheme is for: names, globs, or `re:` and a regular expression. The linears of the decoder blocks if not
    /// given, or by the name `"Linear"`; `"lm_head"` and `"Embedding"` only where they are named.
    pub targets: Option<Texts>,
    /// Selectors of modules to leave alone, whatever targets them.
    pub ignore: Texts,
    /// How keys and values are rounded before they are cached: the arguments of a scheme's weights.
    #[schemars(schema_with = "map")]
    pub kv_cache_scheme: Option<Value>,
}

/// Options of `quantize` that are about the model as a whole.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct Quantize {
    /// In which model calibration looks at activations.
    pub observe: Order,
    /// In which calibration keeps activations between the pieces of a block; the model's dtype if not given.
    pub hidden_states: Option<CalibrationDtype>,
    /// Of the operands of calibration's matrix products, whose sums are float32; the model's dtype if not given.
    pub compute_dtype: Option<CalibrationDtype>,
    /// In a mixture of experts: let each expert's linears observe every token, not only those that are routed to it. What the model
    /// computes stays the router's.
    pub calibrate_all_experts: Option<bool>,
    /// In a mixture of experts: the linears of an expert that fewer tokens of the calibration data reach are rounded to nearest, and
    /// named; 64 if not given.
    pub min_expert_tokens: Option<usize>,
    /// Data for static input scales and for methods that observe activations; 128 sequences where it has no `.tokens(…)`.
    pub calibration: Option<Dataset>,
}

/// Targets of a group of `config_groups`.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::script) struct GroupTargets {
    /// Which modules the group is for; needed, unless its preset says so.
    pub targets: Option<Texts>,
}

/// A scheme among options: its name or a map, and the keys beside it that change it, in the order of their definition. What they
/// mean is for [`workbench_quant::Scheme`] to say.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::script) struct SchemeOptions(pub Map<String, Value>);

/// Keys of a scheme that can stand beside `scheme`.
const OVERRIDES: [&str; 12] = [
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "block_structure",
    "actorder",
    "scale_dtype",
    "zp_dtype",
    "weights",
    "input_activations",
    "format",
];

impl JsonSchema for SchemeOptions {
    fn schema_name() -> Cow<'static, str> {
        "SchemeOptions".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut keys = Map::new();
        keys.insert(
            "scheme".into(),
            json!({ "type": ["string", "object"], "description": "A preset's name, or a map in the shapes of the compressed-tensors format, see below. Needed, unless groups or `weights` say what is quantized." }),
        );
        let whole = Scheme::json_schema(generator);
        let own = whole.get("properties").and_then(Value::as_object);
        for key in OVERRIDES {
            let mut schema = own.and_then(|own| own.get(key)).cloned().unwrap_or_default();
            let about = schema["description"].as_str().unwrap_or_default().to_owned();
            // A preset says what holds where a key is left out.
            schema.as_object_mut().map(|schema| schema.shift_remove("implied"));
            if schema.get("anyOf").is_some() && schema["anyOf"][0].get("$ref").is_some() {
                schema = json!({ "type": ["object", "null"] });
            }
            schema["description"] = match key {
                "weights" | "input_activations" | "format" => about.into(),
                _ => format!("Changes the scheme's weights. {about}").into(),
            };
            keys.insert(key.to_owned(), schema);
        }
        keys.insert(
            "observer".into(),
            json!({ "enum": NAMES, "description": "How static scales of inputs are observed; `minmax` where the scheme names none. That of weights is named as `weights: #{ observer: … }`." }),
        );
        let conventions = generator.subschema_for::<Conventions>();
        keys.insert(
            "conventions".into(),
            json!({ "anyOf": [conventions], "description": "What a scheme leaves open about its grid." }),
        );
        json_schema!({ "type": "object", "properties": keys, "additionalProperties": false })
    }
}

/// A list of texts; a single text counts as a list of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "OneOrMany")]
pub(in crate::script) struct Texts(pub Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Texts {
    fn from(given: OneOrMany) -> Self {
        match given {
            OneOrMany::One(text) => Self(vec![text]),
            OneOrMany::Many(texts) => Self(texts),
        }
    }
}

impl JsonSchema for Texts {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Texts".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "array"], "items": { "type": "string" } })
    }
}

fn groups(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "array", "null"] })
}

fn map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["object", "null"] })
}
