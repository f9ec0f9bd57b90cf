//! One process works on a key at a time.

use std::{
    fs::{File, OpenOptions},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::{Store, files::make_folder};
use crate::{
    error::{Error, Result},
    identity::Key,
};

/// Holds the lock of a key until it is dropped or its process ends.
#[derive(Debug)]
pub struct KeyLock {
    _file: File,
}

/// Held by whoever removes what nobody needs, and in common by those who plan what they will need.
#[derive(Debug)]
pub struct CollectionLock {
    _file: File,
}

impl Store {
    /// Keeps others from planning, and waits for those who do. A store that cannot be written has nothing to guard.
    pub(super) fn lock_collection(&self) -> Result<Option<CollectionLock>> {
        self.guard(FlockOperation::LockExclusive)
    }

    /// Keeps everything where it is until the lock is dropped: from planning until it is written down what a run needs.
    pub fn lock_planning(&self) -> Result<Option<CollectionLock>> {
        self.guard(FlockOperation::LockShared)
    }

    fn guard(&self, operation: FlockOperation) -> Result<Option<CollectionLock>> {
        let path = self.store().join("locks").join("collection");
        // What is not there needs no guard, and is not made for want of one.
        if !self.store().is_dir() {
            return Ok(None);
        }
        let Ok(file) = open(&path) else { return Ok(None) };
        loop {
            match flock(&file, operation) {
                Ok(()) => return Ok(Some(CollectionLock { _file: file })),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(Error::io("lock", &path, &e.into())),
            }
        }
    }

    /// Waits until no other process works on the key.
    pub fn lock(&self, key: &Key) -> Result<KeyLock> {
        self.acquire(key, FlockOperation::LockExclusive)?.ok_or_else(|| Error::internal("a blocking lock was refused"))
    }

    /// Takes the lock if no other process holds it.
    pub fn try_lock(&self, key: &Key) -> Result<Option<KeyLock>> {
        self.acquire(key, FlockOperation::NonBlockingLockExclusive)
    }

    fn acquire(&self, key: &Key, operation: FlockOperation) -> Result<Option<KeyLock>> {
        let path = self.store().join("locks").join(key.as_str());
        loop {
            let file = open(&path)?;
            match flock(&file, operation) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(Error::io("lock", &path, &e.into())),
            }
            return Ok(Some(KeyLock { _file: file }));
        }
    }
}

fn open(path: &Path) -> Result<File> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| Error::io("open", path, &e))
}
