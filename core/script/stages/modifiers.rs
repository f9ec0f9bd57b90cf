//! Modifiers of llm-compressor's recipes, and the plugins under their own names, as calls of `transform` and `quantize`.
//!
//! A modifier brings the defaults of its own package: `SpinQuantModifier` without a `transform_type` is a plain Hadamard matrix
//! there, while the plugin `rotate` draws signs. A plugin under its own name takes the options that a script would pass.

use serde_json::{Map, Value, json};
use workbench_model::config::LM_HEAD;
use workbench_quant::Scheme;

use super::{
    Step,
    fields::{Fields, texts},
};
use crate::{
    error::{Error, Result, did_you_mean},
    graph::{NodeKind, selector::Selector},
    plugin::{Kind, Registry},
};

const MODIFIERS: [&str; 5] =
    ["SpinQuantModifier", "SmoothQuantModifier", "AWQModifier", "QuantizationModifier", "GPTQModifier"];

/// What is wrong, and the modifier that it is about.
pub(super) type Fault = Box<(Option<String>, Error)>;

fn fault(modifier: &str, error: Error) -> Fault {
    Box::new((Some(modifier.to_owned()), error))
}

/// The calls of a stage in the order of its file.
pub(super) fn steps(given: &Value, registry: &Registry) -> Result<Vec<Step>, Fault> {
    let Value::Object(modifiers) = given else {
        let error = Error::usage(format!("`quant_modifiers` is a map of modifiers by name, not {given}"));
        return Err(Box::new((None, error.at("quant_modifiers"))));
    };
    let mut steps: Vec<Step> = Vec::new();
    for (name, options) in modifiers {
        let read = read(name, options, registry).map_err(|error| fault(name, error))?;
        for step in read {
            if let Some(before) = steps.iter().find(|before| before.kind == NodeKind::Quantize) {
                let message = match step.kind {
                    NodeKind::Quantize => format!("`{}` and `{name}` both quantize the model", before.modifier),
                    _ => format!("`{name}` comes after `{}`, which leaves codes behind", before.modifier),
                };
                let error =
                    Error::usage(message).at(name.as_str()).hint("transforms come first, and one modifier quantizes");
                return Err(fault(name, error));
            }
            steps.push(step);
        }
    }
    complete_searches(&mut steps)?;
    Ok(steps)
}

/// Whether a modifier's recipe quantizes `lm_head` where it comes from, and not here: there it is one of the linears that `Linear`
/// stands for, and here it has to be named.
pub(crate) fn means_head(step: &Step) -> bool {
    let every = step.options.contains_key("scheme") && !step.options.contains_key("targets");
    let ignored = step.options.get("ignore").and_then(texts).unwrap_or_default();
    let named = |pattern: &String| Selector::new(pattern).is_ok_and(|selector| selector.matches(LM_HEAD));
    let groups = step.options.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    let grouped = groups.filter_map(|(_, group)| texts(group.get("targets").unwrap_or(group))).flatten();
    MODIFIERS.contains(&step.modifier.as_str())
        && step.kind == NodeKind::Quantize
        && every
        && !ignored.iter().chain(&grouped.collect::<Vec<_>>()).any(named)
}

fn read(name: &str, given: &Value, registry: &Registry) -> Result<Vec<Step>> {
    // Rotations of the modifier are drawn; those that learn come under the plugin's own name.
    let calibrated = name != "SpinQuantModifier";
    let step = |kind, method: &str, options| Step {
        kind,
        method: method.to_owned(),
        modifier: name.to_owned(),
        options,
        calibrated,
    };
    if !MODIFIERS.contains(&name) {
        let kind = plugin(name, registry)?;
        return match given {
            Value::Null => Ok(vec![step(kind, name, Map::new())]),
            Value::Object(options) => Ok(vec![step(kind, name, options.clone())]),
            other => Err(Error::usage(format!("`{name}` is a map of options, not {other}")).at(name)),
        };
    }
    let mut fields = Fields::new(name, given)?;
    let mut options = Map::new();
    let steps = match name {
        "SpinQuantModifier" => {
            spinquant(&mut fields, &mut options)?;
            vec![step(NodeKind::Transform, "rotate", options)]
        }
        "SmoothQuantModifier" => {
            fields.pass("smoothing_strength", &mut options, "smoothing_strength");
            mappings(&mut fields, &mut options)?;
            fields.must_be("algorithm", &"smoothquant".into(), "the log-equalization of that package is not here")?;
            vec![step(NodeKind::Transform, "smoothquant", options)]
        }
        "AWQModifier" => {
            fields.pass("n_grid", &mut options, "n_grid");
            fields.pass("duo_scaling", &mut options, "duo_scaling");
            mappings(&mut fields, &mut options)?;
            let mut scheme = Map::new();
            quantization(&mut fields, &mut scheme)?;
            let search = step(NodeKind::Transform, "awq", options);
            let rounding = (!scheme.is_empty()).then(|| step(NodeKind::Quantize, "rtn", scheme));
            std::iter::once(search).chain(rounding).collect()
        }
        "GPTQModifier" => {
            gptq(&mut fields, &mut options)?;
            vec![step(NodeKind::Quantize, "gptq", options)]
        }
        _ => {
            quantization(&mut fields, &mut options)?;
            vec![step(NodeKind::Quantize, "rtn", options)]
        }
    };
    fields.finish()?;
    Ok(steps)
}

