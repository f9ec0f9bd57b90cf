//! What a folder consists of, written beside it: the digest of every file, so that what changed since can be told.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    files::{self, entries},
    object::RECIPE,
};
use crate::{
    error::{Error, Result},
    identity::{Key, digest},
};

pub(super) const MANIFEST: &str = "manifest.json";

/// A file as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) bytes: u64,
    /// blake3, in hexadecimal.
    pub(super) digest: String,
}

/// The files of a result, or of a copy of a model outside of the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    version: u32,
    /// The result that they belong to.
    pub(super) key: Key,
    /// By their paths within the folder.
    pub(super) files: BTreeMap<String, Entry>,
}

/// How closely files are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Content, but of weight shards only the size: those are hashed by whoever is going to read them.
    Small,
    /// The content of everything.
    All,
}

/// Gives the digest of a file: by reading it, or by what is known of it.
pub(super) type Hash<'a> = dyn FnMut(&Path) -> Result<String> + 'a;

/// Whether a path names a weight shard.
pub(super) fn is_shard(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "safetensors")
}

impl Manifest {
    const VERSION: u32 = 1;

    pub(super) fn new(key: Key) -> Self {
        Self { version: Self::VERSION, key, files: BTreeMap::new() }
    }

    /// Adds a file by the digest of what was written.
    pub(super) fn add(&mut self, name: String, path: &Path, digest: String) -> Result<()> {
        let bytes = path.metadata().map_err(|e| Error::io("read", path, &e))?.len();
        self.files.insert(name, Entry { bytes, digest });
        Ok(())
    }

    /// Adds every file of a folder that is not there yet and not among `apart`.
    pub(super) fn add_rest(&mut self, folder: &Path, apart: &[&str]) -> Result<()> {
        for (name, path) in tree(folder)? {
            if !apart.contains(&name.as_str()) && !self.files.contains_key(&name) {
                self.add(name, &path, digest::hash(&path)?.0)?;
            }
        }
        Ok(())
    }

    /// The manifest of a folder; `None` where there is none.
    pub(super) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(MANIFEST);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io("read", &path, &e)),
        };
        let broken = |cause: String| Error::refused(format!("`{}` is damaged", path.display())).cause(cause);
        let manifest: Self = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
        if manifest.version == Self::VERSION {
            Ok(Some(manifest))
        } else {
            Err(broken(format!("it is of version {}, which this build does not know", manifest.version)))
        }
    }

    /// Writes it into the folder that it describes.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        files::write_json(&folder.join(MANIFEST), self)
    }

    /// What differs from the folder as it was written, a line each: files that are missing, changed, or of nobody's. Those
    /// `apart` may be there or not.
    pub(super) fn differences(
        &self,
        folder: &Path,
        apart: &[&str],
        depth: Depth,
        hash: &mut Hash<'_>,
    ) -> Result<Vec<String>> {
        let mut found = Vec::new();
        let there = tree(folder)?;
        for (name, entry) in &self.files {
            let line = match there.get(name) {
                None => Some("is missing".to_owned()),
                Some(path) => entry.difference(path, depth, hash)?,
            };
            found.extend(line.map(|line| format!("`{}` {line}", folder.join(name).display())));
        }
        let known: BTreeSet<&str> = self.files.keys().map(String::as_str).chain([MANIFEST]).collect();
        for (name, path) in there {
            if !known.contains(name.as_str()) && !apart.contains(&name.as_str()) {
                found.push(format!("`{}` was not written by the workbench", path.display()));
            }
        }
        Ok(found)
    }

    /// The digest that a file was written with.
    pub(super) fn digest(&self, name: &str) -> Option<&str> {
        self.files.get(name).map(|entry| entry.digest.as_str())
    }
}

