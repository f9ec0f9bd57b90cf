//! Activations of a calibration set, kept between two pieces of a decoder.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::ModelError;
use crate::checkpoint::dtype::{Dtype, narrow_into, widened};
use crate::decoder::ops::View;
use crate::device::HOST;
use candle_core::Tensor;
use workbench_matmul::Precision;

/// Bytes of a number.
fn size(precision: Precision) -> usize {
    match precision {
        Precision::F32 => 4,
        Precision::Bf16 => 2,
    }
}

/// Activations `[batch, len, width]` of batches of sequences, in memory or in a file.
#[derive(Debug)]
pub struct Activations {
    precision: Precision,
    width: usize,
    shapes: Vec<[usize; 2]>,
    /// Token at which each batch begins, and the end of the last.
    starts: Vec<usize>,
    backing: Backing,
}

#[derive(Debug)]
enum Backing {
    Memory(Vec<u8>),
    File(File),
}

impl Activations {
    /// Room for activations of at most `width` features of batches of the given sizes `[batch, len]`.
    pub fn in_memory(shapes: &[[usize; 2]], width: usize, precision: Precision) -> Self {
        let bytes = tokens(shapes) * width * size(precision);
        Self::new(shapes, width, precision, Backing::Memory(vec![0; bytes]))
    }

    /// The same in a file, which is made anew.
    ///
    /// # Errors
    /// The file cannot be made or is too large for its disk.
    pub fn in_file(path: &Path, shapes: &[[usize; 2]], width: usize, precision: Precision) -> Result<Self, ModelError> {
        let bytes = tokens(shapes) * width * size(precision);
        let make = || -> std::io::Result<File> {
            let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
            file.set_len(bytes as u64)?;
            Ok(file)
        };
        Ok(Self::new(shapes, width, precision, Backing::File(make().map_err(|e| failed(path, &e))?)))
    }

    fn new(shapes: &[[usize; 2]], width: usize, precision: Precision, backing: Backing) -> Self {
        let mut starts = vec![0];
        starts.extend(shapes.iter().scan(0, |sum, [batch, len]| {
            *sum += batch * len;
            Some(*sum)
        }));
        Self { precision, width, shapes: shapes.to_vec(), starts, backing }
    }

    /// Takes activations of another width, no larger than the first one, from here on.
    pub fn set_width(&mut self, width: usize) {
        self.width = width;
    }

    /// How many batches there are.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sequences of a batch, and the tokens of each.
    pub fn shape(&self, index: usize) -> [usize; 2] {
        self.shapes[index]
    }

    fn range(&self, index: usize) -> std::ops::Range<usize> {
        let at = |token: usize| token * self.width * size(self.precision);
        at(self.starts[index])..at(self.starts[index + 1])
    }

    /// The activation of a batch, `[batch, len, width]` in f32.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn get(&self, index: usize) -> Result<Tensor, ModelError> {
        let range = self.range(index);
        let values = match &self.backing {
            Backing::Memory(bytes) => widened(&bytes[range], dtype(self.precision)),
            Backing::File(file) => {
                let mut bytes = vec![0; range.len()];
                file.read_exact_at(&mut bytes, range.start as u64).map_err(|e| spill("read", &e))?;
                widened(&bytes, dtype(self.precision))
            }
        };
        let [batch, len] = self.shapes[index];
        Ok(Tensor::from_vec(values, (batch, len, self.width), &HOST)?)
    }

    /// Keeps the activation of a batch, and returns it as it is kept.
    ///
    /// # Errors
    /// The shape is not `[batch, len, width]`; the file cannot be written.
    pub fn set(&mut self, index: usize, x: &Tensor) -> Result<Tensor, ModelError> {
        let ([batch, len], width) = (self.shapes[index], self.width);
        if x.dims() != [batch, len, width] {
            let message = format!("an activation of shape {:?} where [{batch}, {len}, {width}] is kept", x.dims());
            return Err(candle_core::Error::Msg(message).into());
        }
        let x = x.to_device(&HOST)?.contiguous()?;
        let view = View::new(&x)?;
        let (values, range) = (view.values(), self.range(index));
        match &mut self.backing {
            Backing::Memory(bytes) => narrow_into(values, dtype(self.precision), &mut bytes[range]),
            Backing::File(file) => {
                let mut bytes = vec![0; range.len()];
                narrow_into(values, dtype(self.precision), &mut bytes);
                file.write_all_at(&bytes, range.start as u64).map_err(|e| spill("written", &e))?;
            }
        }
        drop(view);
        if self.precision == Precision::F32 { Ok(x) } else { self.get(index) }
    }

    /// Writes everything to a file and returns its digest.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<String, ModelError> {
        let mut file = File::create(path).map_err(|e| failed(path, &e))?;
        let mut hasher = blake3::Hasher::new();
        for index in 0..self.len() {
            let range = self.range(index);
            let mut copy = Vec::new();
            let bytes = match &self.backing {
                Backing::Memory(bytes) => &bytes[range],
                Backing::File(file) => {
                    copy.resize(range.len(), 0);
                    file.read_exact_at(&mut copy, range.start as u64).map_err(|e| spill("read", &e))?;
                    &copy
                }
            };
            hasher.update(bytes);
            file.write_all(bytes).map_err(|e| failed(path, &e))?;
        }
        Ok(hasher.finalize().to_hex().to_string())
    }

    /// Reads what [`save`](Self::save) wrote; false if the file holds something else, and then nothing here means anything.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn load(&mut self, path: &Path, digest: &str) -> Result<bool, ModelError> {
        let mut file = File::open(path).map_err(|e| failed(path, &e))?;
        let mut hasher = blake3::Hasher::new();
        for index in 0..self.len() {
            let range = self.range(index);
            let mut bytes = vec![0; range.len()];
            match file.read_exact(&mut bytes) {
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(false),
                other => other.map_err(|e| failed(path, &e))?,
            }
            hasher.update(&bytes);
            match &mut self.backing {
                Backing::Memory(all) => all[range].copy_from_slice(&bytes),
                Backing::File(file) => {
                    file.write_all_at(&bytes, range.start as u64).map_err(|e| spill("written", &e))?;
                }
            }
        }
        Ok(hasher.finalize().to_hex().as_str() == digest)
    }
}

