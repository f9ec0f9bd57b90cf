//! Taking things away: out of sight by one rename, then file by file. A kill in between leaves nothing that could be taken
//! for something whole.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use super::files::{entries, sync_folder};
use crate::error::{Error, Result};

/// What the names of things begin with that are being removed.
const HIDDEN: &str = ".discarded-";

static SERIAL: AtomicU64 = AtomicU64::new(0);

/// Renames something, beside where it lies, to a name that nobody looks for; returns where it is now.
pub(super) fn hide(path: &Path) -> Result<PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let hidden = path.with_file_name(format!("{HIDDEN}{name}-{}-{serial}", std::process::id()));
    fs::rename(path, &hidden).map_err(|e| Error::io("rename", path, &e))?;
    if let Some(folder) = path.parent() {
        sync_folder(folder)?;
    }
    Ok(hidden)
}

/// Whether this is what an earlier removal left that was cut short.
pub(super) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(HIDDEN))
}

/// Removes a file, or a folder with all that is in it, and returns how many bytes of the disk that set free: those of files
/// whose last link it was.
pub(super) fn remove_counting(path: &Path) -> Result<u64> {
    let fail = |e: std::io::Error| Error::io("remove", path, &e);
    let meta = match fs::symlink_metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        found => found.map_err(fail)?,
    };
    if !meta.is_dir() {
        fs::remove_file(path).map_err(fail)?;
        return Ok(if meta.nlink() == 1 { meta.len() } else { 0 });
    }
    let mut freed = 0;
    for inside in entries(path)? {
        freed += remove_counting(&inside)?;
    }
    fs::remove_dir(path).map_err(fail)?;
    Ok(freed)
}

/// Removes a file or folder if it is there.
pub(super) fn remove(path: &Path) -> Result<()> {
    remove_counting(path).map(drop)
}
