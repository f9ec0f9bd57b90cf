//! Quantization nodes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use workbench_api::job::{Job as Work, Linear};
use workbench_model::{ChatTemplate, Checkpoint, Site, Tokenizer, WeightSource, checkpoint::Dtype, config::LinearInfo};
use workbench_quant::{Conventions, Dynamic, Grid, QuantizationArgs, Scheme, StorageDtype};

use super::{
    Finding,
    artifact::Artifact,
    global_scales,
    kv_cache::{self, KvCache},
    services::{Plugin, Services},
};
use crate::{
    calib::{self, Wanted},
    data::{TokenOptions, sequences},
    error::{Error, Result},
    exec::{Job, NodeReporter},
    graph::fused,
    store::Scratch,
};

/// The host's parameters of a quantization.
#[derive(Debug, Deserialize)]
struct Params {
    groups: Vec<Group>,
    #[serde(default)]
    kv_cache: Option<KvCache>,
    #[serde(default)]
    calibration: Option<TokenOptions>,
}

/// Modules with one scheme.
#[derive(Debug, Deserialize)]
struct Group {
    modules: Vec<String>,
    scheme: GroupScheme,
}

#[derive(Debug, Deserialize, PartialEq)]
struct GroupScheme {
    args: Scheme,
    conventions: Conventions,
}

/// A linear with its grids.
struct Target {
    info: LinearInfo,
    weights: Grid,
    inputs: Option<Grid>,
}

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<Finding> {
    let params: Params = job.typed(job.params())?;
    let checkpoint = Checkpoint::open(job.model("model")?)?;
    checkpoint.check_finite()?;
    let targets = targets(&params, &checkpoint)?;
    let plugin = Plugin::open(job, reporter)?;
    let mut services = Services::new(job, &scratch.work_folder()?, reporter, "layers");
    services.models.insert("model".into(), &checkpoint);
    let mut facts = Map::new();
    let sequences = calibration(job, &params, &checkpoint, &mut facts)?;

    let wanted = wanted(&plugin, &targets, &checkpoint)?;
    if !wanted.is_empty() {
        let Some(sequences) = &sequences else {
            return Err(Error::refused(format!("`{}` needs calibration data", job.method))
                .hint("pass calibration: dataset(…).tokens(#{ … })"));
        };
        services.statistics = calib::statistics(&checkpoint, &wanted, sequences, reporter)?;
    }
    let mut artifact = Artifact::create(scratch, &checkpoint, checkpoint.config_json())?;
    let mut reports = Map::new();
    for (done, target) in targets.iter().enumerate() {
        let report = plugin.run(&work(target, &checkpoint)?, &services)?;
        let codes = services.output().codes.remove(&target.info.name);
        let codes = codes.ok_or_else(|| Error::internal(format!("no codes of `{}` arrived", target.info.name)))?;
        artifact.put_codes(&target.info.name, &codes, target.inputs.as_ref())?;
        if report.as_object().is_some_and(|r| !r.is_empty()) {
            reports.insert(target.info.name.clone(), report);
        }
        reporter.progress(done as u64 + 1, targets.len() as u64, "layers");
    }
    put_input_scales(&mut artifact, &targets, &checkpoint, sequences.as_deref(), reporter, &mut facts)?;
    if let Some(cache) = &params.kv_cache {
        let stored = scales_of(cache.args(), storage(&checkpoint, "model.layers.0.self_attn.k_proj.weight"));
        kv_cache::put(&mut artifact, cache, stored, &checkpoint, sequences.as_deref(), reporter, &mut facts)?;
    }
    let quantized: Vec<&str> = targets.iter().map(|t| t.info.name.as_str()).collect();
    artifact.copy_rest(&checkpoint, &quantized)?;
    let written = artifact.finish()?;

    facts.insert("layers".into(), json!({ "quantized": targets.len(), "of": checkpoint.config().linears().len() }));
    facts.insert("written".into(), written);
    facts.insert("grids".into(), grids(&targets));
    let warnings = warnings(&params.groups);
    if !warnings.is_empty() {
        facts.insert("warnings".into(), json!(warnings));
    }
    if !reports.is_empty() {
        facts.insert("plugin".into(), Value::Object(reports));
    }
    Ok(Finding { values: json!({}), facts: Value::Object(facts) })
}

fn storage(checkpoint: &Checkpoint, weight: &str) -> StorageDtype {
    match checkpoint.dtype(weight) {
        Some(Dtype::F16) => StorageDtype::F16,
        Some(Dtype::BF16) => StorageDtype::Bf16,
        // GGUF blocks are handed out in f32, and so are their scales.
        _ => StorageDtype::F32,
    }
}

/// The type of scales: that of the model where they are stored, and of the arithmetic where every input gives its own.
fn scales_of(args: &QuantizationArgs, stored: StorageDtype) -> StorageDtype {
    if args.dynamic == Dynamic::No { stored } else { StorageDtype::F32 }
}

