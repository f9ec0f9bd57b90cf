//! Transform nodes: another model of the same function, and the proof of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use workbench_api::job::{Job as Work, Model, Stream};
use workbench_model::{
    ChatTemplate, Checkpoint, ModelConfig, ModelError, Precision, Tokenizer, WeightSource,
    arch::{EMBEDDINGS, ModuleName},
    checkpoint::{Dtype, widened},
    source::no_row,
};

use super::{
    Finding,
    artifact::{Artifact, rounded},
    contract::{linears, pairs},
    equivalence, room,
    services::{Output, Plugin, Services, patched},
    streams::SequenceStream,
};
use crate::{
    calib::{self, Wanted},
    data::sequences,
    error::{Error, Result},
    exec::{Job, NodeReporter},
    graph::params::{self, WeightDtype},
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

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<Finding> {
    let params::Transform { dtype: named, calibration, parameters } = job.typed()?;
    let dtype = stored_as(named);
    let checkpoint = Checkpoint::open(job.model("model")?)?;
    checkpoint.check_finite()?;
    let plugin = Plugin::open(job, &parameters, reporter)?;
    let mut services = Services::new(job, &parameters, &scratch.work_folder()?, reporter, "tensors");
    services.models.insert("model".into(), &checkpoint);
    let mut work = Model {
        linears: linears(checkpoint.config()),
        pairs: pairs(checkpoint.config()),
        inputs: vec!["model".into()],
        streams: Vec::new(),
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
        let wanted = wanted(&plugin, &Work::Transform(work.clone()), checkpoint.config())?;
        services.statistics = if wanted.is_empty() {
            BTreeMap::new()
        } else {
            let room = room(job, scratch, Precision::F32, Precision::F32)?;
            calib::statistics(&checkpoint, &wanted, &found.ids, room, reporter)?
        };
        tokens = found.ids.first().cloned();
        let stream = SequenceStream::new(found);
        work.streams.push(Stream { name: "calibration".into(), batches: Some(stream.len()) });
        services.streams.insert("calibration", stream.into());
    }
    let report = plugin.run(&Work::Transform(work), &services)?;
    let output = std::mem::take(&mut *services.output());
    let config_json = patched(checkpoint.config_json(), &output.config_patch);
    let made = Made::new(&checkpoint, &output, &config_json)?;
    let transformed = equivalence::Transformed {
        source: &made,
        config: &made.config,
        config_json: &config_json,
        rows_changed: output.tensors.contains_key(&format!("{EMBEDDINGS}.weight")),
    };
    let found = equivalence::check(&checkpoint, &transformed, dtype, tokens.as_deref(), &job.method)?;
    facts.insert("equivalence".into(), found.exact);
    facts.insert("divergence_as_written".into(), found.as_written);

    let mut artifact = Artifact::create(scratch, &checkpoint, &with_dtype(&config_json, named))?;
    for tensor in made.config.tensors() {
        let values = made.values(&tensor.name)?;
        artifact.put_dense(&tensor.name, dtype, &tensor.shape, &rounded(&tensor.name, &values, dtype)?)?;
    }
    facts.insert("written".into(), artifact.finish(scratch)?);
    facts.insert("changed_tensors".into(), output.tensors.len().into());
    if made.config.online.down.is_some() {
        facts.insert("warnings".into(), json!([online()]));
    }
    if report.as_object().is_some_and(|r| !r.is_empty()) {
        facts.insert("plugin".into(), report);
    }
    Ok(Finding { values: json!({}), facts: Value::Object(facts) })
}

/// The dtype that weights are written in.
pub(super) fn stored_as(dtype: WeightDtype) -> Dtype {
    match dtype {
        WeightDtype::Float32 => Dtype::F32,
        WeightDtype::Float16 => Dtype::F16,
        WeightDtype::Bfloat16 => Dtype::BF16,
    }
}

/// A config.json that names the dtype, in the spelling that it had.
pub(super) fn with_dtype(config: &Value, dtype: WeightDtype) -> Value {
    let mut config = config.clone();
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = dtype.name().into();
    config
}

/// The statistics that the plugin asks for. Without a list of sites it wants those of every linear.
fn wanted(plugin: &Plugin<'_>, work: &Work, config: &ModelConfig) -> Result<Wanted> {
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
        of_pairs.extend(crate::graph::selector::select(&patterns, &names)?.into_iter().map(str::to_owned));
        for site in of_pairs {
            wanted.entry(site).or_default().insert(need.kind);
        }
    }
    Ok(wanted)
}

/// The model as the plugin left it: what it put, over what was there.
struct Made<'a> {
    original: &'a Checkpoint,
    output: &'a Output,
    config: ModelConfig,
}

impl<'a> Made<'a> {
    fn new(original: &'a Checkpoint, output: &'a Output, config_json: &Value) -> Result<Self> {
        let config = ModelConfig::from_json(config_json, &original.path().join("config.json"))?;
        let needed: BTreeSet<String> = config.tensors().into_iter().map(|t| t.name).collect();
        if let Some(stray) = output.tensors.keys().find(|name| !needed.contains(*name)) {
            return Err(Error::refused(format!(
                "the plugin put a tensor `{stray}` that the resulting model has no place for"
            )));
        }
        let made = Self { original, output, config };
        for tensor in made.config.tensors() {
            let found = made.shape(&tensor.name);
            if found.as_deref() != Some(&tensor.shape[..]) {
                let found = found.map_or_else(|| "is missing".to_owned(), |s| format!("has shape {s:?}"));
                return Err(Error::refused(format!(
                    "tensor `{}` of the resulting model {found}; {:?} is needed",
                    tensor.name, tensor.shape
                )));
            }
        }
        Ok(made)
    }
}

impl WeightSource for Made<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.output.tensors.get(name).map(|(_, shape, _)| shape.clone()).or_else(|| self.original.shape(name))
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.output.tensors.get(name) {
            Some((dtype, _, bytes)) => Ok(widened(bytes, *dtype)),
            None => self.original.values(name),
        }
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let Some((dtype, shape, bytes)) = self.output.tensors.get(name) else { return self.original.rows(name, rows) };
        let size = dtype.size() * shape.last().copied().unwrap_or(1);
        let mut found = Vec::with_capacity(rows.len() * size);
        for row in rows {
            let start = *row as usize * size;
            found.extend_from_slice(bytes.get(start..start + size).ok_or_else(|| no_row(name, *row))?);
        }
        Ok(widened(&found, *dtype))
    }

    fn has_rows(&self, name: &str) -> bool {
        self.output.tensors.contains_key(name) || self.original.has_rows(name)
    }
}
