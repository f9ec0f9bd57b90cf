//! Notes that a node adds to while it works, and that survive a kill: one a line, each behind its digest.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use super::Scratch;
use crate::error::{Error, Result};

/// A file of notes in the scratch folder of a key.
#[derive(Debug)]
pub struct Notebook {
    path: PathBuf,
    file: File,
    found: Vec<String>,
}

impl Scratch {
    /// Opens the notes of a name, or begins them.
    ///
    /// # Errors
    /// They cannot be read or written.
    pub fn notebook(&self, name: &str) -> Result<Notebook> {
        Notebook::open(&self.work_folder()?.join(notes(name)))
    }

    /// Whether notes of a name were begun.
    ///
    /// # Errors
    /// The folder of the work cannot be made.
    pub fn has_notebook(&self, name: &str) -> Result<bool> {
        Ok(self.work_folder()?.join(notes(name)).is_file())
    }
}

fn notes(name: &str) -> String {
    format!("{name}.notes")
}

impl Notebook {
    fn open(path: &Path) -> Result<Self> {
        let fail = |doing: &'static str| move |e: std::io::Error| Error::io(doing, path, &e);
        let bytes = match fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            read => read.map_err(fail("read"))?,
        };
        let (mut found, mut whole) = (Vec::new(), 0);
        for line in bytes.split_inclusive(|&byte| byte == b'\n') {
            let Some(note) = sealed(line) else { break };
            found.push(note);
            whole += line.len() as u64;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail("open"))?;
        // What a kill cut short, and whatever stands behind it.
        file.set_len(whole).map_err(fail("write"))?;
        Ok(Self { path: path.to_owned(), file, found })
    }

    /// The notes that were there, oldest first, up to the first that is not as it was written.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// Adds a note, a text of one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn add(&mut self, note: &str) -> Result<()> {
        let line = format!("{} {note}\n", blake3::hash(note.as_bytes()).to_hex());
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, &e))
    }

    /// Has what was added survive a loss of power too; a kill of the process takes nothing of it anyway.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn make_durable(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// The note of a line that is as it was written.
fn sealed(line: &[u8]) -> Option<String> {
    let (digest, note) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
    (blake3::hash(note.as_bytes()).to_hex().as_str() == digest).then(|| note.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_believed_up_to_the_first_that_was_cut_short() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notes");
        let mut notes = Notebook::open(&path).unwrap();
        assert!(notes.found().is_empty());
        ["one", "two words", "[3]"].iter().for_each(|note| notes.add(note).unwrap());
        let whole = fs::read(&path).unwrap();
        assert_eq!(Notebook::open(&path).unwrap().found(), ["one", "two words", "[3]"]);
        for cut in 1..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let mut notes = Notebook::open(&path).unwrap();
            let kept = whole[..cut].iter().filter(|&&byte| byte == b'\n').count();
            assert_eq!(notes.found(), &["one", "two words", "[3]"][..kept], "{cut}");
            // What is added stands behind what was believed.
            notes.add("next").unwrap();
            assert_eq!(Notebook::open(&path).unwrap().found().last().unwrap(), "next");
        }
        let mut changed = whole.clone();
        changed[70] ^= 1;
        fs::write(&path, changed).unwrap();
        assert!(Notebook::open(&path).unwrap().found().len() < 2);
    }
}
