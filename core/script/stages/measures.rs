//! Stage files of the third kind: what is measured.
//!
//! `datasets` lists it. An entry is a task file by its `name` (or as `file`), or running text (`task_type` perplexity or kl). The
//! samples of `sampling` are shared out by the weights of the entries.

use rhai::Map;
use serde_json::Value;

use super::{
    super::files::DataFile,
    fields::{Fields, as_map},
    split,
};
use crate::{
    error::{Error, Result},
    script::options::Options,
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
    Text { method: &'static str, text: String, options: Map },
    /// A task file: the one that is named, or the one of the measure's name; with the options of `task`.
    File { file: Option<String>, few_shot: Option<u64>, options: Map },
}

/// Keys that say how the reference pipelines compute, on machines of theirs.
const ELSEWHERE: [&str; 2] = ["gpu_resources", "output"];

/// What an evaluation file asks for, and sentences about what of it has no effect here.
pub(in crate::script) fn measures(file: &DataFile) -> Result<(Vec<Measure>, Vec<String>)> {
    let read = || -> Result<_> {
        let (datasets, rest) = split(file, "datasets")?;
        let mut o = Options::new("an evaluation stage", rest);
        o.text("name")?;
        o.text("dataset_name")?;
        let sampling = o.take("sampling").map(|given| super::super::options::to_json(&given)).transpose()?;
        let ignored: Vec<&str> = ELSEWHERE.into_iter().filter(|key| o.take(key).is_some()).collect();
        o.finish()?;
        let Some(Value::Array(entries)) = datasets else {
            return Err(
                Error::usage("the stage lists no `datasets`").hint("for example datasets = [{ name = \"facts\" }]")
            );
        };
        let total = sampling.map_or(Ok(None), |given| {
            let mut fields = Fields::new("sampling", &given)?;
            let total = whole(&mut fields, "total_samples", 1)?;
            fields.finish().map(|()| total)
        })?;
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
    let mut fields = Fields::new("datasets", given)?;
    let name =
        fields.text("name")?.ok_or_else(|| Error::usage("an entry of `datasets` has no `name`").at("datasets"))?;
    let kind = fields.text("task_type")?;
    let method = ["perplexity", "kl"].into_iter().find(|method| kind.as_deref() == Some(method));
    if let Some(method) = method {
        let text = fields.text("text")?.ok_or_else(|| {
            Error::usage(format!("`{name}` has no `text`")).at(name.as_str()).hint("a file, or demo:stories/test")
        })?;
        let options = fields.rest()?;
        return Ok(Entry { measure: Measure { name, subject: Subject::Text { method, text, options } }, weight: 0.0 });
    }
    let weight = match fields.take("weight") {
        None => 1.0,
        Some(given) => {
            given.as_f64().filter(|w| *w > 0.0).ok_or_else(|| fields.wrong("weight", &given, "a positive number"))?
        }
    };
    // What a dataset is about, for the reports of the reference pipelines.
    fields.texts("tags")?;
    let file = fields.text("file")?;
    let few_shot = whole(&mut fields, "few_shot_num", 0)?;
    let mut options = serde_json::Map::new();
    fields.pass("limit", &mut options, "limit");
    fields.pass("batch_size", &mut options, "batch_size");
    fields.finish()?;
    let options = as_map(options)?;
    Ok(Entry { measure: Measure { name, subject: Subject::File { file, few_shot, options } }, weight })
}

/// Shares `total` samples out among the task files by weight; one that sets a limit of its own keeps it.
fn shared_out(entries: Vec<Entry>, total: Option<u64>) -> Vec<Measure> {
    let weights: f64 = entries.iter().map(|entry| entry.weight).sum();
    let limited = |mut entry: Entry| {
        if let (Some(total), Subject::File { options, .. }) = (total, &mut entry.measure.subject) {
            let share = (total as f64 * entry.weight / weights).floor().max(1.0) as i64;
            options.entry("limit".into()).or_insert_with(|| share.into());
        }
        entry.measure
    };
    entries.into_iter().map(limited).collect()
}

fn whole(fields: &mut Fields<'_>, key: &'static str, least: u64) -> Result<Option<u64>> {
    let Some(given) = fields.take(key) else { return Ok(None) };
    let number = given.as_u64().filter(|n| *n >= least);
    number.map(Some).ok_or_else(|| fields.wrong(key, &given, &format!("a whole number of at least {least}")))
}
