//! Stage files: what a pipeline does to a model, and what it measures, written down without a script.
//!
//! A stage is a file of one of three folders (`1-trans`, `2-quant`, `3-eval`), in TOML or YAML. Its keys are those of the
//! pipelines that people build around llm-compressor: a `name`, an `output_suffix` that names the model it makes, and
//! `quant_modifiers` in the shapes of that package's recipes; a recipe of that package as it is, which has neither name nor suffix, takes
//! both from the name of its file. Reading one yields the calls that a script would make, so that
//! everything behind them (defaults, checks, keys) is the same for both.

mod fields;
mod measures;
mod merge;
mod mixtures;
mod modifiers;
mod recipe;
mod rotations;

use std::{path::Path, sync::Arc};

use serde_json::Value;

pub(super) use measures::{Subject, measures};
pub(super) use mixtures::{complete, without_idle_ignores};
use modifiers::Fault;
pub(super) use modifiers::{keys as modifier_keys, means_head};

use super::{
    calls::{Samples, StageKeys},
    files::DataFile,
    options::{Given, Options},
};
use crate::{
    error::{Error, Result},
    graph::NodeKind,
    plugin::Registry,
};

/// One call of `transform` or `quantize`.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub kind: NodeKind,
    /// The plugin.
    pub method: String,
    /// As the file names it.
    pub modifier: String,
    /// The names of the sections that lead to it in the file.
    pub path: Vec<String>,
    pub options: serde_json::Map<String, Value>,
    /// Whether the pipeline's calibration data is for it. Data that is passed is part of a key, read or not.
    pub calibrated: bool,
    /// The size of heads that the file was written for, where it says one.
    pub head_size: Option<u64>,
}

/// A stage that makes a model of a model.
#[derive(Clone, Debug)]
pub(super) struct Stage {
    pub file: Arc<DataFile>,
    pub name: String,
    /// What it adds to the name of the model; `None`: it leaves the model as it is.
    pub suffix: Option<String>,
    /// The model that the pipeline begins with, where the file names one.
    pub input_model: Option<String>,
    pub steps: Vec<Step>,
    /// Calibration data of its own.
    pub dataset: Option<String>,
    /// What the file sets of that data's tokens.
    pub num_calibration_samples: Option<Samples>,
    pub max_seq_length: Option<usize>,
    /// Whether the modifiers of llm-compressor show every token to every expert.
    pub all_experts: bool,
    /// What of it was read otherwise than it was written.
    pub notes: Vec<String>,
}

impl Stage {
    /// Reads and checks a stage file.
    pub(super) fn read(path: &Path, name: &str, registry: &Registry) -> Result<Self> {
        let file = DataFile::read_stage(path, name)?;
        Self::from_file(&file, registry).map_err(|error| file.locate(error, &[]))
    }

