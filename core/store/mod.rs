//! Content-addressed artifacts and records: the only module that writes under `results/`.
//!
//! ```text
//! results/
//!   store/v1/objects/ab/<key>/   record.json, provenance.json, items.jsonl, curve.csv, model/ or data/ with its recipe.json,
//!                                manifest.json
//!   store/v1/shards/<name>       hard links to weight shards, named by their digest, so that equal shards are stored once
//!   store/v1/scratch/<key>/      work in progress; survives a kill
//!   store/v1/locks/<key>         held with flock while a process works on the key
//!   runs/<run>/                  plan, events, one log per node, the reports that it wrote
//!   reports/<name>/              table.csv, comparisons.csv, table.md, index.html of the newest run that wrote it
//!   cache/                       digests of files, answers of plugin probes; may be deleted at any time
//! ```
//!
//! An object appears by one rename of its finished scratch folder, so what exists is finished and what is half-done is
//! invisible. `record.json` is the same for the same meaning on the same kind of machine; whatever is not (times, hosts,
//! paths) lies in `provenance.json`. `manifest.json` holds the digests of all files but that one: what is not as it was
//! written is refused by whoever reads it.

mod collect;
mod curve;
mod damage;
mod discard;
mod export;
mod files;
mod lock;
mod manifest;
mod note;
mod notebook;
mod object;
mod run;
mod scratch;
mod sealed;

pub use collect::{Garbage, Removal, Unreachable};
pub use curve::Curve;
pub use damage::Damaged;
pub use export::{check_place, resolve};
pub use files::{write_atomic, write_json};
pub use lock::{CollectionLock, KeyLock};
pub use manifest::changed_file;
pub use note::Note;
pub use notebook::Notebook;
pub use object::{Object, RECIPE, Record};
pub use run::{EventLog, RunFolder, RunNode, RunSummary};
pub use scratch::{Commit, Scratch};
pub use sealed::{read_sealed, write_cache, write_sealed};

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{
    error::{Error, Result},
    identity::{FileDigests, Key},
};

/// The store under a results folder.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

impl Store {
    /// Version of the layout; another version lives in another folder.
    pub const VERSION: &'static str = "v1";

    /// The store of a results folder. Nothing is created until something is written.
    pub fn new(results: &Path) -> Self {
        Self { root: results.to_owned() }
    }

    /// The results folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn store(&self) -> PathBuf {
        self.root.join("store").join(Self::VERSION)
    }

    fn objects(&self) -> PathBuf {
        self.store().join("objects")
    }

    fn object_path(&self, key: &Key) -> PathBuf {
        self.objects().join(&key.as_str()[..2]).join(key.as_str())
    }

    fn shards(&self) -> PathBuf {
        self.store().join("shards")
    }

    fn scratch_path(&self, key: &Key) -> PathBuf {
        self.store().join("scratch").join(key.as_str())
    }

    /// Whether the result of a key is stored.
    pub fn holds(&self, key: &Key) -> bool {
        self.object_path(key).join(object::RECORD).is_file()
    }

    /// The stored result of a key.
    pub fn object(&self, key: &Key) -> Result<Object> {
        Object::open(key.clone(), self.object_path(key))
    }

    /// All stored results, sorted by key. A folder without a record is none.
    pub fn objects_sorted(&self) -> Result<Vec<Object>> {
        let mut found = Vec::new();
        for shelf in files::entries(&self.objects())? {
            for path in files::entries(&shelf)? {
                if let Some(key) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Key>().ok()) {
                    found.extend(Object::open(key, path));
                }
            }
        }
        found.sort_by(|a, b| a.key().cmp(b.key()));
        Ok(found)
    }

    /// The identities of all stored results, for explaining why a node is not among them.
    pub fn identities(&self) -> Result<Vec<Value>> {
        Ok(self.objects_sorted()?.into_iter().filter_map(|o| o.record().ok()).map(|r| r.identity).collect())
    }

    /// The one stored key that starts with `prefix`.
    pub fn find(&self, prefix: &str) -> Result<Key> {
        let keys: Vec<Key> = self.objects_sorted()?.into_iter().map(|o| o.key().clone()).collect();
        let mut matches = keys.iter().filter(|k| k.as_str().starts_with(prefix));
        match (matches.next(), matches.next()) {
            (Some(key), None) => Ok(key.clone()),
            (Some(_), Some(_)) => {
                Err(Error::usage(format!("several stored nodes start with `{prefix}`")).hint("give more digits"))
            }
            (None, _) => {
                Err(Error::usage(format!("no stored node starts with `{prefix}`")).hint("`workbench show` lists them"))
            }
        }
    }

    /// The digests remembered from earlier runs.
    pub fn digests(&self) -> FileDigests {
        FileDigests::from_json(&read_sealed(&self.cache_file("digests.json")).unwrap_or_default())
    }

    /// Remembers digests. A store that cannot be written only costs time: a warning, and no error.
    pub fn remember(&self, digests: &FileDigests) {
        if let Some(text) = digests.to_json() {
            write_cache(&self.cache_file("digests.json"), &text);
        }
    }

    /// A file of the cache folder, sealed: see [`read_sealed`].
    pub fn cache_file(&self, name: &str) -> PathBuf {
        self.root.join("cache").join(name)
    }

    /// The folder of a report.
    pub fn report_folder(&self, name: &str) -> PathBuf {
        self.root.join("reports").join(name)
    }

    /// The folder of a report as a run wrote it: the next run with a report of that name leaves it alone.
    pub fn report_folder_of(&self, run: &str, name: &str) -> PathBuf {
        self.root.join("runs").join(run).join(run::REPORTS).join(name)
    }

    /// Checks that the store can be written: creates its folders and renames a file.
    pub fn check_writable(&self) -> Result<()> {
        let probe = self.store().join("scratch").join(format!(".probe-{}", std::process::id()));
        write_atomic(&probe, b"probe")?;
        fs::remove_file(&probe).map_err(|e| Error::io("remove", &probe, &e))
    }
}
