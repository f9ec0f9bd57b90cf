//! Modifiers of llm-compressor's recipes, and the plugins under their own names, as calls of `transform` and `quantize`.
//!
//! A modifier brings the defaults of its own package: `SpinQuantModifier` without a `transform_type` is a plain Hadamard matrix
//! there, while the plugin `rotate` draws signs. A plugin under its own name takes the options that a script would pass.

use serde_json::{Map, Value, json};
use workbench_model::arch::{LM_HEAD, PairKind, recipes};
use workbench_quant::{Dynamic as Timing, QuantizationArgs, Scheme};

use super::{
    Step,
    fields::{Fields, texts},
    merge,
    recipe::Entry,
    rotations,
};
use crate::{
    error::{Error, Result, did_you_mean},
    graph::{NodeKind, selector::Selector},
    plugin::{Kind, Registry},
};

const MODIFIERS: [&str; 5] =
    ["SpinQuantModifier", "SmoothQuantModifier", "AWQModifier", "QuantizationModifier", "GPTQModifier"];

/// Modifiers of that package which cannot be expressed here, and why.
const ELSEWHERE: [(&str, &str); 8] = [
    ("AutoRoundModifier", "it learns roundings by gradients"),
    ("ConstantPruningModifier", "it prunes weights"),
    ("LogarithmicEqualizationModifier", "it scales by logarithms of ranges; SmoothQuantModifier does not"),
    ("MagnitudePruningModifier", "it prunes weights"),
    ("QuIPModifier", "it rotates the inputs and outputs of each linear while the model runs"),
    ("REAPPruningModifier", "it prunes experts"),
    ("SparseGPTModifier", "it prunes weights"),
    ("WandaPruningModifier", "it prunes weights"),
];

/// What is wrong, and the names that lead to the section that it is about.
pub(super) type Fault = Box<(Vec<String>, Error)>;

/// The calls of a stage in the order of its file.
pub(super) fn steps(entries: Vec<Entry>, registry: &Registry) -> Result<Vec<Step>, Fault> {
    let mut steps: Vec<Step> = Vec::new();
    for Entry { path, options } in entries {
        let name = path.last().cloned().unwrap_or_default();
        let read = read(&path, &options, registry).map_err(|error| Box::new((path.clone(), error)))?;
        for step in read {
            let Some(before) = steps.iter_mut().find(|before| before.kind == NodeKind::Quantize) else {
                steps.push(step);
                continue;
            };
            if step.kind != NodeKind::Quantize {
                let message = format!("`{name}` comes after `{}`, which leaves codes behind", before.modifier);
                let error = Error::usage(message).at(name.as_str()).hint("transforms come first, then what quantizes");
                return Err(Box::new((path, error)));
            }
            merge::into(before, step).map_err(|error| Box::new((path.clone(), error.at(name.as_str()))))?;
        }
    }
    complete_searches(&mut steps)?;
    Ok(steps)
}

/// Whether a step stands for a modifier of that package, and not for a plugin under its own name.
pub(super) fn is_of_package(step: &Step) -> bool {
    MODIFIERS.contains(&step.modifier.as_str())
}

/// Whether a modifier's recipe quantizes `lm_head` where it comes from, and not here: there it is one of the linears that `Linear`
/// stands for, and here it has to be named.
pub(crate) fn means_head(step: &Step) -> bool {
    let every = step.options.contains_key("scheme") && !step.options.contains_key("targets");
    let ignored = step.options.get("ignore").and_then(texts).unwrap_or_default();
    let named = |pattern: &String| Selector::new(pattern).is_ok_and(|selector| selector.matches(LM_HEAD));
    let groups = step.options.get("config_groups").and_then(Value::as_object).into_iter().flatten();
    let grouped = groups.filter_map(|(_, group)| texts(group.get("targets").unwrap_or(group))).flatten();
    is_of_package(step)
        && step.kind == NodeKind::Quantize
        && every
        && !ignored.iter().chain(&grouped.collect::<Vec<_>>()).any(named)
}

