//! Schemes: which tensors of a linear are quantized how, by name or spelled out.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::args::{Dynamic, NumberType, QuantizationArgs, RawArgs, Strategy};
use crate::error::{ArgsError, nearest};
use crate::preset::{preset, preset_names};

/// How a quantized linear is laid out in a checkpoint, by the names of compressed-tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// Not quantized.
    #[serde(rename = "dense")]
    Dense,
    /// Integer weights in a bit stream, activations left alone.
    #[serde(rename = "pack-quantized")]
    PackQuantized,
    /// Integer weights in a byte each, activations quantized too.
    #[serde(rename = "int-quantized")]
    IntQuantized,
    /// FP8 weights.
    #[serde(rename = "float-quantized")]
    FloatQuantized,
    /// One code a byte, whatever it is; the fallback.
    #[serde(rename = "naive-quantized")]
    NaiveQuantized,
    /// FP4 weights with FP8 group scales and a tensor-wide one.
    #[serde(rename = "nvfp4-pack-quantized")]
    NvFp4PackQuantized,
    /// FP4 weights with power-of-two scales.
    #[serde(rename = "mxfp4-pack-quantized")]
    MxFp4PackQuantized,
    /// FP8 weights with power-of-two scales.
    #[serde(rename = "mxfp8-quantized")]
    MxFp8Quantized,
    /// Several of the above in one checkpoint.
    #[serde(rename = "mixed-precision")]
    MixedPrecision,
}

/// How the linears that it targets are quantized.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scheme {
    /// Selectors of modules; empty means the linears of the decoder blocks.
    pub targets: Vec<String>,
    /// Selectors of modules to leave alone, whatever targets them.
    pub ignore: Vec<String>,
    /// How weights are quantized.
    pub weights: Option<QuantizationArgs>,
    /// How inputs are quantized.
    pub input_activations: Option<QuantizationArgs>,
    /// How outputs are quantized.
    pub output_activations: Option<QuantizationArgs>,
    /// Layout in a checkpoint; `None` means the one that follows from the arguments.
    pub format: Option<Format>,
}

/// Keys that stand beside `scheme` and change its weights.
const WEIGHT_KEYS: [&str; 11] = [
    "num_bits",
    "type",
    "symmetric",
    "group_size",
    "strategy",
    "block_structure",
    "actorder",
    "scale_dtype",
    "zp_dtype",
    "observer",
    "observer_kwargs",
];

/// Keys of the scheme itself.
const SCHEME_KEYS: [&str; 7] =
    ["scheme", "targets", "ignore", "weights", "input_activations", "output_activations", "format"];

impl Scheme {
    /// Reads a scheme as a person writes it: a preset's name (`"W4A16"`), an object that names one and changes some of it
    /// (`{"scheme": "W4A16", "group_size": 32}`; keys of quantization arguments go to the weights, `weights` and the
    /// activations may be given as objects that change single keys, or as null), or a scheme in full.
    ///
    /// # Errors
    /// An unknown preset or key with the nearest known one, a value of the wrong type, or arguments that contradict
    /// themselves, each with the key at fault.
    pub fn from_value(value: &Value) -> Result<Self, ArgsError> {
        let scheme = match value {
            Value::String(name) => named(name)?,
            Value::Object(keys) => Self::from_object(keys)?,
            other => {
                return Err(ArgsError::new("scheme", format!("a scheme is a name or an object, not {other}"))
                    .with_hint("for example \"W4A16\""));
            }
        };
        scheme.validate()?;
        Ok(scheme)
    }

    fn from_object(keys: &Map<String, Value>) -> Result<Self, ArgsError> {
        let mut scheme = match keys.get("scheme") {
            None => Self::default(),
            Some(Value::String(name)) => named(name)?,
            Some(other) => return Err(ArgsError::new("scheme", format!("`scheme` is a name, not {other}"))),
        };
        let mut for_weights = Map::new();
        for (key, value) in keys {
            match key.as_str() {
                "scheme" => {}
                "targets" => scheme.targets = typed(key, value)?,
                "ignore" => scheme.ignore = typed(key, value)?,
                "format" => scheme.format = typed(key, value)?,
                "weights" => scheme.weights = changed(key, scheme.weights.take(), value)?,
                "input_activations" => scheme.input_activations = changed(key, scheme.input_activations.take(), value)?,
                "output_activations" => {
                    scheme.output_activations = changed(key, scheme.output_activations.take(), value)?
                }
                name if WEIGHT_KEYS.contains(&name) => {
                    for_weights.insert(key.clone(), value.clone());
                }
                name => return Err(unknown_key(name)),
            }
        }
        if !for_weights.is_empty() {
            scheme.weights = changed("weights", scheme.weights.take(), &Value::Object(for_weights))?;
        }
        Ok(scheme)
    }

