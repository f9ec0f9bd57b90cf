//! Bytes of tensors that wait to be written: small ones in memory, large ones in a file, so that what a method puts takes no more
//! memory however many blocks the model has.

use std::{
    borrow::Cow,
    fs::{self, File},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use workbench_model::{
    checkpoint::{Dtype, narrow_piece, widen_piece},
    matmul::by_pieces,
};

use crate::error::{Error, Result};

/// Tensors of fewer bytes stay in memory.
const SMALL: usize = 1 << 16;

/// Elements of a file that one thread reads at once.
const PIECE: usize = 1 << 16;

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

    /// All of them as elements of a dtype, in f32.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::steps) fn values(&self, dtype: Dtype) -> std::io::Result<Vec<f32>> {
        self.each_piece(dtype, 1, |bytes, values| widen_piece(dtype, bytes, values))
    }

    /// All of them as elements of a dtype, rounded to another.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(in crate::steps) fn rounded(&self, dtype: Dtype, to: Dtype) -> std::io::Result<Vec<u8>> {
        self.each_piece(dtype, to.size(), |bytes, rounded| {
            let mut values = vec![0.0; rounded.len() / to.size()];
            widen_piece(dtype, bytes, &mut values);
            narrow_piece(&values, to, rounded);
        })
    }

    /// What becomes of the elements piece by piece, which all threads read: so many of something for each.
    fn each_piece<T: Copy + Default + Send + Sync>(
        &self,
        dtype: Dtype,
        each: usize,
        convert: impl Fn(&[u8], &mut [T]) + Sync,
    ) -> std::io::Result<Vec<T>> {
        let failed = Mutex::new(None);
        let made = by_pieces(self.len() / dtype.size() * each, PIECE * each, |piece, out| {
            let start = piece * PIECE * dtype.size();
            match self.part(start..start + out.len() / each * dtype.size()) {
                Ok(bytes) => convert(&bytes, out),
                Err(error) => *failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error),
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(made), Err)
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
    use workbench_model::checkpoint::{narrow, widened};

    use super::*;

    #[test]
    fn values_of_a_file_are_those_of_memory() {
        let folder = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..5 * PIECE as u32 + 5).flat_map(|i| (i as f32 * 0.5).to_le_bytes()).collect();
        let mut spill = Spill::into_folder(folder.path().to_owned());
        spill.keep(&vec![9; SMALL]).unwrap();
        let kept = spill.keep(&bytes).unwrap();
        assert!(matches!(kept, Bytes::File { .. }));
        for dtype in [Dtype::F32, Dtype::BF16] {
            let values = widened(&bytes, dtype);
            let memory = Bytes::Memory(bytes.clone());
            // Some halves of these numbers are no numbers by themselves.
            let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
            for kept in [&kept, &memory] {
                assert!(bits(&kept.values(dtype).unwrap()) == bits(&values));
            }
            for to in [Dtype::F16, Dtype::BF16, Dtype::F32] {
                assert_eq!(kept.rounded(dtype, to).unwrap(), narrow(&values, to));
                assert_eq!(memory.rounded(dtype, to).unwrap(), narrow(&values, to));
            }
        }
        let Bytes::File { file, start, .. } = kept else { unreachable!() };
        let beyond = Bytes::File { file, start, length: bytes.len() + 4 };
        assert!(beyond.values(Dtype::F32).is_err() && beyond.rounded(Dtype::F32, Dtype::F16).is_err());
    }

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
        for (kept, put) in kept.iter().zip([large(1), vec![7; 5], large(2)]) {
            assert_eq!(*kept.all().unwrap(), put);
        }
        assert_eq!(kept[2].part(3..6).unwrap(), [2, 2, 2].as_slice());
        assert_eq!(kept[2].len(), SMALL + 2);
        // Without a folder nothing is written.
        assert!(matches!(Spill::default().keep(&large(3)).unwrap(), Bytes::Memory(_)));
    }
}