fn read(path: &[String], given: &Value, registry: &Registry) -> Result<Vec<Step>> {
    let name = path.last().map_or("", String::as_str);
    // Rotations of the modifier are drawn; those that learn come under the plugin's own name.
    let calibrated = name != "SpinQuantModifier";
    let step = |kind, method: &str, options| Step {
        kind,
        method: method.to_owned(),
        modifier: name.to_owned(),
        path: path.to_vec(),
        options,
        calibrated,
        head_size: None,
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
    let steps = of_package(name, &mut fields, step)?;
    fields.finish()?;
    Ok(steps)
}

/// The modifiers of that package which are read here, each with its keys.
pub(in crate::script) fn keys() -> Vec<(&'static str, Vec<&'static str>)> {
    let step = |kind, method: &str, options| Step {
        kind,
        method: method.to_owned(),
        modifier: String::new(),
        path: Vec::new(),
        options,
        calibrated: true,
        head_size: None,
    };
    let keys = |name: &'static str| {
        let mut fields = Fields::new(name, &Value::Null).ok()?;
        // What is asked for is the same whether anything is given or not.
        of_package(name, &mut fields, step).ok()?;
        Some((name, fields.known().to_vec()))
    };
    MODIFIERS.into_iter().filter_map(keys).collect()
}

/// The calls of a modifier of that package.
fn of_package(
    name: &str,
    fields: &mut Fields<'_>,
    step: impl Fn(NodeKind, &str, Map<String, Value>) -> Step,
) -> Result<Vec<Step>> {
    common(fields)?;
    let mut options = Map::new();
    Ok(match name {
        "SpinQuantModifier" => {
            let head_size = rotations::spinquant(fields, &mut options)?;
            vec![Step { head_size, ..step(NodeKind::Transform, "rotate", options) }]
        }
        "SmoothQuantModifier" => {
            fields.pass("smoothing_strength", &mut options, "smoothing_strength");
            mappings(fields, &mut options)?;
            fields.must_be("algorithm", &"smoothquant".into(), "the log-equalization of that package is not here")?;
            let why = "every layer of a mapping is smoothed: leave the mapping out";
            fields.must_be("ignore", &json!([]), why)?;
            fields.must_be("num_calibration_steps", &Value::Null, "write num_calibration_samples beside the stages")?;
            fields.must_be("calibration_function", &Value::Null, "a file holds no function")?;
            // That package takes the range of a channel, max - min, where the paper takes its largest magnitude.
            options.insert("activation_range".to_owned(), "range".into());
            vec![step(NodeKind::Transform, "smoothquant", options)]
        }
        "AWQModifier" => {
            fields.pass("n_grid", &mut options, "n_grid");
            fields.pass("duo_scaling", &mut options, "duo_scaling");
            // Where cached activations lie: how the search is computed.
            fields.take("offload_device");
            mappings(fields, &mut options)?;
            let mut scheme = Map::new();
            quantization(fields, &mut scheme)?;
            let search = step(NodeKind::Transform, "awq", options);
            let rounding = (!scheme.is_empty()).then(|| step(NodeKind::Quantize, "rtn", scheme));
            std::iter::once(search).chain(rounding).collect()
        }
        "GPTQModifier" => {
            gptq(fields, &mut options)?;
            vec![step(NodeKind::Quantize, "gptq", options)]
        }
        _ => {
            quantization(fields, &mut options)?;
            vec![step(NodeKind::Quantize, "rtn", options)]
        }
    })
}

/// Keys that every modifier has. None of them says what is done: those of a schedule are about training.
fn common(fields: &mut Fields<'_>) -> Result<()> {
    for how in ["group", "index", "requires_calibration_data"] {
        fields.take(how);
    }
    for key in ["start", "end", "update"] {
        match fields.take(key) {
            Some(given) if !matches!(given.as_f64(), Some(0.0 | -1.0)) => {
                let error = fields.wrong(key, &given, "left out: a schedule of epochs is for training");
                return Err(error.hint("this runs each modifier once"));
            }
            _ => {}
        }
    }
    Ok(())
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
    if let Some((_, why)) = ELSEWHERE.iter().find(|(known, _)| *known == name) {
        let error = Error::usage(format!("llm-compressor's `{name}` has no counterpart here: {why}")).at(name);
        return Err(error.hint(format!("there are {}", MODIFIERS.join(", "))));
    }
    let names: Vec<&str> = MODIFIERS.into_iter().chain(known().map(|(name, _)| name)).collect();
    let error = Error::usage(format!("there is no modifier `{name}`")).at(name);
    Err(match did_you_mean(name, names.iter().copied()) {
        Some(near) => error.hint(format!("did you mean `{near}`?")),
        None => error.hint(format!("there are {}", names.join(", "))),
    })
}

