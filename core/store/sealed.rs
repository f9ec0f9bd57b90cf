//! Text that is only believed when it is whole: its digest stands in the first line.

use std::{fs, path::Path, sync::Once};

use super::write_atomic;
use crate::error::{Error, Result};

/// Reads what [`write_sealed`] wrote. What is missing, changed or of another kind is not there: such files only save time.
pub fn read_sealed(path: &Path) -> Option<String> {
    let mut text = fs::read_to_string(path).ok()?;
    let (digest, rest) = text.split_once('\n')?;
    if blake3::hash(rest.as_bytes()).to_hex().as_str() != digest {
        return None;
    }
    text.drain(..=digest.len());
    Some(text)
}

/// Writes a text behind its digest, atomically.
///
/// # Errors
/// The file cannot be written.
pub fn write_sealed(path: &Path, text: &str) -> Result<()> {
    let digest = blake3::hash(text.as_bytes()).to_hex();
    write_atomic(path, format!("{digest}\n{text}").as_bytes())
}

/// Writes a text as [`write_sealed`] does, into a file that only saves time: where that fails, it costs a warning.
pub fn write_cache(path: &Path, text: &str) {
    if let Err(error) = write_sealed(path, text) {
        warn_once(&error);
    }
}

/// Says of the first file that cannot be written which only saves time what that means. The others have the same reason.
pub(super) fn warn_once(error: &Error) {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!("{error}: what it would remember is found out anew every time");
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_digit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("memory");
        assert_eq!(read_sealed(&path), None);
        write_sealed(&path, "one\ntwo 12\n").unwrap();
        assert_eq!(read_sealed(&path).as_deref(), Some("one\ntwo 12\n"));
        let whole = fs::read_to_string(&path).unwrap();
        for broken in
            [whole.replace("12", "13"), whole[1..].to_owned(), whole[..whole.len() - 1].to_owned(), String::new()]
        {
            fs::write(&path, broken).unwrap();
            assert_eq!(read_sealed(&path), None);
        }
    }
}
