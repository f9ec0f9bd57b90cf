//! Work in progress, and the one rename that finishes it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use super::{
    KeyLock, Store,
    discard::{hide, remove, remove_counting},
    files::{entries, make_folder, sync_folder, write_json},
    manifest::{Manifest, is_shard},
    object::{APART, ARTIFACT, DATA, ITEMS, PROVENANCE, RECORD, ROWS, Record, digest_in_name},
    sealed::warn_once,
};
use crate::{
    error::{Error, Result},
    identity::{Key, digest::hash},
};

/// Checkpoints of unfinished work, within the scratch folder of a key.
const WORK: &str = "work";

/// What `work` is called while it is being removed.
const DISCARDED: &str = "discarded";

/// The scratch folder of a key, with the lock that makes it ours. It survives a kill; the next process continues there.
#[derive(Debug)]
pub struct Scratch {
    store: Store,
    key: Key,
    path: PathBuf,
    _lock: KeyLock,
}

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The result is stored now.
    Stored,
    /// Another process had stored it already; ours is discarded.
    Existed,
}

impl Store {
    /// Opens the scratch folder of a key, or returns `None` if the result was stored while waiting for the lock.
    pub fn scratch(&self, key: &Key) -> Result<Option<Scratch>> {
        let lock = self.lock(key)?;
        if self.holds(key) {
            return Ok(None);
        }
        let path = self.scratch_path(key);
        make_folder(&path)?;
        // What a killed process left half-written would become a part of the result; only the checkpoints of the work are
        // written to be found again.
        for left in entries(&path)?.iter().filter(|p| !p.ends_with(WORK)) {
            remove(left)?;
        }
        Ok(Some(Scratch { store: self.clone(), key: key.clone(), path, _lock: lock }))
    }
}

impl Scratch {
    /// Where checkpoints of the work itself may be kept; removed before the commit.
    pub fn work_folder(&self) -> Result<PathBuf> {
        let path = self.path.join(WORK);
        make_folder(&path)?;
        Ok(path)
    }

    /// A fresh folder for the model that the node produces.
    pub fn model_folder(&self) -> Result<PathBuf> {
        let path = self.path.join(ARTIFACT);
        remove(&path)?;
        make_folder(&path)?;
        Ok(path)
    }

    /// Where [`model_folder`](Self::model_folder) puts the model.
    pub fn model_path(&self) -> PathBuf {
        self.path.join(ARTIFACT)
    }

    /// The path of a file of the result.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes the items of an evaluation, one JSON object a line.
    pub fn write_items<T: Serialize>(&self, items: &[T]) -> Result<()> {
        super::write_atomic(&self.path.join(ITEMS), lines(items)?.as_bytes())
    }

    /// Writes the data that the node makes, one JSON object a line.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn write_data<T: Serialize>(&self, rows: &[T]) -> Result<()> {
        super::write_atomic(&self.data_path().join(ROWS), lines(rows)?.as_bytes())
    }

    /// The folder in which [`write_data`](Self::write_data) puts them.
    pub fn data_path(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Removes the checkpoints. A removal that is cut short must not leave half a checkpoint where the next process looks
    /// for whole ones: hence the rename.
    fn discard_work(&self) -> Result<()> {
        let (work, discarded) = (self.path.join(WORK), self.path.join(DISCARDED));
        match fs::rename(&work, &discarded) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("rename to", &discarded, &e)),
            _ => remove(&discarded),
        }
    }

    /// Puts the record in and makes the result visible.
    pub fn commit(self, record: &Record, provenance: &Value) -> Result<Commit> {
        self.discard_work()?;
        let mut manifest = Manifest::new(self.key.clone());
        self.store.share_shards(&self.path.join(ARTIFACT), &mut manifest)?;
        write_json(&self.path.join(PROVENANCE), provenance)?;
        write_json(&self.path.join(RECORD), record)?;
        manifest.add_rest(&self.path, &APART)?;
        manifest.write(&self.path)?;
        sync_folder(&self.path)?;
        let target = self.store.object_path(&self.key);
        let shelf = target.parent().map(Path::to_owned).unwrap_or_default();
        make_folder(&shelf)?;
        if !self.store.holds(&self.key) && fs::symlink_metadata(&target).is_ok() {
            // Half of a result: it has no record, so nobody reads it.
            remove_counting(&hide(&target)?)?;
        }
        match fs::rename(&self.path, &target) {
            Ok(()) => {
                sync_folder(&shelf)?;
                Ok(Commit::Stored)
            }
            Err(_) if self.store.holds(&self.key) => {
                remove(&self.path)?;
                Ok(Commit::Existed)
            }
            Err(e) => Err(Error::io("rename into the store", &target, &e)),
        }
    }
}