fn targets(params: &Params, checkpoint: &Checkpoint) -> Result<Vec<Target>> {
    let mut grids = BTreeMap::new();
    for group in &params.groups {
        let Some(weights) = &group.scheme.args.weights else {
            return Err(Error::internal("a group without weight arguments"));
        };
        for module in &group.modules {
            let stored = storage(checkpoint, &format!("{module}.weight"));
            let grid = |args: &QuantizationArgs| {
                Grid::new(args, scales_of(args, stored), group.scheme.conventions).map_err(|e| {
                    Error::refused(format!("no grid for `{module}`")).cause(e.to_string()).maybe_hint(e.hint())
                })
            };
            let inputs = group.scheme.args.input_activations.as_ref().map(grid).transpose()?;
            grids.insert(module.as_str(), (grid(weights)?, inputs));
        }
    }
    let linears = checkpoint.config().linears().into_iter();
    let mut targets: Vec<Target> = linears
        .filter_map(|info| grids.remove(info.name.as_str()).map(|(weights, inputs)| Target { info, weights, inputs }))
        .collect();
    global_scales::share(targets.iter_mut().map(|t| (t.info.name.as_str(), &mut t.weights)), checkpoint)?;
    match grids.keys().next() {
        Some(unknown) => Err(Error::refused(format!("the model has no layer `{unknown}`"))),
        None => Ok(targets),
    }
}

fn calibration(
    job: &Job,
    params: &Params,
    checkpoint: &Checkpoint,
    facts: &mut Map<String, Value>,
) -> Result<Option<Vec<Vec<u32>>>> {
    let Some(options) = &params.calibration else { return Ok(None) };
    let tokenizer = Tokenizer::from_checkpoint(checkpoint)?;
    let template = ChatTemplate::from_checkpoint(checkpoint)?;
    let found = sequences(job.source("calibration")?, options, &tokenizer, template.as_ref())?;
    facts.insert("calibration".into(), found.facts);
    Ok(Some(found.ids))
}

fn work(target: &Target, checkpoint: &Checkpoint) -> Result<Work> {
    let name = &target.info.name;
    let bias = format!("{name}.bias");
    Ok(Work::Linear(Linear {
        module: name.clone(),
        weight: format!("{name}.weight"),
        bias: checkpoint.shape(&bias).is_some().then_some(bias),
        site: Some(target.info.site.to_string()),
        grid: serde_json::to_value(&target.weights).map_err(|e| Error::internal(e.to_string()))?,
    }))
}

/// The statistics that the plugin asks for, by site.
fn wanted(plugin: &Plugin<'_>, targets: &[Target], checkpoint: &Checkpoint) -> Result<Wanted> {
    let mut wanted = Wanted::new();
    for target in targets {
        for need in plugin.needs(&work(target, checkpoint)?)?.statistics {
            let kinds = wanted.entry(target.info.site.to_string()).or_default();
            kinds.insert(need.kind.name());
        }
    }
    Ok(wanted)
}

/// Static input scales: one pass over the model as it is, each site observed once for all linears that read it.
fn put_input_scales(
    artifact: &mut Artifact,
    targets: &[Target],
    checkpoint: &Checkpoint,
    sequences: Option<&[Vec<u32>]>,
    reporter: &NodeReporter,
    facts: &mut Map<String, Value>,
) -> Result<()> {
    let fixed = |t: &Target| t.inputs.clone().filter(|g| g.args().dynamic != Dynamic::Yes).map(|g| (t.info.site, g));
    let sites: BTreeMap<Site, Grid> = targets.iter().filter_map(fixed).collect();
    if sites.is_empty() {
        return Ok(());
    }
    let sequences = sequences.ok_or_else(|| Error::refused("static input scales need calibration data"))?;
    let scales = calib::input_scales(checkpoint, &sites, sequences, reporter)?;
    for target in targets {
        if let Some((site, _)) = fixed(target) {
            artifact.put_input_scale(&target.info.name, &scales.parameters[&site])?;
        }
    }
    let observer = sites.values().next().and_then(|g| g.args().observer.clone());
    facts.insert("input_scales".into(), json!({ "observer": observer, "observed": scales.facts }));
    Ok(())
}

/// What the loaders of others will not like about this choice of schemes.
fn warnings(groups: &[Group]) -> Vec<String> {
    let schemes = groups.iter().flat_map(|group| group.modules.iter().map(|m| (m.as_str(), &group.scheme)));
    fused::splits(&schemes.collect())
}

/// Every grid in use with the number of layers on it.
fn grids(targets: &[Target]) -> Value {
    let mut seen: Vec<(Value, usize)> = Vec::new();
    for target in targets {
        let weights = target.weights.clone().with_global_scale(None);
        let grid = json!({ "weights": weights, "inputs": target.inputs });
        match seen.iter_mut().find(|(known, _)| *known == grid) {
            Some((_, count)) => *count += 1,
            None => seen.push((grid, 1)),
        }
    }
    seen.into_iter().map(|(grid, layers)| json!({ "layers": layers, "grid": grid })).collect()
}
