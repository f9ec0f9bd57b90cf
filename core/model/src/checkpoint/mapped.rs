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
        regular_file(path).map_err(failed)?;
        let file = File::open(path).map_err(failed)?;
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

/// Refuses what is no file though it has a name: opening a named pipe waits for a writer, and reading a device may never end.
///
/// # Errors
/// The path cannot be looked up, or is a folder, a pipe, a device or a socket.
pub fn regular_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let kind = path.metadata()?.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a named pipe",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, format!("it is {what}, not a file")))
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
    regular_file(path).map_err(failed)?;
    if length > MAX_JSON_BYTES {
        return Err(ModelError::file(path, format!("has {length} bytes, more than such a file can have"), ""));
    }
    std::fs::read(path).map(Some).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let (fifo, socket) = (dir.path().join("fifo"), dir.path().join("socket"));
        let made = std::process::Command::new("mkfifo").arg(&fifo).status();
        assert!(made.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        for (path, what) in [
            (fifo.as_path(), "a named pipe"),
            (&link, "a named pipe"),
            (&socket, "a socket"),
            (dir.path(), "a folder"),
            (Path::new("/dev/zero"), "a device"),
        ] {
            let expected = format!("it is {what}, not a file");
            for message in [
                regular_file(path).unwrap_err().to_string(),
                MappedFile::open(path).map(drop).unwrap_err().to_string(),
                read_small(path).unwrap_err().to_string(),
            ] {
                assert!(message.contains(&expected), "{}: {message}", path.display());
            }
        }
        assert!(read_small(&dir.path().join("missing")).unwrap().is_none());
    }
}
