//! What the store could give up.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{Store, files, scratch::remove};
use crate::{error::Result, graph::Key};

/// Something that no kept run needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// What it is: `result`, `unfinished`, `run`, `shard`.
    pub what: &'static str,
    /// Its key or name.
    pub name: String,
    /// Bytes that removing it frees; a shard counts with the last result that uses it.
    pub bytes: u64,
    path: PathBuf,
}

/// Everything that could be removed.
#[derive(Clone, Debug, Default)]
pub struct Garbage {
    pub items: Vec<Unreachable>,
}

impl Garbage {
    /// Bytes that removing everything would free.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|i| i.bytes).sum()
    }

    /// Removes everything listed.
    pub fn remove(&self) -> Result<()> {
        self.items.iter().try_for_each(|item| remove(&item.path))
    }
}

impl Store {
    /// What the newest `keep_last` runs do not need: older runs, results that only they used, unfinished work that no
    /// process holds, shards that no result links to.
    pub fn garbage(&self, keep_last: usize) -> Result<Garbage> {
        let mut garbage = Garbage::default();
        let runs = self.runs()?;
        let (old, kept) = runs.split_at(runs.len().saturating_sub(keep_last));
        let mut needed: BTreeSet<Key> = BTreeSet::new();
        for run in kept {
            needed.extend(run.summary()?.nodes.into_iter().map(|n| n.key));
        }
        for run in old {
            garbage.add("run", run.id(), run.path());
        }
        for object in self.objects_sorted()?.into_iter().filter(|o| !needed.contains(o.key())) {
            garbage.add("result", object.key().to_string(), object.path());
        }
        for path in files::entries(&self.store().join("scratch"))? {
            let Some(key) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Key>().ok()) else {
                continue;
            };
            if self.try_lock(&key)?.is_some() {
                garbage.add("unfinished", key.to_string(), &path);
            }
        }
        let removed: Vec<PathBuf> = garbage.items.iter().map(|i| i.path.clone()).collect();
        for path in files::entries(&self.store().join("shards"))? {
            if self.last_link(&path, &removed)? {
                garbage.add("shard", path.file_name().unwrap_or_default().to_string_lossy().into_owned(), &path);
            }
        }
        Ok(garbage)
    }

    /// Whether every other link of a shard lies in one of the folders about to be removed.
    fn last_link(&self, shard: &Path, removed: &[PathBuf]) -> Result<bool> {
        let Ok(meta) = fs::metadata(shard) else { return Ok(false) };
        let name = shard.file_name().unwrap_or_default();
        let links = removed.iter().filter(|folder| {
            let twin = folder.join(super::object::ARTIFACT).join(name);
            fs::metadata(twin).is_ok_and(|m| m.ino() == meta.ino())
        });
        Ok(meta.nlink() <= 1 + links.count() as u64)
    }
}

impl Garbage {
    fn add(&mut self, what: &'static str, name: String, path: &Path) {
        self.items.push(Unreachable { what, name, bytes: unshared(path), path: path.to_owned() });
    }
}

/// Bytes of the files that have no link elsewhere: what removing the folder frees by itself.
fn unshared(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => files::entries(path).unwrap_or_default().iter().map(|p| unshared(p)).sum(),
        // The shelf of shards holds one link itself; such a file is counted when its shelf entry is.
        Ok(meta) if meta.nlink() > 1 && !path.parent().is_some_and(|p| p.ends_with("shards")) => 0,
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}
