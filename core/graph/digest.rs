//! Digests of the files that nodes read, remembered so that a cached run hashes nothing again.

use std::{
    collections::BTreeMap,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What the file system says about a file. A file whose stamp is unchanged is taken to be unchanged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    digest: String,
}

/// Digests by path. The store keeps the memory between runs; it may be lost at any time without harm.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FileDigests {
    stamps: BTreeMap<PathBuf, Stamp>,
    #[serde(skip)]
    changed: bool,
}

impl FileDigests {
    /// Reads what [`to_json`](Self::to_json) wrote; anything unreadable counts as an empty memory.
    pub fn from_json(text: &str) -> Self {
        serde_json::from_str(text).unwrap_or_default()
    }

    /// The memory as text, or `None` if nothing was added since it was read.
    pub fn to_json(&self) -> Option<String> {
        self.changed.then(|| serde_json::to_string(self).ok()).flatten()
    }

    /// The blake3 digest of one file.
    pub fn file(&mut self, path: &Path) -> Result<String> {
        let fail = |error: std::io::Error| Error::io("read", path, &error);
        let path = path.canonicalize().map_err(fail)?;
        let file = File::open(&path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let modified_ns = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
        if let Some(known) = self.stamps.get(&path)
            && (known.device, known.inode, known.size, known.modified_ns)
                == (meta.dev(), meta.ino(), meta.size(), modified_ns)
        {
            return Ok(known.digest.clone());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file).map_err(fail)?;
        let digest = hasher.finalize().to_hex().to_string();
        let stamp =
            Stamp { device: meta.dev(), inode: meta.ino(), size: meta.size(), modified_ns, digest: digest.clone() };
        // A file that was written within the last moments could change again without its stamp showing it.
        if meta.modified().ok().and_then(|m| m.elapsed().ok()).is_some_and(|age| age.as_secs() >= 2) {
            self.stamps.insert(path, stamp);
            self.changed = true;
        }
        Ok(digest)
    }

    /// One digest for several files, by their names (without folders) and contents, in the order of the names.
    pub fn files(&mut self, paths: &[PathBuf]) -> Result<String> {
        let mut named = BTreeMap::new();
        for path in paths {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            named.insert(name, self.file(path)?);
        }
        let mut hasher = blake3::Hasher::new();
        for (name, digest) in named {
            hasher.update(format!("{name}\n{digest}\n").as_bytes());
        }
        Ok(hasher.finalize().to_hex().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_decides_and_names_count_but_folders_do_not() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        let (a, b, c) = (write("x/one", "1"), write("y/one", "1"), write("x/two", "1"));
        let mut digests = FileDigests::default();
        assert_eq!(digests.file(&a).unwrap(), digests.file(&c).unwrap());
        assert_eq!(digests.files(std::slice::from_ref(&a)).unwrap(), digests.files(&[b]).unwrap());
        assert_ne!(digests.files(std::slice::from_ref(&a)).unwrap(), digests.files(&[c]).unwrap());
        let before = digests.file(&a).unwrap();
        write("x/one", "2");
        assert_ne!(before, digests.file(&a).unwrap());
        assert!(digests.file(&dir.path().join("none")).is_err());
    }
}
