//! Bytes of tensors that wait to be written: small ones in memory, large ones in a file, so that what a method puts takes no more
//! memory however many blocks the model has.

use std::{
    borrow::Cow,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::error::{Error, Result};

/// Tensors of fewer bytes stay in memory.
const SMALL: usize = 1 << 20;

/// A file for large tensors, in a folder for scratch work; without a folder all stay in memory.
#[derive(Debug, Default)]
pub(in crate::steps) struct Spill {
    folder: Option<PathBuf>,
    file: Option<Arc<File>>,
    end: u64,
}

/// What a tensor consists of.
#[derive(Clone, Debug)]
pub(in crate::steps) enum Bytes {
    Memory(Vec<u8>),
    File { file: Arc<File>, start: u64, length: usize },
}

impl Spill {
    pub(in crate::steps) fn into_folder(folder: PathBuf) -> Self {
        Self { folder: Some(folder), ..Self::default() }
    }

    /// Keeps the bytes of a tensor.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(in crate::steps) fn keep(&mut self, bytes: &[u8]) -> Result<Bytes> {
        let Some(folder) = self.folder.as_ref().filter(|_| bytes.len() >= SMALL) else {
            return Ok(Bytes::Memory(bytes.to_vec()));
        };
        let path = folder.join("put");
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::new(nameless(&path)?),
        };
        file.write_all_at(bytes, self.end).map_err(|e| Error::io("write", &path, &e))?;
        let kept = Bytes::File { file: Arc::clone(&file), start: self.end, length: bytes.len() };
        self.file = Some(file);
        self.end += bytes.len() as u64;
        Ok(kept)
    }
}

/// A file that is gone with its last handle, also if the process is killed.
fn nameless(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let file = file.map_err(|e| Error::io("create", path, &e))?;
    fs::remove_file(path).map_err(|e| Error::io("remove", path, &e))?;
    Ok(file)
}

impl Bytes {
    pub(in crate::steps) fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::File { length, .. } => *length,
        }
    }

    /// All of them.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::steps) fn all(&self) -> std::io::Result<Cow<'_, [u8]>> {
        self.part(0..self.len())
    }

    /// Some of them, which lie within.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::steps) fn part(&self, range: Range<usize>) -> std::io::Result<Cow<'_, [u8]>> {
        match self {
            Self::Memory(bytes) => Ok(Cow::Borrowed(&bytes[range])),
            Self::File { file, start, .. } => {
                let mut bytes = vec![0; range.len()];
                file.read_exact_at(&mut bytes, start + range.start as u64)?;
                Ok(Cow::Owned(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_tensors_lie_in_a_file_without_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let large = |byte: u8| vec![byte; SMALL + usize::from(byte)];
        let mut spill = Spill::into_folder(folder.path().to_owned());
        let kept: Vec<Bytes> =
            [large(1), vec![7; 5], large(2)].iter().map(|bytes| spill.keep(bytes).unwrap()).collect();
        assert!(matches!(kept[1], Bytes::Memory(_)) && matches!(kept[2], Bytes::File { .. }));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        drop(spill);
        assert!(
            kept[0].all().unwrap() == large(1)
                && *kept[1].all().unwrap() == [7; 5]
                && kept[2].all().unwrap() == large(2)
        );
        assert_eq!(kept[2].part(3..6).unwrap(), [2, 2, 2].as_slice());
        assert_eq!(kept[2].len(), SMALL + 2);
        // Without a folder nothing is written.
        assert!(matches!(Spill::default().keep(&large(3)).unwrap(), Bytes::Memory(_)));
    }
}
