//! The recipe of a model: every stage that led to it, with defaults filled in, in a file of its own folder.
//!
//! A record says what one node did and names its input by key. A folder that was handed to somebody else has left the store
//! behind, so the recipe repeats the whole chain. It holds meaning alone, as the record does: no names of folders, no times. Its
//! name is not the one that llm-compressor reads back (`recipe.yaml`), and no loader asks for it.

use std::{fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    exec::Job,
    graph::Key,
    store::{RECIPE, Scratch, write_json},
};

/// Version of the file's format.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    version: u32,
    /// The blake3 digest of the files of the model that it began with.
    base: String,
    stages: Vec<Stage>,
}

/// One node of the chain.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    kind: String,
    method: String,
    /// Everything that could change the result, complete.
    parameters: Value,
    /// Digests of the data that it read, by role.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    data: Value,
    plugin: Value,
    /// The node in a store: `workbench show KEY`.
    key: Key,
}

/// Writes the recipe beside the model that a node made; a node that made none has none.
pub(in crate::steps) fn write(job: &Job, scratch: &Scratch) -> Result<()> {
    let folder = scratch.model_path();
    if !folder.is_dir() {
        return Ok(());
    }
    let mut recipe = before(job)?;
    recipe.stages.push(stage(job));
    write_json(&folder.join(RECIPE), &recipe)
}

fn stage(job: &Job) -> Stage {
    let data = &job.identity["data"];
    Stage {
        kind: job.kind.to_string(),
        method: job.method.clone(),
        parameters: job.params().clone(),
        data: if data.as_object().is_some_and(|data| !data.is_empty()) { data.clone() } else { Value::Null },
        plugin: job.identity["plugin"].clone(),
        key: job.key.clone(),
    }
}

/// The recipe of the model that a node read.
fn before(job: &Job) -> Result<Recipe> {
    let known = read(job.model("model")?);
    match job.identity["inputs"]["model"]["source"].as_str() {
        // A model from outside begins a chain, unless it is one of ours that was saved.
        Some(digest) => {
            Ok(known.unwrap_or_else(|| Recipe { version: VERSION, base: digest.to_owned(), stages: Vec::new() }))
        }
        None => known.ok_or_else(|| Error::internal("the model that this node reads has no recipe")),
    }
}

/// The recipe in a model's folder. A file of that name that is none of ours says nothing here.
fn read(model: &Path) -> Option<Recipe> {
    let text = fs::read_to_string(model.join(RECIPE)).ok()?;
    serde_json::from_str(&text).ok().filter(|recipe: &Recipe| recipe.version == VERSION)
}
