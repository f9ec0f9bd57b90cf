//! Finished results.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::files;
use crate::{
    error::{Error, Result},
    graph::Key,
};

pub(super) const RECORD: &str = "record.json";
pub(super) const PROVENANCE: &str = "provenance.json";
/// The folder of a model artifact within an object.
pub(super) const ARTIFACT: &str = "model";
/// In a model artifact: every stage that led to the model.
pub const RECIPE: &str = "recipe.json";
/// One line per evaluated item.
pub(super) const ITEMS: &str = "items.jsonl";

/// What a node found out: a function of its meaning and the kind of machine, never of time or place.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this format.
    pub version: u32,
    /// The meaning that the key is the hash of.
    pub identity: Value,
    /// Values by name: `perplexity`, `nll`, `accuracy`, `gptq_loss`.
    pub values: Value,
    /// Everything else worth knowing: matched layers, the protocol, the grid, equivalence checks.
    pub facts: Value,
}

impl Record {
    /// The version that this build writes.
    pub const VERSION: u32 = 1;
}

/// A stored result.
#[derive(Clone, Debug)]
pub struct Object {
    key: Key,
    path: PathBuf,
}

impl Object {
    pub(super) fn open(key: Key, path: PathBuf) -> Result<Self> {
        if path.join(RECORD).is_file() {
            Ok(Self { key, path })
        } else {
            Err(Error::refused(format!("the store holds no result of {}", key.short())))
        }
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder of the model it produced, if it produced one.
    pub fn model(&self) -> Option<PathBuf> {
        Some(self.path.join(ARTIFACT)).filter(|p| p.is_dir())
    }

    /// Bytes on disk; shards shared with other results count in full.
    pub fn size(&self) -> u64 {
        files::size(&self.path)
    }

    /// Its record.
    pub fn record(&self) -> Result<Record> {
        read_json(&self.path.join(RECORD))
    }

    /// Times, host and paths of the run that made it.
    pub fn provenance(&self) -> Result<Value> {
        read_json(&self.path.join(PROVENANCE))
    }

    /// The items of an evaluation, in order.
    pub fn items<T: DeserializeOwned>(&self) -> Result<Vec<T>> {
        let path = self.path.join(ITEMS);
        let file = fs::File::open(&path).map_err(|e| Error::io("open", &path, &e))?;
        let parse = |(index, line): (usize, std::io::Result<String>)| -> Result<T> {
            let line = line.map_err(|e| Error::io("read", &path, &e))?;
            serde_json::from_str(&line).map_err(|e| damaged(&path, index + 1, &e))
        };
        BufReader::new(file).lines().enumerate().map(parse).collect()
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read_to_string(path).map_err(|e| Error::io("read", path, &e))?;
    serde_json::from_str(&text).map_err(|e| damaged(path, e.line(), &e))
}

fn damaged(path: &Path, line: usize, error: &serde_json::Error) -> Error {
    Error::refused(format!("`{}` is damaged at line {line}", path.display()))
        .cause(error.to_string())
        .hint("delete its folder and run again")
}
