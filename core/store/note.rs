//! What the nodes of a run tell each other about the files that they read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{RunFolder, sealed::warn_once, write_json};
use crate::{error::Error, identity::digest::Stamp};

impl RunFolder {
    /// What is noted about a file; waits for whoever is hashing it. `None` where no notes can be kept.
    pub fn note(&self, file: &Path) -> Option<Note> {
        Note::open(&self.path().join("checked"), file)
    }
}

/// What a node of this run has found out about a file: the stamp that it had when it was hashed, and its digest. One node at a
/// time hashes it.
#[derive(Debug)]
pub struct Note {
    path: PathBuf,
    _lock: File,
}

impl Note {
    fn open(folder: &Path, file: &Path) -> Option<Self> {
        let failed = |doing: &str, path: &Path, e: std::io::Error| warn_once(&Error::io(doing, path, &e));
        fs::create_dir_all(folder).map_err(|e| failed("create the folder", folder, e)).ok()?;
        let name = blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex();
        let path = folder.join(format!("{name}.lock"));
        let lock = File::create(&path).map_err(|e| failed("write", &path, e)).ok()?;
        while let Err(e) = flock(&lock, FlockOperation::LockExclusive) {
            if e != rustix::io::Errno::INTR {
                return None;
            }
        }
        Some(Self { path: folder.join(format!("{name}.json")), _lock: lock })
    }

    /// What was found out.
    pub fn read(&self) -> Option<(Stamp, String)> {
        serde_json::from_slice(&fs::read(&self.path).ok()?).ok()
    }

    /// Notes it. A note that cannot be written costs the time to hash again.
    pub fn write(&self, found: &(Stamp, String)) {
        if let Err(error) = write_json(&self.path, found) {
            warn_once(&error);
        }
    }
}