/// The kind of call that a plugin's own name stands for.
fn plugin(name: &str, registry: &Registry) -> Result<NodeKind> {
    let usable = |kind: Kind| match kind {
        Kind::Transform => Some(NodeKind::Transform),
        Kind::Quantizer => Some(NodeKind::Quantize),
        _ => None,
    };
    let known = || registry.plugins().filter_map(|p| Some((p.descriptor.name.as_str(), usable(p.descriptor.kind)?)));
    if let Some((_, kind)) = known().find(|(known, _)| *known == name) {
        return Ok(kind);
    }
    let names: Vec<&str> = MODIFIERS.into_iter().chain(known().map(|(name, _)| name)).collect();
    let error = Error::usage(format!("there is no modifier `{name}`")).at(name);
    Err(match did_you_mean(name, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("there are {}", names.join(", "))),
    })
}

fn spinquant(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    fields.pass("rotations", options, "rotations");
    let kind = match fields.text("transform_type")?.as_deref() {
        None | Some("hadamard") => "hadamard",
        Some("random-hadamard") => "random-hadamard",
        Some("random-matrix") => "random-orthogonal",
        Some(other) => {
            return Err(fields.wrong(
                "transform_type",
                &other.into(),
                "one of hadamard, random-hadamard, random-matrix",
            ));
        }
    };
    options.insert("kind".to_owned(), kind.into());
    fields.pass("transform_block_size", options, "block_size");
    fields.pass("seed", options, "seed");
    fields.must_be("randomize", &false.into(), "every place has one rotation")?;
    fields.must_be("learnable", &false.into(), "name the plugin `rotate` with `learn` instead")?;
    match fields.text("precision")?.as_deref() {
        None | Some("float64" | "torch.float64") => Ok(()),
        Some(other) => Err(fields.wrong("precision", &other.into(), "torch.float64: rotations are folded in that")),
    }
}

fn gptq(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    quantization(fields, options)?;
    fields.pass("dampening_frac", options, "dampening_fraction");
    // Columns that are compressed in one pass, devices, batches: how GPTQ is computed, not what.
    for how in ["block_size", "offload_hessians", "sequential_update", "batched_quantization"] {
        fields.take(how);
    }
    let order = match fields.take_even_null("actorder") {
        None => return Ok(()),
        Some(Value::Null | Value::Bool(false)) => "none",
        Some(Value::String(text)) if text == "static" || text == "weight" => "static",
        Some(other) => {
            let error = fields.wrong("actorder", &other, "static, weight or null");
            return Err(error.hint("orders that need a list of indices at run time are not written by this version"));
        }
    };
    options.insert("act_order".to_owned(), order.into());
    Ok(())
}

/// What a selector of a recipe calls every linear of the model.
fn is_every_linear(targets: &[String]) -> bool {
    targets.is_empty() || targets == ["Linear"]
}

/// Schemes and who gets them. A group for every linear becomes the scheme of the rest.
fn quantization(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    let targets = fields.texts("targets")?.unwrap_or_default();
    let mut groups = match fields.take("config_groups") {
        None => Map::new(),
        Some(Value::Object(groups)) => groups,
        Some(other) => return Err(fields.wrong("config_groups", &other, "a map of groups by name")),
    };
    match fields.take("scheme") {
        None => {}
        // Presets with their targets, as in `scheme: {W4A16: [Linear]}`.
        Some(Value::Object(presets)) if presets.values().all(|v| v.is_array() || v.is_string()) => {
            groups.extend(presets)
        }
        Some(scheme) => drop(options.insert("scheme".to_owned(), scheme)),
    }
    if !is_every_linear(&targets) {
        options.insert("targets".to_owned(), targets.into());
    }
    let mut exceptions = Map::new();
    for (name, group) in groups {
        match for_every_linear(&name, &group)? {
            Some(_) if options.contains_key("scheme") => {
                return Err(Error::usage(format!("group `{name}` is a second scheme for every linear"))
                    .at(name.as_str())
                    .hint("give all groups but one their targets"));
            }
            Some(scheme) => drop(options.insert("scheme".to_owned(), scheme)),
            None => drop(exceptions.insert(name, group)),
        }
    }
    if !exceptions.is_empty() {
        options.insert("config_groups".to_owned(), exceptions.into());
    }
    fields.pass("ignore", options, "ignore");
    fields.pass("kv_cache_scheme", options, "kv_cache_scheme");
    fields.pass("input_observer", options, "observer");
    fields.must_be("bypass_divisibility_checks", &false.into(), "choose a group size that divides the inputs")
}