fn gptq(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    quantization(fields, options)?;
    fields.pass("dampening_frac", options, "dampening_fraction");
    // Columns that are compressed in one pass, devices, batches: how GPTQ is computed, not what.
    for how in ["block_size", "offload_hessians", "sequential_update", "batched_quantization", "sequential_targets"] {
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
    // Sizes that do not divide are an error whatever it says.
    fields.take("bypass_divisibility_checks");
    observers(fields, options)
}

/// Observers that a modifier chooses for all of its schemes, as keys of these schemes.
fn observers(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<()> {
    let [mut weights, mut inputs, mut outputs] =
        [fields.text("weight_observer")?, fields.text("input_observer")?, fields.text("output_observer")?];
    if let Some(given) = fields.take("observer") {
        let known = |key: &String| ["weights", "input", "output"].contains(&key.as_str());
        let names = given.as_object().filter(|names| names.keys().all(known) && names.values().all(Value::is_string));
        let Some(names) = names.filter(|_| [&weights, &inputs, &outputs].iter().all(|one| one.is_none())) else {
            return Err(fields.wrong("observer", &given, "a map of weights, input and output, and nothing beside it"));
        };
        let named = |key: &str| names.get(key).and_then(Value::as_str).map(str::to_owned);
        (weights, inputs, outputs) = (named("weights"), named("input"), named("output"));
    }
    if let Some(outputs) = outputs {
        return Err(fields.wrong("output_observer", &outputs.into(), "left out: outputs are not quantized"));
    }
    if weights.is_none() && inputs.is_none() {
        return Ok(());
    }
    for (_, scheme) in options.iter_mut().filter(|(key, _)| *key == "scheme") {
        observe(scheme, weights.as_deref(), inputs.as_deref())?;
    }
    if let Some(Value::Object(groups)) = options.get_mut("config_groups") {
        for (name, group) in groups.iter_mut() {
            if !group.is_object() {
                *group = json!({ "scheme": name, "targets": group.clone() });
            }
            observe(group, weights.as_deref(), inputs.as_deref())?;
        }
    }
    Ok(())
}

/// Writes observers into a scheme, in the place of its own.
fn observe(scheme: &mut Value, weights: Option<&str>, inputs: Option<&str>) -> Result<()> {
    let meant = meaning(scheme)?;
    if let Value::String(name) = scheme {
        *scheme = json!({ "scheme": name });
    }
    if let (Some(observer), Some(_)) = (weights, &meant.weights) {
        set_observer(scheme, "weights", observer);
    }
    // Dynamic scales are not observed.
    if let (Some(observer), Some(args)) = (inputs, &meant.input_activations)
        && args.dynamic != Timing::Yes
    {
        set_observer(scheme, "input_activations", observer);
    }
    Ok(())
}

fn set_observer(scheme: &mut Value, key: &str, observer: &str) {
    if !scheme[key].is_object() {
        scheme[key] = json!({});
    }
    scheme[key]["observer"] = observer.into();
}

/// A scheme as it is read later on.
fn meaning(given: &Value) -> Result<Scheme> {
    let mut given = given.clone();
    given.as_object_mut().map(|keys| keys.shift_remove("targets"));
    Scheme::from_value(&given).map_err(|e| Error::usage(e.message).maybe_hint(e.hint).at(e.key))
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
    recipes::pair(&end(smooth), &ends).map(PairKind::name)
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
        let weights = weights.map_err(|e| Box::new((step.path.clone(), e.at(step.modifier.as_str()))))?;
        step.options.insert("scheme".to_owned(), weights);
    }
    Ok(())
}

/// What AWQ's search rounds weights to, where all are rounded alike: smallest and largest value of each scaled weight, whatever
/// observer chooses the scales that are stored. llm-compressor puts `memoryless_minmax` in the place of any other while it searches.
fn weights(options: &Map<String, Value>) -> Result<Value> {
    let scheme = |given: &Value| -> Result<Value> {
        let args = meaning(given)?.weights;
        let searched = args.map(|args| QuantizationArgs { observer: None, observer_kwargs: Map::new(), ..args });
        Ok(searched.map(|args| json!(args)).unwrap_or_default())
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
