//! What of the store is not as it was written.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Store, discard, files, manifest::Depth, object::Object};
use crate::{
    error::{Error, Result},
    identity::{Key, digest::hash},
};

/// A result, or the list of a run, that is not as it was written.
#[derive(Clone, Debug)]
pub struct Damaged {
    /// What it is: `result`, `run`.
    pub what: &'static str,
    /// Its key or name.
    pub name: String,
    /// What is wrong, a line each.
    pub findings: Vec<String>,
    pub(super) path: PathBuf,
}

impl Store {
    /// The results that are damaged, and the runs whose list cannot be read. Every file is read, a file that several results
    /// share once; `progress` hears how many bytes were read since it was last called.
    ///
    /// # Errors
    /// A folder cannot be listed.
    pub fn damaged(&self, progress: &mut dyn FnMut(u64)) -> Result<Vec<Damaged>> {
        let mut seen: BTreeMap<(u64, u64), String> = BTreeMap::new();
        let mut digest = |path: &Path| -> Result<String> {
            let meta = fs::metadata(path).map_err(|e| Error::io("read", path, &e))?;
            match seen.entry((meta.dev(), meta.ino())) {
                Entry::Occupied(known) => Ok(known.get().clone()),
                Entry::Vacant(place) => {
                    let digest = hash(path)?.0;
                    progress(meta.len());
                    Ok(place.insert(digest).clone())
                }
            }
        };
        let mut found = Vec::new();
        for object in self.objects_sorted()? {
            // A file that cannot be read is damage too.
            let findings = object.damage(Depth::All, &mut digest).unwrap_or_else(|e| vec![e.to_string()]);
            // Whoever removed it meanwhile knew why.
            if !findings.is_empty() && object.path().exists() {
                let (name, path) = (object.key().to_string(), object.path().to_owned());
                found.push(Damaged { what: "result", name, findings, path });
            }
        }
        for run in self.runs()? {
            if let Err(error) = run.summary() {
                let path = run.path().to_owned();
                found.push(Damaged { what: "run", name: run.id(), findings: vec![error.to_string()], path });
            }
        }
        Ok(found)
    }

    /// Removes what was found to be damaged, and returns how many bytes that set free.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn remove_damaged(&self, damaged: &[Damaged]) -> Result<u64> {
        let _collection = self.lock_collection()?;
        let hidden: Vec<PathBuf> =
            damaged.iter().filter(|d| d.path.exists()).map(|d| discard::hide(&d.path)).collect::<Result<_>>()?;
        let mut freed = 0;
        for path in &hidden {
            freed += discard::remove_counting(path)?;
        }
        for shard in files::entries(&self.shards())? {
            if fs::symlink_metadata(&shard).is_ok_and(|meta| meta.nlink() <= 1) {
                freed += discard::remove_counting(&shard)?;
            }
        }
        Ok(freed)
    }

    /// Refuses a stored result that a plan counts on and that is not as it was written.
    ///
    /// # Errors
    /// The causes say what is damaged.
    pub fn check(&self, key: &Key) -> Result<()> {
        self.object(key).and_then(|object: Object| object.check())
    }
}
