//! The ways in which a tensor of the model can be stored, behind one face.

use std::borrow::Cow;
use std::path::Path;

use super::RawTensor;
use rayon::prelude::*;

use super::compressed::CompressedLinear;
use super::dtype::{Dtype, find_non_finite, first_non_finite, widen};
use super::gguf::GgufTensor;
use super::safetensors::StoredTensor;
use super::stacked::{StackedCodes, StackedTensor};
use crate::{
    ModelError,
    source::{no_row, pick},
};

/// How a tensor, known by its dense name, is stored.
pub(crate) enum Stored {
    /// As it is.
    Dense(StoredTensor),
    /// In blocks, or with its rows in another order.
    Gguf(GgufTensor),
    /// As codes and scales.
    Compressed(Box<CompressedLinear>),
    /// In a tensor of all experts.
    Stacked(StackedTensor),
    /// As codes and scales in tensors of all experts.
    StackedCodes(Box<StackedCodes>),
}

impl Stored {
    /// The type in which [`Stored::raw`] gives the tensor.
    pub(crate) fn dtype(&self) -> Dtype {
        match self {
            Self::Dense(tensor) => tensor.dtype,
            Self::Gguf(tensor) => tensor.dense_dtype(),
            Self::Compressed(_) | Self::StackedCodes(_) => Dtype::F32,
            Self::Stacked(tensor) => tensor.tensor.dtype,
        }
    }

    pub(crate) fn shape(&self) -> &[usize] {
        match self {
            Self::Dense(tensor) => &tensor.shape,
            Self::Gguf(tensor) => &tensor.shape,
            Self::Compressed(linear) => linear.shape(),
            Self::Stacked(tensor) => &tensor.shape,
            Self::StackedCodes(linear) => &linear.shape,
        }
    }

    /// Bytes that the tensor takes in its file, scales included.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Dense(tensor) => tensor.range.len(),
            Self::Gguf(tensor) => tensor.range.len(),
            Self::Compressed(linear) => linear.parts().map(|part| part.range.len()).sum(),
            Self::Stacked(tensor) => tensor.size(),
            Self::StackedCodes(linear) => linear.size(),
        }
    }

    pub(crate) fn drop_pages(&self) {
        match self {
            Self::Dense(tensor) => tensor.file.drop_pages(tensor.range.clone()),
            Self::Gguf(tensor) => tensor.file.drop_pages(tensor.range.clone()),
            Self::Compressed(linear) => linear.parts().for_each(|part| part.file.drop_pages(part.range.clone())),
            Self::Stacked(tensor) => tensor.drop_pages(),
            Self::StackedCodes(linear) => linear.drop_pages(),
        }
    }

    /// The dense bytes; `name` is for messages.
    pub(crate) fn raw(&self, name: &str) -> Result<RawTensor<'_>, ModelError> {
        let bytes = match self {
            Self::Dense(tensor) => Cow::Borrowed(tensor.bytes()),
            Self::Gguf(tensor) => Cow::Owned(tensor.dense_bytes().map_err(|bad| self.not_finite(name, bad))?),
            Self::Stacked(tensor) => Cow::Owned(tensor.dense_bytes()),
            Self::Compressed(_) | Self::StackedCodes(_) => {
                Cow::Owned(self.values(name)?.into_iter().flat_map(f32::to_le_bytes).collect())
            }
        };
        Ok(RawTensor { dtype: self.dtype(), shape: self.shape(), bytes })
    }

    /// The dense values in f32. NaN and infinities are refused here, where the tensor can still be named.
    pub(crate) fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self {
            Self::Dense(tensor) => {
                let mut values = vec![0.0; tensor.elements()];
                match widen(tensor.dtype, tensor.bytes(), &mut values) {
                    None => Ok(values),
                    Some(index) => Err(self.not_finite(name, (index, values[index]))),
                }
            }
            Self::Gguf(tensor) => tensor.values().map_err(|bad| self.not_finite(name, bad)),
            Self::Stacked(tensor) => tensor.values().map_err(|bad| self.not_finite(name, bad)),
            Self::Compressed(linear) => self.finite(name, linear.values()?),
            Self::StackedCodes(linear) => self.finite(name, linear.values()?),
        }
    }

    fn finite(&self, name: &str, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        match first_non_finite(&values) {
            None => Ok(values),
            Some(index) => Err(self.not_finite(name, (index, values[index]))),
        }
    }

    /// Some rows of a matrix, in f32.
    pub(crate) fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let columns = self.shape().last().copied().unwrap_or(1);
        let Self::Dense(tensor) = self else { return pick(name, &self.values(name)?, columns, rows) };
        let size = tensor.dtype.size() * columns;
        let read = |(slot, row): (&mut [f32], &u32)| {
            let start = *row as usize * size;
            let Some(bytes) = tensor.bytes().get(start..start + size) else { return Some(no_row(name, *row)) };
            let column = widen(tensor.dtype, bytes, slot)?;
            Some(self.not_finite(name, (*row as usize * columns + column, slot[column])))
        };
        let mut found = vec![0.0; rows.len() * columns];
        match found.par_chunks_exact_mut(columns.max(1)).zip(rows).find_map_first(read) {
            None => Ok(found),
            Some(error) => Err(error),
        }
    }

    /// Reads the tensor once and makes sure that its values are finite.
    pub(crate) fn check_finite(&self, name: &str) -> Result<(), ModelError> {
        match self {
            Self::Dense(tensor) => match find_non_finite(tensor.dtype, tensor.bytes()) {
                None => Ok(()),
                Some(bad) => Err(self.not_finite(name, bad)),
            },
            _ => self.values(name).map(drop),
        }
    }

    fn file(&self) -> &Path {
        match self {
            Self::Dense(tensor) => tensor.file.path(),
            Self::Gguf(tensor) => tensor.file.path(),
            Self::Compressed(linear) => linear.weight.file.path(),
            Self::Stacked(tensor) => tensor.tensor.file.path(),
            Self::StackedCodes(linear) => linear.blocks.file.path(),
        }
    }

    fn not_finite(&self, name: &str, (index, value): (usize, f32)) -> ModelError {
        let shape = self.shape();
        let mut position = vec![0; shape.len()];
        let mut rest = index;
        for (coordinate, dim) in position.iter_mut().zip(shape).rev() {
            (*coordinate, rest) = (rest % dim, rest / dim);
        }
        let message = format!("holds {value} at {position:?}");
        ModelError::tensor(self.file(), name, message, "the weights are damaged; fetch them again")
    }
}
