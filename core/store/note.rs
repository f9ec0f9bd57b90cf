//! What the nodes of a run tell each other about the files that they read.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{RunFolder, write_json};
use crate::graph::digest::Stamp;

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
        fs::create_dir_all(folder).ok()?;
        let name = blake3::hash(file.as_os_str().as_encoded_bytes()).to_hex();
        let lock = File::create(folder.join(format!("{name}.lock"))).ok()?;
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
        let _ = write_json(&self.path, found);
    }
}
