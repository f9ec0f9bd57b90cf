//! The recipe of a model, or of data that one wrote: every stage that led to it, with defaults filled in, in a file of its own folder.
//!
//! A record says what one node did and names its input by key. A folder that was handed to somebody else has left the store
//! behind, so the recipe repeats the whole chain. It holds meaning alone, as the record does: no names of folders, no times. Its
//! name is not the one that llm-compressor reads back (`recipe.yaml`), and no loader asks for it.

use std::{collections::BTreeMap, fs, path::Path};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::{Error, Result},
    exec::Job,
    graph::{Key, node::DataSource},
    store::{RECIPE, Scratch, write_json},
};

/// The role of the model that a node makes another of.
const MODEL: &str = "model";

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
    /// The models that it read beside the one that it changed (`teacher`), and what led to them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    models: BTreeMap<String, Recipe>,
    /// What led to data that a model wrote, by their role.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    made_data: BTreeMap<String, Recipe>,
    /// The node in a store: `workbench show KEY`.
    key: Key,
}

/// Writes the recipe beside the model or the data that a node made; a node that made none has none.
pub(in crate::steps) fn write(job: &Job, scratch: &Scratch) -> Result<()> {
    let Some(folder) = [scratch.model_path(), scratch.data_path()].into_iter().find(|folder| folder.is_dir()) else {
        return Ok(());
    };
    let mut recipe = before(job, MODEL)?;
    recipe.stages.push(stage(job)?);
    write_json(&folder.join(RECIPE), &recipe)
}

fn stage(job: &Job) -> Result<Stage> {
    let data = &job.identity["data"];
    let others = job.models.keys().filter(|role| *role != MODEL);
    Ok(Stage {
        kind: job.kind.to_string(),
        method: job.method.clone(),
        parameters: job.params().clone(),
        data: if data.as_object().is_some_and(|data| !data.is_empty()) { data.clone() } else { Value::Null },
        plugin: job.identity["plugin"].clone(),
        models: others.map(|role| Ok((role.clone(), before(job, role)?))).collect::<Result<_>>()?,
        made_data: made_data(job)?,
        key: job.key.clone(),
    })
}

/// The recipes of data that other nodes made.
fn made_data(job: &Job) -> Result<BTreeMap<String, Recipe>> {
    let made = job.data.iter().filter(|(role, _)| job.identity["data"][role.as_str()]["node"].is_string());
    made.map(|(role, source)| match source {
        DataSource::File(path) => {
            let known = path.parent().and_then(read);
            let known = known.ok_or_else(|| Error::internal("the data that this node reads have no recipe"))?;
            Ok((role.clone(), known))
        }
        DataSource::Demo(_) | DataSource::Node(_) => Err(Error::internal("data of a node are a file")),
    })
    .collect()
}

/// The recipe of a model that a node read, by its role.
fn before(job: &Job, role: &str) -> Result<Recipe> {
    let known = read(job.model(role)?);
    match job.identity["inputs"][role]["source"].as_str() {
        // A model from outside begins a chain, unless it is one of ours that was saved.
        Some(digest) => {
            Ok(known.unwrap_or_else(|| Recipe { version: VERSION, base: digest.to_owned(), stages: Vec::new() }))
        }
        None => known.ok_or_else(|| Error::internal("the model that this node reads has no recipe")),
    }
}

/// The recipe in the folder of a model or of data. A file of that name that is none of ours says nothing here.
fn read(model: &Path) -> Option<Recipe> {
    let text = fs::read_to_string(model.join(RECIPE)).ok()?;
    serde_json::from_str(&text).ok().filter(|recipe: &Recipe| recipe.version == VERSION)
}
