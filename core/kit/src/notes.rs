//! Notes from which an interrupted plugin goes on.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use workbench_api::sdk::Error;

/// Writes a note behind its digest; the file appears at once and whole.
///
/// # Errors
/// The file cannot be written.
pub fn write_note(path: &Path, note: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_string(note)?;
    let unfinished = path.with_extension("unfinished");
    let mut file = File::create(&unfinished)?;
    write!(file, "{}\n{text}", blake3::hash(text.as_bytes()).to_hex())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(())
}

/// Reads a note. One that is missing, changed or of another kind says nothing: its work is done again.
pub fn read_note<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let text = fs::read_to_string(path).ok()?;
    let (digest, note) = text.split_once('\n')?;
    (blake3::hash(note.as_bytes()).to_hex().as_str() == digest).then(|| serde_json::from_str(note).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_that_was_changed_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("note");
        assert_eq!(read_note::<Vec<f64>>(&path), None);
        let note = vec![0.1, 1.0 / 3.0, f64::MIN_POSITIVE];
        write_note(&path, &note).unwrap();
        assert_eq!(read_note(&path), Some(note));
        assert_eq!(read_note::<String>(&path), None);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("0.1", "0.2")).unwrap();
        assert_eq!(read_note::<Vec<f64>>(&path), None);
    }
}
