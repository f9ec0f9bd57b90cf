//! Transform nodes: another model of the same function, and the proof of it.

mod equivalence;
mod gathered;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use workbench_api::job::{self, Model, Stream};
use workbench_model::{
    ActivationStorage, ChatTemplate, Checkpoint, ModelConfig, Precision, Tokenizer, WeightSource,
    arch::{EMBEDDINGS, ModuleName},
    device,
};

use self::gathered::Gathered;
use super::{
    artifact::{Artifact, Put, patched, stored_as, with_dtype},
    common::StepOutput,
    host::{self, Inputs, Plugin, SequenceStream, linears, pairs},
};
use crate::{
    calib::{self, Wanted},
    data::sequences,
    error::{Error, Result},
    exec::{Job, NodeReporter, return_freed_memory},
    graph::{params, selector},
    store::Scratch,
};

/// What whoever takes the folder elsewhere has to know. A rotation of queries and keys is none of it: they cancel each other.
fn online() -> String {
    format!(
        "the input of {} is rotated while the model runs, as `transform_config` in config.json says: transformers (as of 5.17) does \
         not read that and computes another function",
        ModuleName::Down.spelled()
    )
}

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let params::Transform { dtype: named, calibration, parameters } = job.typed()?;
    let dtype = stored_as(named);
    let checkpoint = Checkpoint::open(job.model("model")?)?;
    checkpoint.check_finite()?;
    let plugin = Plugin::open(job, &parameters, scratch, reporter, "tensors")?;
    let statistics;
    let mut inputs = Inputs::of(host::Model::Weights(&checkpoint));
    let mut work = Model {
        linears: linears(checkpoint.config()),
        pairs: pairs(checkpoint.config()),
        inputs: vec!["model".into()],
        ..Model::default()
    };
    let mut facts = Map::new();
    let mut tokens = None;
    if let Some(options) = &calibration {
        let tokenizer = Tokenizer::from_checkpoint(&checkpoint)?;
        let found = sequences(
            job.source("calibration")?,
            options,
            &tokenizer,
            ChatTemplate::from_checkpoint(&checkpoint)?.as_ref(),
        )?;
        facts.insert("calibration".into(), found.facts.clone());
        let wanted = wanted(&plugin, &job::Job::Transform(work.clone()), checkpoint.config())?;
        statistics = if wanted.is_empty() {
            BTreeMap::new()
        } else {
            let storage = ActivationStorage {
                precision: Precision::F32,
                compute_dtype: Precision::F32,
                device: device::chosen(),
                memory: job.memory_limit / 2,
                folder: scratch.work_folder()?,
            };
            let mut kept = Gathered::open(scratch, &wanted, checkpoint.config().num_layers, reporter)?;
            calib::statistics(&checkpoint, &wanted, &found.ids, storage, &mut kept)?
        };
        inputs.statistics = statistics.iter().map(|(site, found)| (site.clone(), found)).collect();
        tokens = found.ids.first().cloned();
        let stream = SequenceStream::new(found);
        work.streams.push(Stream { name: "calibration".into(), batches: Some(stream.len()) });
        inputs.streams.insert("calibration", stream.into());
    }
    let (put, report) = plugin.run(&job::Job::Transform(work), inputs)?;
    // What it let go of does not count beside what the comparison needs.
    return_freed_memory();
    let config_json = patched(checkpoint.config_json(), &put.config_patch);
    let made = put.over(&checkpoint);
    let config = config_of(&checkpoint, &put, &made, &config_json)?;
    let transformed = equivalence::TransformedModel {
        source: &made,
        config: &config,
        config_json: &config_json,
        rows_changed: put.tensors.contains_key(&format!("{EMBEDDINGS}.weight")),
        experts_changed: config.linears().iter().any(|linear| {
            linear.site.expert.is_some() && linear.tensors().any(|tensor| put.tensors.contains_key(&tensor.name))
        }),
    };
    let found = equivalence::check(&checkpoint, &transformed, tokens.as_deref(), &job.method)?;
    let mut artifact = Artifact::create(scratch, &checkpoint, &with_dtype(&config_json, named))?;
    for tensor in config.tensors() {
        match put.tensors.get(&tensor.name) {
            Some(changed) => artifact.put_rounded(&tensor.name, dtype, changed)?,
            None => artifact.put_values(&tensor.name, dtype, &tensor.shape, &made.values(&tensor.name)?)?,
        }
        checkpoint.drop_pages([tensor.name.as_str()]);
    }
    let written = artifact.finish(scratch)?;
    facts.insert("divergence_as_written".into(), found.as_written(&Checkpoint::open(&scratch.model_path())?)?);
    facts.insert("equivalence".into(), found.exact);
    facts.insert("written".into(), written);
    facts.insert("changed_tensors".into(), put.tensors.len().into());
    if config.online.down.is_some() {
        facts.insert("warnings".into(), json!([online()]));
    }
    if !report.is_empty() {
        facts.insert("plugin".into(), report.into());
    }
    Ok(StepOutput { values: json!({}), facts: Value::Object(facts) })
}

/// The statistics that the plugin asks for. Without a list of sites it wants those of every linear.
fn wanted(plugin: &Plugin<'_>, work: &job::Job, config: &ModelConfig) -> Result<Wanted> {
    let pairs = pairs(config);
    let sites: BTreeSet<String> = config.linears().iter().map(|l| l.site.to_string()).collect();
    let names: Vec<String> = sites.into_iter().collect();
    let mut wanted = Wanted::new();
    for need in plugin.needs(work)?.statistics {
        let mut of_pairs: Vec<String> =
            pairs.iter().filter(|pair| need.pairs.contains(&pair.mapping)).map(|pair| pair.site.clone()).collect();
        if !need.pairs.is_empty() && of_pairs.is_empty() {
            return Err(Error::refused("the model has none of the pairs of layers that are asked for"));
        }
        let patterns = match need.sites.is_empty() && need.pairs.is_empty() {
            true => vec!["*".to_owned()],
            false => need.sites.clone(),
        };
        of_pairs.extend(selector::select(&patterns, &names)?.into_iter().map(str::to_owned));
        for site in of_pairs {
            wanted.entry(site).or_default().insert(need.kind);
        }
    }
    Ok(wanted)
}

/// The configuration that a transform leaves, which every tensor of the result has to fit.
fn config_of(original: &Checkpoint, put: &Put, made: &dyn WeightSource, config_json: &Value) -> Result<ModelConfig> {
    let config = ModelConfig::from_json(config_json, &original.path().join("config.json"))?;
    let needed: BTreeSet<String> = config.tensors().into_iter().map(|t| t.name).collect();
    if let Some(stray) = put.stray(|name| needed.contains(name)) {
        return Err(Error::refused(format!(
            "the plugin put a tensor `{stray}` that the resulting model has no place for"
        )));
    }
    for tensor in config.tensors() {
        let found = made.shape(&tensor.name);
        if found.as_deref() != Some(&tensor.shape[..]) {
            let found = found.map_or_else(|| "is missing".to_owned(), |s| format!("has shape {s:?}"));
            return Err(Error::refused(format!(
                "tensor `{}` of the resulting model {found}; {:?} is needed",
                tensor.name, tensor.shape
            )));
        }
    }
    Ok(config)
}
