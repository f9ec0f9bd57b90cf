//! `config.json` of a written model, with its `quantization_config`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use workbench_quant::{Dynamic, Format, Grid, QuantizationArgs};

use crate::arch::{EMBEDDINGS, EVERY_EXPERT, LM_HEAD, is_of_expert};
use crate::checkpoint::transforms::stored_transforms;
use crate::checkpoint::{Dtype, NOTES_KEY};

/// The release of compressed-tensors whose files these are like.
const FORMAT_VERSION: &str = "0.19.0";

/// How one linear was written.
#[derive(Clone)]
pub(crate) struct WrittenLinear {
    pub(crate) weights: Option<Grid>,
    pub(crate) inputs: Option<Grid>,
    pub(crate) format: Format,
}

/// Linears with equal settings.
struct Group<'a> {
    weights: Option<&'a QuantizationArgs>,
    inputs: Option<&'a QuantizationArgs>,
    format: Format,
    modules: Vec<&'a str>,
}

/// The configuration of the written model: the source's, with `dtype` and quantization as they are now. `modules` are
/// all linears of the model, quantized or not.
pub(crate) fn config_json(
    source: &Value,
    dtype: Option<Dtype>,
    modules: &[String],
    quantized: &BTreeMap<String, WrittenLinear>,
    kv_grid: Option<&Grid>,
) -> Value {
    let mut config = source.as_object().cloned().unwrap_or_default();
    let transforms = stored_transforms(source);
    for key in ["quantization_config", "compression_config", NOTES_KEY] {
        config.shift_remove(key);
    }
    // compressed-tensors gives weights with FP8 or power-of-two scales out in bfloat16 alone, and transformers multiplies
    // them by activations of the type that stands here.
    let loads_as_bf16 = |linear: &WrittenLinear| {
        matches!(linear.format, Format::NvFp4PackQuantized | Format::MxFp4PackQuantized | Format::MxFp8Quantized)
    };
    let dtype = if quantized.values().any(loads_as_bf16) { Some(Dtype::BF16) } else { dtype };
    if let Some(name) = dtype.and_then(Dtype::torch_name) {
        // Two names of one setting: the newer one wins where a file has both, and an old one would contradict it.
        let key = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(key.into(), json!(name));
        if key == "dtype" {
            config.shift_remove("torch_dtype");
        }
    }
    if !quantized.is_empty() || kv_grid.is_some() {
        config.insert("quantization_config".into(), quantization_config(modules, quantized, kv_grid, transforms));
        let mut notes = Map::new();
        let grids = input_grids(quantized);
        if !grids.is_empty() {
            notes.insert("input_grids".into(), grids.into());
        }
        if let Some(grid) = kv_grid {
            notes.insert("kv_grid".into(), json!(grid));
        }
        if !notes.is_empty() {
            config.insert(NOTES_KEY.into(), Value::Object(notes));
        }
    } else if transforms != json!({}) {
        // What compressed-tensors writes for a dense model with transforms.
        let value = json!({"quant_method": "compressed-tensors", "sparsity_config": {}, "transform_config": transforms,
            "version": FORMAT_VERSION});
        config.insert("quantization_config".into(), value);
    }
    Value::Object(config)
}

fn quantization_config(
    modules: &[String],
    quantized: &BTreeMap<String, WrittenLinear>,
    kv_grid: Option<&Grid>,
    transforms: Value,
) -> Value {
    let groups = groups(modules, quantized);
    let mut ignore =
        modules.iter().filter(|module| !quantized.contains_key(*module)).map(String::as_str).collect::<Vec<_>>();
    // Tied heads are linears too in other implementations, so the head is named whether or not it has its own weight.
    if !quantized.contains_key(LM_HEAD) && !ignore.contains(&LM_HEAD) {
        ignore.push(LM_HEAD);
    }
    let format = match &groups[..] {
        // A quantized cache alone.
        [] => Format::Dense,
        [first, rest @ ..] if rest.iter().all(|group| group.format == first.format) => first.format,
        _ => Format::MixedPrecision,
    };
    let single = groups.len() == 1;
    let groups = groups.into_iter().enumerate().map(|(index, group)| {
        // One group can name the classes, as others write it; several have to name their modules.
        let targets = if single { classes(&group.modules) } else { named(group.modules, modules) };
        let value = json!({"targets": targets, "format": group.format, "weights": group.weights,
            "input_activations": group.inputs, "output_activations": null});
        (format!("group_{index}"), value)
    });
    json!({
        "quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "global_compression_ratio": null, "ignore": ignore, "kv_cache_scheme": kv_grid.map(Grid::args), "sparsity_config": {},
        "transform_config": transforms, "version": FORMAT_VERSION, "config_groups": groups.collect::<Map<_, _>>(),
    })
}

/// The modules of one of several groups. transformers takes the experts' scheme from the group with an expression for them, and otherwise
/// from the first one that there is (`get_experts_scheme`).
fn named<'a>(own: Vec<&'a str>, all: &[String]) -> Vec<&'a str> {
    let experts = |module: &&str| is_of_expert(module);
    let count = own.iter().copied().filter(experts).count();
    if count == 0 || count != all.iter().map(String::as_str).filter(experts).count() {
        return own;
    }
    std::iter::once(EVERY_EXPERT).chain(own.into_iter().filter(|module| !is_of_expert(module))).collect()
}

/// The classes of these modules.
fn classes(modules: &[&str]) -> Vec<&'static str> {
    let has = |embeddings: bool| modules.iter().any(|module| (*module == EMBEDDINGS) == embeddings);
    [("Linear", false), ("Embedding", true)].into_iter().filter(|(_, is)| has(*is)).map(|(name, _)| name).collect()
}

fn groups<'a>(modules: &'a [String], quantized: &'a BTreeMap<String, WrittenLinear>) -> Vec<Group<'a>> {
    let mut groups: Vec<Group<'a>> = Vec::new();
    for module in modules.iter().map(String::as_str).chain([EMBEDDINGS]) {
        let Some(linear) = quantized.get(module) else { continue };
        let (weights, inputs) = (linear.weights.as_ref().map(Grid::args), linear.inputs.as_ref().map(Grid::args));
        let same =
            |group: &&mut Group<'_>| (group.weights, group.inputs, group.format) == (weights, inputs, linear.format);
        match groups.iter_mut().find(same) {
            Some(group) => group.modules.push(module),
            None => groups.push(Group { weights, inputs, format: linear.format, modules: vec![module] }),
        }
    }
    groups
}

/// Grids of inputs, which decide more than the format has words for. Those of weights are noted in their shards.
fn input_grids(quantized: &BTreeMap<String, WrittenLinear>) -> Vec<Value> {
    let mut grids: Vec<(&Grid, Vec<&str>)> = Vec::new();
    for (module, linear) in quantized {
        let Some(grid) = &linear.inputs else { continue };
        match grids.iter_mut().find(|(known, _)| *known == grid) {
            Some((_, modules)) => modules.push(module),
            None => grids.push((grid, vec![module])),
        }
    }
    grids.into_iter().map(|(grid, modules)| json!({"grid": grid, "modules": modules})).collect()
}

/// Whether a quantized input needs a scale in the file: its own, or the tensor-wide one of group scales.
pub(crate) fn has_scale(grid: &Grid) -> bool {
    grid.args().dynamic != Dynamic::Yes
}

/// Whether that is the tensor-wide one.
pub(crate) fn is_local(grid: &Grid) -> bool {
    grid.args().dynamic == Dynamic::Local
}