    /// Checks that the scheme quantizes something and that no part of it contradicts itself or another.
    ///
    /// # Errors
    /// The first contradiction, with the key at fault.
    pub fn validate(&self) -> Result<(), ArgsError> {
        if self.weights.is_none() && self.input_activations.is_none() && self.output_activations.is_none() {
            return Err(ArgsError::new("scheme", "the scheme quantizes nothing")
                .with_hint("name a preset with `scheme`, or give `weights`"));
        }
        if let Some(weights) = &self.weights {
            check_weights(weights).map_err(|error| error.inside("weights"))?;
        }
        for (key, args) in
            [("input_activations", &self.input_activations), ("output_activations", &self.output_activations)]
        {
            if let Some(args) = args {
                check_activations(args).map_err(|error| error.inside(key))?;
            }
        }
        let inferred = self.inferred_format();
        match self.format {
            Some(Format::MixedPrecision) => Err(ArgsError::new(
                "format",
                "`mixed-precision` describes a checkpoint of several schemes, not one scheme",
            )
            .with_hint("leave `format` out")),
            Some(format) if format != inferred && format != Format::NaiveQuantized && !self.may_pack_as(format) => {
                let name = serde_json::to_string(&inferred).unwrap_or_default();
                Err(ArgsError::new("format", "the format cannot hold these codes")
                    .with_hint(format!("leave `format` out, or write {name}")))
            }
            _ => Ok(()),
        }
    }

    /// The layout that compressed-tensors would choose: by the weights, and for integers by whether inputs are quantized.
    pub fn inferred_format(&self) -> Format {
        let Some(weights) = &self.weights else { return Format::Dense };
        match (weights.r#type, weights.num_bits) {
            (NumberType::Float, 4) if weights.is_mx() => Format::MxFp4PackQuantized,
            (NumberType::Float, 8) if weights.is_mx() => Format::MxFp8Quantized,
            (NumberType::Float, 4) => Format::NvFp4PackQuantized,
            (NumberType::Float, _) => Format::FloatQuantized,
            (NumberType::Int, _) if self.input_activations.is_some() => Format::IntQuantized,
            (NumberType::Int, _) => Format::PackQuantized,
        }
    }