/// The first file of a model that `save_as` wrote which does not hold any more what it was written with, the manifest itself included;
/// `None` too for a folder that is none of ours.
///
/// # Errors
/// A file cannot be read.
pub fn changed_file(folder: &Path, hash: &mut dyn FnMut(&Path) -> Result<String>) -> Result<Option<PathBuf>> {
    let path = folder.join(MANIFEST);
    let Ok(bytes) = fs::read(&path) else { return Ok(None) };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else {
        // Others have files of that name, but no recipe beside them.
        return Ok(folder.join(RECIPE).is_file().then_some(path));
    };
    for (name, entry) in &manifest.files {
        let path = folder.join(name);
        if path.is_file() && hash(&path)? != entry.digest {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

impl Entry {
    fn difference(&self, path: &Path, depth: Depth, hash: &mut Hash<'_>) -> Result<Option<String>> {
        let meta = fs::symlink_metadata(path).map_err(|e| Error::io("read", path, &e))?;
        if !meta.is_file() {
            return Ok(Some("is no regular file".to_owned()));
        }
        if meta.len() != self.bytes {
            return Ok(Some(format!("has {} bytes, and was written with {}", meta.len(), self.bytes)));
        }
        let whole = depth == Depth::All || !is_shard(path);
        Ok((whole && hash(path)? != self.digest).then(|| "does not hold what was written".to_owned()))
    }
}

/// Everything in a folder that is no folder, by its path within; empty folders too, with a `/` behind.
fn tree(folder: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![(String::new(), folder.to_owned())];
    while let Some((prefix, folder)) = waiting.pop() {
        let inside = entries(&folder)?;
        if inside.is_empty() && !prefix.is_empty() {
            found.insert(prefix.clone(), folder.clone());
        }
        for path in inside {
            let name = format!("{prefix}{}", path.file_name().unwrap_or_default().to_string_lossy());
            if fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
                waiting.push((name + "/", path));
            } else {
                found.insert(name, path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_was_touched_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        fs::create_dir_all(folder.join("model")).unwrap();
        for (name, text) in
            [("a.json", "one"), ("model/b.json", "two"), ("model/c.safetensors", "weights"), ("times", "x")]
        {
            fs::write(folder.join(name), text).unwrap();
        }
        let mut manifest = Manifest::new("ab".repeat(32).parse().unwrap());
        manifest.add_rest(folder, &["times"]).unwrap();
        manifest.write(folder).unwrap();
        assert_eq!(Manifest::read(folder).unwrap().unwrap(), manifest);
        let differences = |depth| {
            let mut hash = |path: &Path| Ok(digest::hash(path)?.0);
            let found = manifest.differences(folder, &["times"], depth, &mut hash).unwrap();
            let inside = |line: String| line.replace(&format!("{}/", folder.display()), "");
            found.into_iter().map(inside).collect::<Vec<_>>()
        };
        assert!(differences(Depth::All).is_empty());
        fs::write(folder.join("times"), "y").unwrap();
        fs::write(folder.join("model/c.safetensors"), "weighty").unwrap();
        assert!(differences(Depth::Small).is_empty(), "a shard of the same size is left to its readers");
        assert_eq!(differences(Depth::All), ["`model/c.safetensors` does not hold what was written"]);
        fs::write(folder.join("model/c.safetensors"), "weight").unwrap();
        fs::write(folder.join("model/b.json"), "owt").unwrap();
        fs::write(folder.join("model/d.json"), "").unwrap();
        fs::create_dir(folder.join("empty")).unwrap();
        fs::remove_file(folder.join("a.json")).unwrap();
        assert_eq!(
            differences(Depth::Small),
            [
                "`a.json` is missing",
                "`model/b.json` does not hold what was written",
                "`model/c.safetensors` has 6 bytes, and was written with 7",
                "`empty` was not written by the workbench",
                "`model/d.json` was not written by the workbench",
            ]
        );
        fs::write(folder.join(MANIFEST), "{").unwrap();
        assert!(Manifest::read(folder).is_err());
    }
}
