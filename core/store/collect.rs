//! What the store could give up.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    Damaged, KeyLock, Store,
    discard::{hide, is_hidden, remove_counting},
    files,
    lock::CollectionLock,
    manifest::is_shard,
    object::{ARTIFACT, RECORD},
};
use crate::{
    error::{Error, Result},
    identity::Key,
};

/// A result without its record.
const INCOMPLETE: &str = "incomplete";

/// Something that no kept run needs, or that nobody can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// What it is: `result`, `unfinished`, `run`, `shard`; `damaged result`, `damaged run`; `incomplete` for a result without
    /// its record; `leftover` for what an earlier removal left that was cut short.
    pub what: &'static str,
    /// Its key or name.
    pub name: String,
    /// Bytes that removing it frees; a shard counts with the last result that uses it.
    pub bytes: u64,
    /// What is wrong with it, a line each.
    pub findings: Vec<String>,
    path: PathBuf,
}

/// Everything that could be removed. While it is held, no run plans and nobody begins with what is unfinished.
#[derive(Debug, Default)]
pub struct Garbage {
    pub items: Vec<Unreachable>,
    /// Kept runs whose list cannot be read: what they need is not known, so no result is listed for want of use.
    pub unreadable: Vec<String>,
    locks: Vec<KeyLock>,
    collection: Option<CollectionLock>,
}

/// What a removal came to.
#[derive(Debug, Default)]
pub struct Removal {
    /// How many items are gone.
    pub items: usize,
    /// Bytes of the disk that are free now.
    pub freed: u64,
    /// What could not be removed, and why.
    pub failed: Vec<Error>,
}

impl Garbage {
    /// Bytes that removing everything would free.
    pub fn bytes(&self) -> u64 {
        self.items.iter().map(|i| i.bytes).sum()
    }

    /// Removes everything listed: first out of sight, then from the disk.
    pub fn remove(self) -> Removal {
        let Self { items, locks, collection, .. } = self;
        let mut removal = Removal::default();
        let mut hidden = Vec::new();
        for item in items {
            // Somebody else was here first, or a node has made anew what was half.
            let whole = item.what == INCOMPLETE && item.path.join(RECORD).is_file();
            if whole || fs::symlink_metadata(&item.path).is_err() {
                continue;
            }
            match if is_hidden(&item.path) { Ok(item.path.clone()) } else { hide(&item.path) } {
                Ok(path) => hidden.push(path),
                Err(error) => removal.failed.push(error),
            }
        }
        drop((locks, collection));
        for path in hidden {
            match remove_counting(&path) {
                Ok(freed) => {
                    removal.freed += freed;
                    removal.items += 1;
                }
                Err(error) => removal.failed.push(error),
            }
        }
        removal
    }

    fn add(&mut self, what: &'static str, name: String, path: &Path) {
        self.items.push(Unreachable { what, name, bytes: 0, findings: Vec::new(), path: path.to_owned() });
    }

    fn add_named(&mut self, what: &'static str, path: &Path) {
        self.add(what, path.file_name().unwrap_or_default().to_string_lossy().into_owned(), path);
    }

    fn lists(&self, path: &Path) -> bool {
        self.items.iter().any(|item| item.path == path)
    }

    /// Counts each file with the item that holds its last link.
    fn weigh(&mut self) {
        let mut links: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        for item in &mut self.items {
            item.bytes = weight(&item.path, &mut links);
        }
    }
}

impl Store {
    /// What the newest `keep_last` runs and those in progress do not need: older runs, results that only they used,
    /// unfinished work that no process holds, shards that no result links to; also what is `damaged` or cut short.
    pub fn garbage(&self, keep_last: usize, damaged: &[Damaged]) -> Result<Garbage> {
        let mut garbage = Garbage { collection: self.lock_collection()?, ..Garbage::default() };
        for found in damaged {
            let what = if found.what == "run" { "damaged run" } else { "damaged result" };
            garbage.add(what, found.name.clone(), &found.path);
            garbage.items.last_mut().into_iter().for_each(|item| item.findings.clone_from(&found.findings));
        }
        let (needed, in_progress) = self.collect_runs(keep_last, &mut garbage)?;
        self.collect_objects(&needed, &mut garbage)?;
        self.collect_scratch(&in_progress, &mut garbage)?;
        let removed: Vec<PathBuf> = garbage.items.iter().map(|i| i.path.clone()).collect();
        for path in files::entries(&self.shards())? {
            if is_hidden(&path) || !is_shard(&path) {
                garbage.add_named("leftover", &path);
            } else if last_link(&path, &removed) {
                garbage.add_named("shard", &path);
            }
        }
        garbage.weigh();
        Ok(garbage)
    }