    /// Integer codes fit a bit stream as well as bytes.
    fn may_pack_as(&self, format: Format) -> bool {
        let is_int = self.weights.as_ref().is_some_and(|weights| weights.r#type == NumberType::Int);
        is_int && matches!(format, Format::PackQuantized | Format::IntQuantized)
    }
}

fn named(name: &str) -> Result<Scheme, ArgsError> {
    preset(name).ok_or_else(|| {
        let error = ArgsError::new("scheme", format!("unknown scheme `{name}`"));
        match nearest(name, preset_names()) {
            Some(similar) => error.with_hint(format!("did you mean `{similar}`?")),
            None => error.with_hint(format!("there are `{}`", preset_names().collect::<Vec<_>>().join("`, `"))),
        }
    })
}

/// A value of a plain type.
fn typed<T: serde::de::DeserializeOwned>(key: &str, value: &Value) -> Result<T, ArgsError> {
    serde_json::from_value(value.clone()).map_err(|error| ArgsError::new(key, format!("`{key}`: {error}")))
}

/// Arguments with some of their keys changed; null removes them.
fn changed(key: &str, before: Option<QuantizationArgs>, value: &Value) -> Result<Option<QuantizationArgs>, ArgsError> {
    let changes = match value {
        Value::Null => return Ok(None),
        Value::Object(changes) => changes,
        other => return Err(ArgsError::new(key, format!("`{key}` is an object or null, not {other}"))),
    };
    if let Some(name) = changes.keys().find(|name| *name != "dynamic" && !WEIGHT_KEYS.contains(&name.as_str())) {
        return Err(unknown_argument(name).inside(key));
    }
    let mut keys = match before.as_ref().map(serde_json::to_value) {
        Some(Ok(Value::Object(keys))) => keys,
        _ => Map::new(),
    };
    drop_what_follows(&mut keys, changes);
    for (name, value) in changes {
        keys.insert(name.clone(), value.clone());
    }
    for (name, value) in changes {
        // A value of a wrong type is the fault of its own key.
        typed::<RawArgs>(name, &Value::Object(Map::from_iter([(name.clone(), value.clone())])))
            .map_err(|error| unquoted(error, name, value).inside(key))?;
    }
    let raw: RawArgs = typed(key, &Value::Object(keys))?;
    QuantizationArgs::from_raw(raw).map(Some).map_err(|error| error.inside(key))
}

/// Points out a number that is written as text.
fn unquoted(error: ArgsError, name: &str, value: &Value) -> ArgsError {
    match value.as_str().filter(|text| text.trim().parse::<f64>().is_ok()) {
        Some(number) => error.with_hint(format!("write `{name}: {}`, without quotes", number.trim())),
        None => error,
    }
}

/// Takes out of a preset what a change to its neighbour makes meaningless: the group size with the strategy `group`, the
/// strategy with a group size of -1.
fn drop_what_follows(keys: &mut Map<String, Value>, changes: &Map<String, Value>) {
    if let Some(strategy) = changes.get("strategy").and_then(Value::as_str) {
        if !matches!(strategy, "group" | "tensor_group") {
            keys.remove("group_size");
        }
        if strategy != "block" {
            keys.remove("block_structure");
        }
    }
    if changes.get("group_size").and_then(Value::as_i64) == Some(-1) && !changes.contains_key("strategy") {
        keys.remove("strategy");
    }
}

/// Reads and checks how keys and values are quantized before they are cached: an object of quantization arguments, as
/// `kv_cache_scheme` holds it in the checkpoint format. Static scales are one for the tensor (`tensor`) or one a head
/// (`attn_head`); dynamic ones belong to groups along a head (`group`), so that a token's does not depend on later tokens.
///
/// # Errors
/// An unknown key, a value of the wrong type, or arguments that contradict themselves or have no meaning for a cache.
pub fn kv_cache_args(value: &Value) -> Result<QuantizationArgs, ArgsError> {
    let inside = |error: ArgsError| error.inside("kv_cache_scheme");
    let Some(args) = changed("kv_cache_scheme", None, value)? else {
        return Err(ArgsError::new("kv_cache_scheme", "the KV cache has no quantization arguments"));
    };
    args.validate().map_err(inside)?;
    if args.actorder.is_some() {
        return Err(inside(ArgsError::new("actorder", "`actorder` orders the columns of weights, not a cache")));
    }
    match (args.strategy, args.dynamic) {
        (Strategy::Tensor | Strategy::AttnHead, Dynamic::No) | (Strategy::Group, Dynamic::Yes) => Ok(args),
        (strategy, Dynamic::No) => {
            let message = format!("strategy `{}` has no static scales for a KV cache", strategy.name());
            Err(inside(
                ArgsError::new("strategy", message).with_hint("write `strategy: \"tensor\"` or `\"attn_head\"`"),
            ))
        }
        (strategy, _) => {
            let message = format!(
                "strategy `{}` cannot be dynamic for a KV cache: its scale would depend on later tokens",
                strategy.name()
            );
            Err(inside(ArgsError::new("strategy", message).with_hint("write `group_size` with the size of a head")))
        }
    }
}

fn unknown_key(name: &str) -> ArgsError {
    let error = ArgsError::new(name, format!("unknown key `{name}` in a scheme"));
    match nearest(name, SCHEME_KEYS.into_iter().chain(WEIGHT_KEYS)) {
        Some(similar) => error.with_hint(format!("did you mean `{similar}`?")),
        None => error.with_hint(format!("a scheme has `{}` and quantization arguments", SCHEME_KEYS.join("`, `"))),
    }
}

fn unknown_argument(name: &str) -> ArgsError {
    let error = ArgsError::new(name, format!("unknown quantization argument `{name}`"));
    match nearest(name, WEIGHT_KEYS.into_iter().chain(["dynamic"])) {
        Some(similar) => error.with_hint(format!("did you mean `{similar}`?")),
        None => error.with_hint(format!("there are `{}`, `dynamic`", WEIGHT_KEYS.join("`, `"))),
    }
}

fn check_weights(args: &QuantizationArgs) -> Result<(), ArgsError> {
    args.validate()?;
    if matches!(args.strategy, Strategy::Token | Strategy::AttnHead) {
        let message = format!("strategy `{}` does not apply to weights", args.strategy.name());
        return Err(ArgsError::new("strategy", message).with_hint("write `strategy: \"channel\"`, or `group_size`"));
    }
    if args.dynamic != Dynamic::No {
        return Err(
            ArgsError::new("dynamic", "weights cannot be dynamic: they do not change").with_hint("leave `dynamic` out")
        );
    }
    Ok(())
}

fn check_activations(args: &QuantizationArgs) -> Result<(), ArgsError> {
    args.validate()?;
    if args.actorder.is_some() {
        return Err(ArgsError::new("actorder", "`actorder` orders the columns of weights, not activations")
            .with_hint("give it beside `scheme`, or under `weights`"));
    }
    match args.strategy {
        Strategy::TensorGroup if args.dynamic == Dynamic::No => Err(ArgsError::new(
            "dynamic",
            "group scales of activations cannot be static: no layout has a place for them",
        )
        .with_hint("write `dynamic: \"local\"` for a static tensor-wide scale and dynamic group scales")),
        Strategy::Channel | Strategy::Block | Strategy::AttnHead => {
            let message = format!("strategy `{}` does not apply to activations", args.strategy.name());
            Err(ArgsError::new("strategy", message)
                .with_hint("write `strategy: \"token\", dynamic: true`, or `strategy: \"tensor\"`"))
        }
        _ => Ok(()),
    }
}