/// The scheme of a group that is meant for every linear; `None` if it names others.
fn for_every_linear(name: &str, group: &Value) -> Result<Option<Value>> {
    match group {
        Value::Array(_) | Value::String(_) => {
            Ok(texts(group).is_some_and(|targets| is_every_linear(&targets)).then(|| name.into()))
        }
        Value::Object(keys) => {
            let mut keys = keys.clone();
            let targets = keys.shift_remove("targets").unwrap_or_default();
            let targets = if targets.is_null() { Some(Vec::new()) } else { texts(&targets) };
            keys.retain(|_, value| !value.is_null());
            Ok(targets.is_some_and(|targets| is_every_linear(&targets)).then(|| keys.into()))
        }
        other => Err(Error::usage(format!("group `{name}` is a map, not {other}")).at(name)),
    }
}

/// Pairs of layers to rescale, from names or regular expressions of the layers themselves.
fn mappings(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    let Some(given) = fields.take("mappings") else { return Ok(()) };
    let Value::Array(items) = &given else { return Err(fields.wrong("mappings", &given, "a list of pairs of layers")) };
    let named = items.iter().map(|item| {
        let (balanced, smooth) = match item {
            Value::String(_) => return Some(item.clone()),
            Value::Array(pair) => (pair.first()?, pair.get(1)?.as_str()?),
            other => (other.get("balance_layers")?, other.get("smooth_layer")?.as_str()?),
        };
        mapping(&texts(balanced)?, smooth).map(Value::from)
    });
    let named: Option<Vec<Value>> = named.collect();
    let named = named.ok_or_else(|| {
        let error = fields.wrong("mappings", &given, "pairs that this version knows");
        error.hint("norm->qkv, norm->gate_up, v->o and up->down are: the layers in front of each other in a block")
    })?;
    options.insert("mappings".to_owned(), named.into());
    Ok(())
}

/// The name of a pair, by the ends of its layers' names.
fn mapping(balanced: &[String], smooth: &str) -> Option<&'static str> {
    let end =
        |pattern: &str| pattern.trim_end_matches('$').rsplit(['.', '*', ':']).next().unwrap_or_default().to_owned();
    let mut ends: Vec<String> = balanced.iter().map(|pattern| end(pattern)).collect();
    ends.sort();
    let ends: Vec<&str> = ends.iter().map(String::as_str).collect();
    match (end(smooth).as_str(), ends.as_slice()) {
        ("input_layernorm", ["k_proj", "q_proj", "v_proj"]) => Some("norm->qkv"),
        ("post_attention_layernorm", ["gate_proj", "up_proj"]) => Some("norm->gate_up"),
        ("v_proj", ["o_proj"]) => Some("v->o"),
        ("up_proj", ["down_proj"]) => Some("up->down"),
        _ => None,
    }
}

/// Tells AWQ's search what the weights will be rounded to, which the modifier behind it knows.
fn complete_searches(steps: &mut [Step]) -> Result<(), Fault> {
    let rounding = steps.iter().find(|step| step.kind == NodeKind::Quantize).cloned();
    for step in steps.iter_mut().filter(|step| step.modifier == "AWQModifier" && step.kind == NodeKind::Transform) {
        let weights = match &rounding {
            Some(rounding) => weights(&rounding.options),
            None => Err(Error::usage(
                "AWQ searches scales for what weights will be rounded to, and nothing of this stage rounds",
            )
            .hint("give AWQModifier a scheme, or put the modifier that quantizes into the same stage")),
        };
        step.options
            .insert("scheme".to_owned(), weights.map_err(|e| fault(&step.modifier, e.at(step.modifier.as_str())))?);
    }
    Ok(())
}

/// How weights are rounded, where all are rounded alike.
fn weights(options: &Map<String, Value>) -> Result<Value> {
    let scheme = |given: &Value| {
        let mut given = given.clone();
        given.as_object_mut().map(|keys| keys.shift_remove("targets"));
        let found = Scheme::from_value(&given).map_err(|e| Error::usage(e.message).maybe_hint(e.hint));
        Ok(found?.weights.map(|args| json!(args)).unwrap_or_default())
    };
    let groups = options.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    let mut all = options.get("scheme").map(&scheme).into_iter().collect::<Result<Vec<Value>>>()?;
    for (name, group) in groups {
        all.push(
            scheme(if group.is_object() { group } else { &Value::Null }).or_else(|_| scheme(&name.as_str().into()))?,
        );
    }
    all.dedup();
    match all.as_slice() {
        [one] if one.is_object() => Ok(one.clone()),
        _ => {
            Err(Error::usage("AWQ searches for one way of rounding weights, and the groups of this stage have several")
                .hint("use the plugin `awq` with a `scheme` of its own"))
        }
    }
}
