//! Stage files of the third kind: what is measured.
//!
//! `datasets` lists it. An entry is a task file by its `name` (or as `file`), or running text (`task_type` perplexity or kl). The
//! samples of `sampling` are shared out by the weights of the entries.

use serde_json::Value;

use super::{super::files::DataFile, fields::Fields, split};
use crate::{
    error::{Error, Result},
    script::{
        calls::{EvaluationKeys, MeasureKeys, Sampling},
        options::{Given, Options},
    },
};

/// One thing to measure.
#[derive(Debug)]
pub(in crate::script) struct Measure {
    pub name: String,
    pub subject: Subject,
}

/// What is measured.
#[derive(Debug)]
pub(in crate::script) enum Subject {
    /// Running text, with the options of `perplexity` or `kl`.
    Text { method: &'static str, text: String, options: Given },
    /// A task file: the one that is named, or the one of the measure's name; with the options of `task`.
    File { file: Option<String>, few_shot: Option<u64>, options: Given },
}

/// What an evaluation file asks for, and sentences about what of it has no effect here.
pub(in crate::script) fn measures(file: &DataFile) -> Result<(Vec<Measure>, Vec<String>)> {
    let read = || -> Result<_> {
        let (datasets, rest) = split(file, "datasets")?;
        // Names are for the reports of the reference pipelines.
        let EvaluationKeys { name: _, dataset_name: _, sampling, gpu_resources, output } =
            Options::read("an evaluation stage", rest)?;
        let elsewhere = [("gpu_resources", gpu_resources), ("output", output)];
        let ignored: Vec<&str> =
            elsewhere.into_iter().filter(|(_, given)| given.is_some()).map(|(key, _)| key).collect();
        let Some(Value::Array(entries)) = datasets else {
            return Err(
                Error::usage("the stage lists no `datasets`").hint("for example datasets = [{ name = \"facts\" }]")
            );
        };
        let sampling = sampling.map(|given| Options::read::<Sampling>("`sampling`", given)).transpose()?;
        let total = sampling.and_then(|sampling| sampling.total_samples);
        let warnings = ignored.iter().map(|key| format!("{}: `{key}` has no effect here", file.name)).collect();
        Ok((shared_out(entries.iter().map(entry).collect::<Result<_>>()?, total), warnings))
    };
    read().map_err(|error| file.locate(error, &[]))
}

/// A measure with its share of the samples.
struct Entry {
    measure: Measure,
    weight: f64,
}

fn entry(given: &Value) -> Result<Entry> {
    let fields = Fields::new("datasets", given)?;
    let mut given = fields.rest();
    let kind = given.get("task_type").and_then(Value::as_str).map(str::to_owned);
    let method = ["perplexity", "kl"].into_iter().find(|method| kind.as_deref() == Some(method));
    if let Some(method) = method {
        given.shift_remove("task_type");
        let mut text = |key: &str| match given.shift_remove(key) {
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(Error::usage(format!("`{key}` of `datasets` must be text, not {other}")).at(key)),
            None => Ok(None),
        };
        let name = text("name")?.ok_or_else(nameless)?;
        let text = text("text")?.ok_or_else(|| {
            Error::usage(format!("`{name}` has no `text`")).at(name.as_str()).hint("a file, or demo:stories/test")
        })?;
        let subject = Subject::Text { method, text, options: given };
        return Ok(Entry { measure: Measure { name, subject }, weight: 0.0 });
    }
    // What a dataset is about, and which type it has, is for the reports of the reference pipelines.
    let MeasureKeys { name, task_type: _, tags: _, weight, file, few_shot_num: few_shot, limit, batch_size, text } =
        Options::read("`datasets`", given)?;
    let name = name.ok_or_else(nameless)?;
    if text.is_some() {
        return Err(
            Error::usage(format!("`{name}` has a `text`, which only the types perplexity and kl read")).at("text")
        );
    }
    let numbers = [("limit", limit), ("batch_size", batch_size)];
    let options = numbers.into_iter().filter_map(|(key, number)| Some((key.to_owned(), number?.into()))).collect();
    Ok(Entry { measure: Measure { name, subject: Subject::File { file, few_shot, options } }, weight })
}

fn nameless() -> Error {
    Error::usage("an entry of `datasets` has no `name`").at("datasets")
}

/// Shares `total` samples out among the task files by weight; one that sets a limit of its own keeps it.
fn shared_out(entries: Vec<Entry>, total: Option<u64>) -> Vec<Measure> {
    let own = |entry: &Entry| match &entry.measure.subject {
        Subject::File { options, .. } => options.get("limit").and_then(Value::as_u64),
        Subject::Text { .. } => None,
    };
    let taken: u64 = entries.iter().filter_map(own).sum();
    let weights: f64 = entries.iter().filter(|entry| own(entry).is_none()).map(|entry| entry.weight).sum();
    let limited = |mut entry: Entry| {
        if let (Some(total), Subject::File { options, .. }) = (total, &mut entry.measure.subject) {
            let share = (total.saturating_sub(taken) as f64 * entry.weight / weights).floor().max(1.0) as u64;
            options.entry("limit").or_insert_with(|| share.into());
        }
        entry.measure
    };
    entries.into_iter().map(limited).collect()
}