impl Store {
    /// Stores each weight shard once: one that is known under its name, which carries its digest, becomes a hard link to the
    /// known one, if that still has this digest; else it takes its place. File systems without hard links simply keep both.
    fn share_shards(&self, folder: &Path, manifest: &mut Manifest) -> Result<()> {
        let shards = self.shards();
        for path in entries(folder)?.into_iter().filter(|path| is_shard(path)) {
            let Some(name) = path.file_name() else { continue };
            let entry = format!("{ARTIFACT}/{}", name.to_string_lossy());
            let known = shards.join(name);
            let promised = digest_in_name(&path);
            let kept = |digest: &String| promised.is_some_and(|promised| digest.starts_with(promised));
            let shelved = if known.is_file() { hash(&known).ok().map(|(digest, _)| digest).filter(kept) } else { None };
            if let Some(digest) = shelved
                && link_over(&known, &path)?
            {
                manifest.add(entry, &path, digest)?;
                continue;
            }
            let digest = hash(&path)?.0;
            if promised.is_some() && !kept(&digest) {
                return Err(Error::refused(format!("`{}` does not hold what was written", path.display()))
                    .hint("the disk, or whoever else writes to it, changed the file: run again"));
            }
            make_folder(&shards)?;
            // Without it the shard is stored once more for each model that has it.
            if let Err(error) = link_over(&path, &known) {
                warn_once(&error);
            }
            manifest.add(entry, &path, digest)?;
        }
        Ok(())
    }
}

/// A JSON object a line.
fn lines<T: Serialize>(items: &[T]) -> Result<String> {
    let mut text = String::new();
    for item in items {
        text.push_str(&serde_json::to_string(item).map_err(|e| Error::internal(e.to_string()))?);
        text.push('\n');
    }
    Ok(text)
}

/// Puts a hard link to `from` in the place of `to`, whether or not something is there; `false` where there are no links.
fn link_over(from: &Path, to: &Path) -> Result<bool> {
    let sibling = to.with_extension(format!("link-{}", std::process::id()));
    let _ = fs::remove_file(&sibling);
    if fs::hard_link(from, &sibling).is_err() {
        return Ok(false);
    }
    let moved = fs::rename(&sibling, to).map_err(|e| Error::io("link", to, &e));
    // Two names of one file are left both by a rename.
    let _ = fs::remove_file(&sibling);
    moved.map(|()| true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_was_being_discarded_is_not_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let key: Key = "ab".repeat(32).parse().unwrap();
        let scratch = store.scratch(&key).unwrap().unwrap();
        // What a kill leaves in the middle of the removal: a checkpoint without one of its files.
        fs::create_dir_all(scratch.path.join(DISCARDED).join("step-2")).unwrap();
        fs::write(scratch.path.join(DISCARDED).join("step-2/state.safetensors"), "half").unwrap();
        drop(scratch);
        let scratch = store.scratch(&key).unwrap().unwrap();
        assert!(entries(&scratch.work_folder().unwrap()).unwrap().is_empty());
        scratch.discard_work().unwrap();
        assert!(entries(&scratch.path).unwrap().is_empty());
    }
}