    fn from_file(file: &DataFile, registry: &Registry) -> Result<Self> {
        let within = |fault: Fault| file.locate(fault.1, &names(&fault.0));
        let mut keys = keys(file)?;
        let found = recipe::take(&mut keys).map_err(within)?;
        keys.retain(|_, value| !value.is_null());
        let nameless = !keys.contains_key("name") && !keys.contains_key("output_suffix");
        let (
            StageKeys {
                mut name,
                output_suffix: mut suffix,
                input_model,
                save_compressed,
                dataset,
                num_calibration_samples,
                max_seq_length,
                moe_calibrate_all_experts: all_experts,
                // Taken out already: it is named where a key is misspelled.
                quant_modifiers: _,
            },
            notes,
        ) = Options::read_noting("a stage", keys)?;
        if (found.staged || nameless) && !found.entries.is_empty() {
            let own = stem(&file.name);
            suffix.get_or_insert_with(|| format!("-{}", name.as_deref().unwrap_or(own)));
            name.get_or_insert_with(|| own.to_owned());
        }
        let name = name.ok_or_else(|| Error::usage("the stage has no `name`").hint("name it: name = \"…\""))?;
        if !save_compressed {
            return Err(Error::usage("models are always saved compressed").at("save_compressed"));
        }
        let steps = modifiers::steps(found.entries, registry).map_err(within)?;
        let unread = dataset.is_some().then_some("dataset").or(about_data(num_calibration_samples, max_seq_length));
        if let (Some(key), false) = (unread, steps.iter().any(|step| step.calibrated)) {
            return Err(Error::usage(format!("no modifier of stage `{name}` reads calibration data"))
                .at(key)
                .hint(format!("leave out `{key}`")));
        }
        match (&suffix, steps.first()) {
            (None, Some(step)) => Err(Error::usage(format!("stage `{name}` makes a model and has no `output_suffix`"))
                .at(step.modifier.as_str())
                .hint("the suffix is added to the model's name: output_suffix = \"-gptq-W4\"")),
            (Some(suffix), None) => {
                let error = Error::usage(format!("stage `{name}` has the suffix `{suffix}` and no `quant_modifiers`"));
                Err(error
                    .at("output_suffix")
                    .hint("without one, and without modifiers, a stage leaves the model as it is"))
            }
            (Some(suffix), _) if suffix.is_empty() || suffix.contains(['/', '\\']) => {
                Err(Error::usage(format!("`{suffix}` cannot be a part of a folder's name")).at("output_suffix"))
            }
            _ => Ok(Self {
                file: Arc::new(file.clone()),
                name,
                suffix,
                input_model,
                steps,
                dataset,
                num_calibration_samples,
                max_seq_length,
                all_experts,
                notes: notes.into_iter().map(|note| format!("{}: {note}", file.name)).collect(),
            }),
        }
    }

    /// The first of its keys that is about calibration data but does not name any.
    pub(super) fn about_data(&self) -> Option<&'static str> {
        about_data(self.num_calibration_samples, self.max_seq_length)
    }

    /// An error of one of its steps, with its place in the file.
    pub(super) fn locate(&self, error: Error, step: Option<&Step>) -> Error {
        self.file.locate(error, &step.map(|step| names(&step.path)).unwrap_or_default())
    }
}

/// Names of sections, as errors are located by.
fn names(path: &[String]) -> Vec<&str> {
    path.iter().map(String::as_str).collect()
}

/// The name of a file without folder and ending.
fn stem(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name)
}

/// A file's keys.
fn keys(file: &DataFile) -> Result<serde_json::Map<String, Value>> {
    match &file.value {
        Value::Object(keys) => Ok(keys.clone()),
        _ => Err(Error::usage(format!("`{}` is no stage: a map of keys is wanted", file.name))),
    }
}

fn about_data(samples: Option<Samples>, length: Option<usize>) -> Option<&'static str> {
    samples.map(|_| "num_calibration_samples").or(length.map(|_| "max_seq_length"))
}

/// A file's keys: one taken out, and the others for [`Options`]. Null means not given.
fn split(file: &DataFile, key: &str) -> Result<(Option<Value>, Given)> {
    let mut keys = keys(file)?;
    let taken = keys.shift_remove(key).filter(|value| !value.is_null());
    keys.retain(|_, value| !value.is_null());
    Ok((taken, keys))
}

/// An error where two files claim the same name or suffix: their rows, or their models, could not be told apart.
pub(super) fn distinct(stages: &[Stage]) -> Result<()> {
    for (index, stage) in stages.iter().enumerate() {
        for other in &stages[..index] {
            let same = [
                ("name", Some(&stage.name), Some(&other.name)),
                ("output_suffix", stage.suffix.as_ref(), other.suffix.as_ref()),
            ];
            for (key, one, two) in same {
                if let Some(value) = one.filter(|_| one == two) {
                    let error = Error::usage(format!(
                        "`{}` and `{}` have the same `{key}`: `{value}`",
                        other.file.name, stage.file.name
                    ))
                    .at(key)
                    .hint("give one of them another, or choose fewer files");
                    return Err(stage.file.locate(error, &[]));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
