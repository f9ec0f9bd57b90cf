//! What a person can write as quantization arguments or as a scheme, as JSON Schema.
//!
//! By hand, because the JSON takes more spellings than the types have (`group_size: -1`, `torch.float32`, `"128x128"`), and because
//! a key that is left out has no default of its own where arguments change those of a preset: `implied` is what holds elsewhere.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::{QuantizationArgs, ScaleDtype, ZeroPointDtype};
use crate::observer;
use crate::preset::preset_names;
use crate::scheme::Scheme;

impl JsonSchema for QuantizationArgs {
    fn schema_name() -> Cow<'static, str> {
        "QuantizationArgs".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "properties": arguments(), "additionalProperties": false })
    }
}

impl JsonSchema for Scheme {
    fn schema_name() -> Cow<'static, str> {
        "Scheme".into()
    }

    /// As [`Scheme::from_value`] takes it: a preset's name, or a map.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let args = generator.subschema_for::<QuantizationArgs>();
        let part = |about: &str| json!({ "anyOf": [args, { "type": "null" }], "description": about });
        let mut keys = Map::new();
        let names: Vec<&str> = preset_names().collect();
        keys.insert(
            "scheme".into(),
            json!({ "type": "string", "presets": names, "description": "The preset that the other keys change." }),
        );
        for key in ["targets", "ignore"] {
            keys.insert(
                key.into(),
                json!({ "type": "array", "items": { "type": "string" }, "description": "Selectors of modules." }),
            );
        }
        keys.insert(
            "weights".into(),
            part("How weights are quantized; single keys change those of the preset, null leaves the weights alone."),
        );
        keys.insert("input_activations".into(), part("How inputs are quantized, likewise."));
        keys.insert("output_activations".into(), part("How outputs are quantized, likewise."));
        keys.insert("format".into(), json!({ "type": ["string", "null"], "description": "Layout in a checkpoint; the one that follows from the arguments if not given." }));
        keys.extend(arguments());
        json_schema!({ "type": ["string", "object"], "properties": keys, "additionalProperties": false })
    }
}

/// The keys of quantization arguments in the order of the struct.
fn arguments() -> Map<String, Value> {
    let torch = |names: &[&str]| -> Vec<Value> {
        let plain = names.iter().map(|name| Value::from(*name));
        plain.chain(names.iter().map(|name| format!("torch.{name}").into())).chain([Value::Null]).collect()
    };
    let scales = [ScaleDtype::F32, ScaleDtype::Bf16, ScaleDtype::F16, ScaleDtype::F8E4M3, ScaleDtype::E8M0]
        .map(ScaleDtype::name);
    let points =
        [ZeroPointDtype::I8, ZeroPointDtype::I16, ZeroPointDtype::I32, ZeroPointDtype::U8, ZeroPointDtype::F8E4M3]
            .map(ZeroPointDtype::name);
    let keys = [
        (
            "num_bits",
            json!({ "type": "integer", "implied": 8, "unit": "bits", "description": "Bits of a code: 2 to 8 of integers, 8 (FP8 E4M3) or 4 (FP4 E2M1) of floats." }),
        ),
        (
            "type",
            json!({ "enum": ["int", "float"], "implied": "int", "description": "Integer or floating-point codes." }),
        ),
        (
            "symmetric",
            json!({ "type": "boolean", "implied": true, "description": "Whether zero has the code zero, so that no zero-point is stored." }),
        ),
        (
            "group_size",
            json!({ "type": ["integer", "null"], "unit": "channels", "description": "Neighbours along a row that share a scale; -1: the whole row." }),
        ),
        (
            "strategy",
            json!({
                "enum": ["tensor", "channel", "group", "token", "block", "tensor_group", "attn_head", null],
                "description": "Which values share a scale; `group` if there is a `group_size`, and else `tensor`.",
            }),
        ),
        (
            "block_structure",
            json!({
                "anyOf": [{ "type": "array", "items": { "type": "integer" }, "minItems": 2, "maxItems": 2 }, { "type": ["string", "null"] }],
                "description": "Rows and columns of a block, for the strategy `block`: [128, 128].",
            }),
        ),
        (
            "dynamic",
            json!({
                "enum": [false, true, "local", null], "implied": false,
                "description": "Whether scales are derived from every input anew; `\"local\"`: those of groups are, the tensor-wide one is not (NVFP4).",
            }),
        ),
        (
            "actorder",
            json!({
                "enum": ["static", "weight", false, null],
                "description": "GPTQ visits columns by falling activation magnitude; both names mean the same. The groups stay where they are.",
            }),
        ),
        (
            "scale_dtype",
            json!({ "enum": torch(&scales), "description": "Dtype of stored scales; that of the tensor if not given. `uint8` is a power of two." }),
        ),
        (
            "zp_dtype",
            json!({ "enum": torch(&points), "description": "Dtype of stored zero-points; int8 if not given." }),
        ),
        ("observer", json!({ "type": ["string", "null"], "observers": observer::NAMES, "description": observers() })),
        (
            "observer_kwargs",
            json!({ "type": ["object", "null"], "description": "Options of the observer: `averaging_constant`, `maxshrink`, `patience`, `grid`, `norm`, `expand`, `percentile`." }),
        ),
    ];
    keys.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect()
}

fn observers() -> String {
    format!("How a range is chosen: {}.", observer::NAMES.map(|name| format!("`{name}`")).join(", "))
}