    /// Lists old runs; returns what the others need, and what those in progress need.
    fn collect_runs(&self, keep_last: usize, garbage: &mut Garbage) -> Result<(BTreeSet<Key>, BTreeSet<Key>)> {
        let (mut needed, mut in_progress) = (BTreeSet::new(), BTreeSet::new());
        let runs = self.runs()?;
        let old = runs.len().saturating_sub(keep_last);
        for (index, run) in runs.iter().enumerate() {
            let goes_on = run.is_in_progress();
            if index < old && !goes_on {
                if !garbage.lists(run.path()) {
                    garbage.add("run", run.id(), run.path());
                }
                continue;
            }
            match run.summary() {
                Ok(summary) => {
                    let keys = summary.nodes.into_iter().map(|node| node.key);
                    if goes_on {
                        in_progress.extend(keys);
                    } else {
                        needed.extend(keys);
                    }
                }
                Err(_) => garbage.unreadable.push(run.id()),
            }
        }
        needed.extend(in_progress.iter().cloned());
        for path in files::entries(&self.root().join("runs"))? {
            if is_hidden(&path) {
                garbage.add_named("leftover", &path);
            } else if runs.iter().all(|run| run.path() != path) && path.is_dir() && !self.run_at(&path).is_in_progress()
            {
                // A run that ended before it had said what it was.
                garbage.add_named("run", &path);
            }
        }
        Ok((needed, in_progress))
    }

    fn collect_objects(&self, needed: &BTreeSet<Key>, garbage: &mut Garbage) -> Result<()> {
        for shelf in files::entries(&self.objects())? {
            for path in files::entries(&shelf)? {
                let key = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<Key>().ok());
                if garbage.lists(&path) {
                    continue;
                }
                match key {
                    _ if is_hidden(&path) => garbage.add_named("leftover", &path),
                    Some(_) if !path.join(RECORD).is_file() => garbage.add_named(INCOMPLETE, &path),
                    Some(key) if !needed.contains(&key) && garbage.unreadable.is_empty() => {
                        garbage.add_named("result", &path);
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn collect_scratch(&self, in_progress: &BTreeSet<Key>, garbage: &mut Garbage) -> Result<()> {
        for path in files::entries(&self.store().join("scratch"))? {
            if is_hidden(&path) {
                garbage.add_named("leftover", &path);
                continue;
            }
            let Some(key) = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<Key>().ok()) else {
                continue;
            };
            // A run in progress may not have come to it yet.
            if in_progress.contains(&key) {
                continue;
            }
            if let Ok(Some(lock)) = self.try_lock(&key) {
                garbage.locks.push(lock);
                garbage.add("unfinished", key.to_string(), &path);
            }
        }
        Ok(())
    }
}

/// Whether every other link of a shard lies in one of the folders about to be removed.
fn last_link(shard: &Path, removed: &[PathBuf]) -> bool {
    let Ok(meta) = fs::metadata(shard) else { return false };
    let name = shard.file_name().unwrap_or_default();
    let links = removed.iter().filter(|folder| {
        let twin = folder.join(ARTIFACT).join(name);
        fs::metadata(twin).is_ok_and(|m| m.ino() == meta.ino())
    });
    meta.nlink() <= 1 + links.count() as u64
}

/// Bytes of the files whose last link lies here, given the links that were seen before.
fn weight(path: &Path, links: &mut BTreeMap<(u64, u64), u64>) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            files::entries(path).unwrap_or_default().iter().map(|inside| weight(inside, links)).sum()
        }
        Ok(meta) => {
            let seen = links.entry((meta.dev(), meta.ino())).or_default();
            *seen += 1;
            if *seen == meta.nlink() { meta.len() } else { 0 }
        }
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests;
