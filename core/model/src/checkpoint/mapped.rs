//! Files mapped into memory, and small files read whole.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, UncheckedAdvice};
use serde_json::Value;

use crate::ModelError;

/// JSON files beside the weights are small; a larger one is not what its name says.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// A file mapped read-only.
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub(crate) fn open(path: &Path) -> Result<Self, ModelError> {
        let failed = |error: std::io::Error| ModelError::file(path, format!("cannot be read: {error}"), "");
        let file = File::open(path).map_err(failed)?;
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(ModelError::file(path, "is not a file", ""));
        }
        // SAFETY: the map is read-only. Bytes that another process changes under it would be read as other numbers, and
        // a file that shrinks under it ends this process; model files are written once and renamed into place, and the
        // same holds for every reader that maps weights.
        #[allow(unsafe_code)]
        let map = unsafe { Mmap::map(&file) }.map_err(failed)?;
        Ok(Self { path: path.into(), map })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Tells the kernel that a range will not be needed soon, so that its pages stop counting as this process's memory.
    pub(crate) fn drop_pages(&self, range: Range<usize>) {
        if range.end > self.map.len() || range.is_empty() {
            return;
        }
        // SAFETY: the map is a read-only file mapping without private changes: pages that are dropped come back from
        // the file with the same bytes on the next access.
        #[allow(unsafe_code)]
        let advised = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        // Advice that the kernel does not take costs memory, not correctness.
        drop(advised);
    }
}

/// Parses a JSON file; a missing one is `None`.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, ModelError> {
    let Some(text) = read_small(path)? else { return Ok(None) };
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|error| ModelError::file(path, format!("is not valid JSON: {error}"), ""))
}

/// Reads a small file whole; a missing one is `None`.
pub(crate) fn read_small(path: &Path) -> Result<Option<Vec<u8>>, ModelError> {
    let failed = |error: std::io::Error| ModelError::file(path, format!("cannot be read: {error}"), "");
    let length = match path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
        Ok(metadata) => metadata.len(),
    };
    if length > MAX_JSON_BYTES {
        return Err(ModelError::file(path, format!("has {length} bytes, more than such a file can have"), ""));
    }
    std::fs::read(path).map(Some).map_err(failed)
}
