//! Training nodes.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
use workbench_api::job::{self, Model, Stream};
use workbench_model::{ChatTemplate, Checkpoint, ModelConfig, Tokenizer, WeightSource, checkpoint::Dtype};

use super::{
    artifact::{Artifact, Put, patched, stored_as, with_dtype},
    common::StepOutput,
    host::{self, Inputs, Plugin, SequenceStream, linears},
};
use crate::{
    data::{Sequences, sequences},
    error::{Error, Result},
    exec::{Job, NodeReporter},
    graph::params,
    store::Scratch,
};

/// What training starts from.
enum Start {
    Weights(Box<Checkpoint>),
    Blank(Box<Blank>),
}

/// A folder that says what the model looks like, and nothing else.
struct Blank {
    config_json: Value,
    config: ModelConfig,
    folder: std::path::PathBuf,
}

impl Start {
    fn open(path: &std::path::Path, from_scratch: bool) -> Result<Self> {
        if !from_scratch {
            let checkpoint = Checkpoint::open(path)?;
            checkpoint.check_finite()?;
            return Ok(Self::Weights(Box::new(checkpoint)));
        }
        let file = path.join("config.json");
        let text = std::fs::read_to_string(&file).map_err(|e| Error::io("read", &file, &e))?;
        let config_json: Value = serde_json::from_str(&text)
            .map_err(|e| Error::refused(format!("`{}` is no JSON", file.display())).cause(e.to_string()))?;
        let config = ModelConfig::from_json(&config_json, &file)?;
        Ok(Self::Blank(Box::new(Blank { config_json, config, folder: path.to_owned() })))
    }

    fn config(&self) -> &ModelConfig {
        match self {
            Self::Weights(checkpoint) => checkpoint.config(),
            Self::Blank(blank) => &blank.config,
        }
    }

    fn config_json(&self) -> &Value {
        match self {
            Self::Weights(checkpoint) => checkpoint.config_json(),
            Self::Blank(blank) => &blank.config_json,
        }
    }

    fn tokenizer(&self) -> Result<(Tokenizer, Option<ChatTemplate>)> {
        match self {
            Self::Weights(checkpoint) => {
                Ok((Tokenizer::from_checkpoint(checkpoint)?, ChatTemplate::from_checkpoint(checkpoint)?))
            }
            Self::Blank(blank) => {
                let Blank { config, folder, .. } = &**blank;
                Ok((Tokenizer::from_folder(folder, config)?, ChatTemplate::from_folder(folder)?))
            }
        }
    }
}

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let params::Train { dtype, from_scratch, data, parameters } = job.typed()?;
    let start = Start::open(job.model("model")?, from_scratch)?;
    let (tokenizer, template) = start.tokenizer()?;
    let data = sequences(job.source("data")?, &data, &tokenizer, template.as_ref())?;
    check_ids(&data, start.config())?;
    let data_facts = data.facts.clone();
    let plugin = Plugin::open(job, &parameters, &scratch.work_folder()?, reporter, "steps")?;
    let mut inputs = Inputs::of(match &start {
        Start::Weights(checkpoint) => host::Model::Weights(checkpoint),
        Start::Blank(blank) => host::Model::Blank(&blank.config_json),
    });
    let stream = SequenceStream::new(data);
    let streams = vec![Stream { name: "train".into(), batches: Some(stream.len()) }];
    inputs.streams.insert("train", stream.into());
    let work = job::Job::Train(Model {
        linears: linears(start.config()),
        inputs: vec!["model".into()],
        streams,
        ..Model::default()
    });
    let (put, report) = plugin.run(&work, inputs)?;
    let mut facts = Map::from_iter([("data".to_owned(), data_facts)]);
    facts.insert("written".into(), write(scratch, &start, dtype, &put)?);
    if !report.is_empty() {
        facts.insert("plugin".into(), report.into());
    }
    let values: Map<String, Value> =
        put.metrics.iter().map(|(name, (_, value))| (format!("last_{name}"), json!(value))).collect();
    Ok(StepOutput { values: Value::Object(values), facts: Value::Object(facts) })
}

fn check_ids(data: &Sequences, config: &ModelConfig) -> Result<()> {
    let longest = data.ids.iter().map(Vec::len).max().unwrap_or(0);
    if longest > config.max_positions {
        return Err(Error::refused(format!(
            "sequences of {longest} tokens are longer than the model's {} positions",
            config.max_positions
        ))
        .hint("lower max_seq_length"));
    }
    Ok(())
}

/// Writes what the trainer put over what was there; codes go to disk as they are.
fn write(scratch: &Scratch, start: &Start, dtype: Option<params::WeightDtype>, put: &Put) -> Result<Value> {
    let config_json = patched(start.config_json(), &put.config_patch);
    let wanted = dtype.map(stored_as);
    let config_json = match dtype {
        Some(dtype) => with_dtype(&config_json, dtype),
        None => config_json,
    };
    let config = ModelConfig::from_json(&config_json, std::path::Path::new("config.json"))?;
    let needed: BTreeSet<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
    if let Some(stray) = put.stray(|name| needed.contains(name)) {
        return Err(Error::refused(format!("the trainer put `{stray}`, which the resulting model has no place for")));
    }
    let mut artifact = match start {
        Start::Weights(checkpoint) => Artifact::create(scratch, checkpoint, &config_json)?,
        Start::Blank(blank) => Artifact::create_from_folder(scratch, &blank.folder, &config_json)?,
    };
    for (module, weight) in &put.weights {
        artifact.put_quantized(module, weight)?;
    }
    for tensor in config.tensors() {
        if tensor.name.strip_suffix(".weight").is_some_and(|module| put.weights.contains_key(module)) {
            continue;
        }
        let (values, stored) = match (put.tensors.get(&tensor.name), start) {
            (Some(found), _) => {
                if found.shape != tensor.shape {
                    return Err(Error::refused(format!(
                        "the trainer put `{}` of shape {:?}; {:?} is needed",
                        tensor.name, found.shape, tensor.shape
                    )));
                }
                (found.values()?, found.dtype)
            }
            (None, Start::Weights(checkpoint)) => (
                checkpoint.values(&tensor.name)?,
                checkpoint.dtype(&tensor.name).filter(|d| d.is_dense_float()).unwrap_or(Dtype::F32),
            ),
            (None, Start::Blank(_)) => {
                return Err(Error::refused(format!(
                    "the trainer put no `{}`, and the model began without weights",
                    tensor.name
                )));
            }
        };
        let kept = match start {
            Start::Weights(checkpoint) => {
                checkpoint.dtype(&tensor.name).filter(|d| d.is_dense_float()).unwrap_or(stored)
            }
            Start::Blank(_) => stored,
        };
        let dtype = wanted.unwrap_or(kept);
        artifact.put_values(&tensor.name, dtype, &tensor.shape, &values)?;
    }
    artifact.finish(scratch)
}
