//! Writing files so that a reader never sees half of one, with errors that name the path.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use serde::Serialize;

use crate::error::{Error, Result};

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Writes a file through a sibling and a rename; folders are made as needed and the bytes are on disk when it returns.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let folder = path.parent().ok_or_else(|| Error::internal(format!("`{}` has no folder", path.display())))?;
    make_folder(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let sibling = folder.join(format!(".{name}.{}.{serial}", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&sibling)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&sibling, path)
    };
    write().map_err(|error| {
        let _ = fs::remove_file(&sibling);
        Error::io("write", path, &error)
    })
}

/// Writes a value as indented JSON with a final newline, atomically.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).map_err(|e| Error::internal(e.to_string()))?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

/// Makes a folder and those above it.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|e| Error::io("create the folder", path, &e))
}

/// The paths in a folder, sorted; a folder that is not there has none.
pub(super) fn entries(path: &Path) -> Result<Vec<PathBuf>> {
    let reader = match fs::read_dir(path) {
        Ok(reader) => reader,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Error::io("list", path, &e)),
    };
    let mut found = Vec::new();
    for entry in reader {
        found.push(entry.map_err(|e| Error::io("list", path, &e))?.path());
    }
    found.sort();
    Ok(found)
}

/// Bytes of a file, or of everything in a folder; files that vanish meanwhile count as nothing.
pub(super) fn size(path: &Path) -> u64 {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => entries(path).unwrap_or_default().iter().map(|p| size(p)).sum(),
        Ok(meta) => meta.len(),
        Err(_) => 0,
    }
}

/// Makes the entries of a folder durable.
pub(super) fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", path, &e))
}
