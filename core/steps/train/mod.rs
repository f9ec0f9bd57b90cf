//! Training nodes.

mod grids;
mod policy;
mod sample;
mod start;
mod teacher;
mod write;

use serde_json::{Map, Value, json};
use workbench_api::{
    job::{self, Model, Stream},
    rollouts::{PROMPTS, REWARDS},
};
use workbench_model::{ChatTemplate, ModelConfig, Tokenizer};

use self::{grids::Grids, policy::Policy, start::Start, teacher::Teacher, write::write};
use super::{
    common::StepOutput,
    host::{self, Inputs, Plugin, SequenceStream},
};
use crate::{
    data::{Sequences, encoded_prompts, sequences},
    error::{Error, Result},
    exec::{Job, NodeReporter},
    graph::params::{self, TokenOptions},
    store::Scratch,
};

/// The model beside the one that is trained.
const TEACHER: &str = "teacher";

/// Data that nothing is learned of, and the stream of them.
const VALIDATION: &str = "validation";

pub(super) fn run(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    let params::Train { dtype, from_scratch, codes, data, validation, rewards, groups, kv_cache, parameters } =
        job.typed()?;
    let start = Start::open(job.model("model")?, from_scratch)?;
    let grids = match codes {
        true => Grids::of_codes(&start)?,
        false => Grids::new(&groups, kv_cache.as_ref(), &start, dtype)?,
    };
    let (tokenizer, template) = start.tokenizer()?;
    let teacher = job.models.get(TEACHER).map(|path| Teacher::open(path, &start, &tokenizer)).transpose()?;
    let reader = Reader { job, config: start.config(), tokenizer, template, teacher: teacher.as_ref() };
    let mut facts = Map::new();
    let (mut train, mut policy) = (None, None);
    if rewards.is_empty() {
        let found = reader.read("data", &data, &mut facts)?;
        facts["data"]["first_sequence"] =
            sample::first_sequence(&found, &reader.tokenizer, parameters["learn"].as_str())?;
        train = Some(SequenceStream::new(found));
    } else {
        let found = encoded_prompts(job.source("data")?, &data, &reader.tokenizer, reader.template.as_ref())?;
        facts.insert("data".into(), found.facts.clone());
        policy = Some(Policy::new(found, &rewards, start.tokenizer()?.0)?);
    }
    let validation = validation.map(|options| reader.read(VALIDATION, &options, &mut facts)).transpose()?;

    let plugin = Plugin::open(job, &parameters, scratch, reporter, "steps")?;
    let mut inputs = Inputs::of(start.model());
    if let Some(teacher) = &teacher {
        inputs.models.insert(TEACHER, host::Model::Weights(teacher.checkpoint()));
    }
    if let Some(policy) = &policy {
        inputs.methods.insert(REWARDS, policy);
    }
    let mut streams = Vec::new();
    let prompts = policy.as_ref().map(Policy::stream);
    for (name, found) in [("train", train), (PROMPTS, prompts), (VALIDATION, validation.map(SequenceStream::new))] {
        let Some(stream) = found else { continue };
        streams.push(Stream { name: name.into(), batches: Some(stream.len()) });
        inputs.streams.insert(name, stream.into());
    }
    let models = inputs.models.keys().map(|name| (*name).to_owned()).collect();
    let policy = policy.as_ref().map(Policy::job);
    let work = job::Job::Train(Model { inputs: models, streams, policy, ..grids.job(start.config())? });
    let (put, report) = plugin.run(&work, inputs)?;

    grids.note(start.config(), &mut facts);
    facts.insert("written".into(), write(scratch, &start, &grids, dtype, &put)?);
    if !report.is_empty() {
        facts.insert("plugin".into(), report.into());
    }
    let values: Map<String, Value> =
        put.metrics.iter().map(|(name, (_, value))| (format!("last_{name}"), json!(value))).collect();
    Ok(StepOutput { values: Value::Object(values), facts: Value::Object(facts) })
}

/// How the data of a training become tokens.
struct Reader<'a> {
    job: &'a Job,
    config: &'a ModelConfig,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Who has to read the same.
    teacher: Option<&'a Teacher>,
}

impl Reader<'_> {
    /// Data by their role, which is also where they are described among the facts.
    ///
    /// # Errors
    /// They cannot be read, or are not what model and teacher take.
    fn read(&self, role: &str, options: &TokenOptions, facts: &mut Map<String, Value>) -> Result<Sequences> {
        let by = |tokenizer: &Tokenizer| sequences(self.job.source(role)?, options, tokenizer, self.template.as_ref());
        let found = by(&self.tokenizer)?;
        check_ids(&found, self.config)?;
        if let Some(teacher) = self.teacher {
            teacher.check(&found, by)?;
        }
        facts.insert(role.to_owned(), found.facts.clone());
        Ok(found)
    }
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