/// Lends the values of an activation in f32, without a copy where they lie one after the other in the memory of the program.
///
/// # Errors
/// It is of another dtype.
pub fn with_values<T>(x: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T, ModelError> {
    let x = x.to_device(&HOST)?.contiguous()?;
    let view = View::new(&x)?;
    Ok(read(view.values()))
}

fn tokens(shapes: &[[usize; 2]]) -> usize {
    shapes.iter().map(|[batch, len]| batch * len).sum()
}

fn failed(path: &Path, error: &std::io::Error) -> ModelError {
    ModelError::file(path, format!("cannot hold activations: {error}"), "is there room on this disk?")
}

fn spill(what: &str, error: &std::io::Error) -> ModelError {
    candle_core::Error::Msg(format!("spilled activations cannot be {what}: {error}")).into()
}

fn dtype(precision: Precision) -> Dtype {
    match precision {
        Precision::F32 => Dtype::F32,
        Precision::Bf16 => Dtype::BF16,
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    fn tensor([batch, len]: [usize; 2], width: usize) -> Tensor {
        let values: Vec<f32> = (0..batch * len * width).map(|i| ((i + len) as f32).sin()).collect();
        Tensor::from_vec(values, (batch, len, width), &HOST).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn what_was_kept_is_found_again() {
        let folder = tempfile::tempdir().unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            let lens = [[1, 3], [4, 1], [2, 5]];
            let memory = Activations::in_memory(&lens, 8, precision);
            let file = Activations::in_file(&folder.path().join("spilled"), &lens, 8, precision).unwrap();
            for mut kept in [memory, file] {
                // A narrower activation fits the same room.
                kept.set_width(6);
                let given: Vec<Tensor> = lens.iter().map(|shape| tensor(*shape, 6)).collect();
                for (index, x) in given.iter().enumerate() {
                    let returned = kept.set(index, x).unwrap();
                    assert_eq!(values(&returned), values(&kept.get(index).unwrap()));
                }
                for (index, x) in given.iter().enumerate() {
                    let found = values(&kept.get(index).unwrap());
                    let expected = values(x).into_iter().map(|v| match precision {
                        Precision::F32 => v,
                        Precision::Bf16 => bf16::from_f32(v).to_f32(),
                    });
                    assert_eq!(found, expected.collect::<Vec<_>>());
                }
                let path = folder.path().join("saved");
                let digest = kept.save(&path).unwrap();
                let mut loaded = Activations::in_memory(&lens, 6, precision);
                assert!(loaded.load(&path, &digest).unwrap());
                assert_eq!(values(&loaded.get(2).unwrap()), values(&kept.get(2).unwrap()));
                // A file that was cut short, or holds something else, is noticed.
                std::fs::write(&path, [1, 2, 3]).unwrap();
                assert!(!loaded.load(&path, &digest).unwrap());
                assert!(kept.set(0, &tensor([1, 3], 8)).is_err());
            }
        }
    }
}
