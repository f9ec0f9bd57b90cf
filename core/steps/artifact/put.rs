//! What a method made of a model, before it is written: the tensors and codes that take the place of the model's own.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;
use workbench_model::{
    ModelError, WeightSource,
    checkpoint::{Dtype, widened},
    source::no_row,
};
use workbench_quant::{GridError, QuantizedWeight};

use super::spill::{Bytes, Spill};
use crate::error;

/// A dense tensor as it will be written.
#[derive(Clone, Debug)]
pub(in crate::steps) struct DenseTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Row by row, little-endian.
    pub bytes: Bytes,
}

impl DenseTensor {
    /// Its values in f32.
    ///
    /// # Errors
    /// It lies in a file that cannot be read.
    pub(in crate::steps) fn values(&self) -> Result<Vec<f32>, ModelError> {
        self.bytes.values(self.dtype).map_err(spilled)
    }

    /// Its bytes in another dtype.
    ///
    /// # Errors
    /// It lies in a file that cannot be read.
    pub(in crate::steps) fn rounded(&self, dtype: Dtype) -> Result<Vec<u8>, ModelError> {
        self.bytes.rounded(self.dtype, dtype).map_err(spilled)
    }
}

/// What was put.
#[derive(Debug, Default)]
pub(in crate::steps) struct Put {
    pub spill: Spill,
    pub tensors: BTreeMap<String, DenseTensor>,
    /// Quantized weights by module.
    pub weights: BTreeMap<String, QuantizedWeight>,
    /// Changes of config.json.
    pub config_patch: Value,
    /// The last value of each metric, with its step.
    pub metrics: BTreeMap<String, (u64, f64)>,
}

impl Put {
    /// Nothing yet; large tensors will lie in a file of this folder.
    pub(in crate::steps) fn into_folder(folder: PathBuf) -> Self {
        Self { spill: Spill::into_folder(folder), ..Self::default() }
    }

    /// Puts a dense tensor.
    ///
    /// # Errors
    /// The file for large ones cannot be written.
    pub(in crate::steps) fn dense(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        bytes: &[u8],
    ) -> error::Result<()> {
        let tensor = DenseTensor { dtype, shape: shape.to_vec(), bytes: self.spill.keep(bytes)? };
        self.tensors.insert(name.to_owned(), tensor);
        Ok(())
    }

    /// The first tensor that was put and that `wanted` does not know, by the name of a dense one.
    pub(in crate::steps) fn stray(&self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let weights = self.weights.keys().map(|module| format!("{module}.weight"));
        self.tensors.keys().cloned().chain(weights).find(|name| !wanted(name))
    }

    /// The model with what was put in the place of its own.
    pub(in crate::steps) fn over<'a>(&'a self, model: &'a dyn WeightSource) -> impl WeightSource + 'a {
        Overlay { model, put: self }
    }

    fn weight(&self, name: &str) -> Option<&QuantizedWeight> {
        name.strip_suffix(".weight").and_then(|module| self.weights.get(module))
    }
}

struct Overlay<'a> {
    model: &'a dyn WeightSource,
    put: &'a Put,
}

impl WeightSource for Overlay<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let put = self.put.tensors.get(name).map(|tensor| tensor.shape.clone());
        put.or_else(|| self.put.weight(name).map(|weight| weight.shape.to_vec())).or_else(|| self.model.shape(name))
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match (self.put.tensors.get(name), self.put.weight(name)) {
            (Some(tensor), _) => tensor.values(),
            (None, Some(weight)) => weight.dequantize().map_err(|error| unreadable(name, &error)),
            (None, None) => self.model.values(name),
        }
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        match (self.put.tensors.get(name), self.put.weight(name)) {
            (Some(DenseTensor { dtype, shape, bytes }), _) => {
                let (size, mut found) = (dtype.size() * shape.last().copied().unwrap_or(1), Vec::new());
                for row in rows {
                    let start = *row as usize * size;
                    if start + size > bytes.len() {
                        return Err(no_row(name, *row));
                    }
                    found.extend_from_slice(&bytes.part(start..start + size).map_err(spilled)?);
                }
                Ok(widened(&found, *dtype))
            }
            (None, Some(weight)) => {
                let mut found = Vec::new();
                for row in rows {
                    let values = weight.dequantize_rows(*row as usize, 1).map_err(|error| unreadable(name, &error))?;
                    found.extend(values);
                }
                Ok(found)
            }
            (None, None) => self.model.rows(name, rows),
        }
    }

    fn stored_bf16(&self, name: &str) -> Result<Option<&[[u8; 2]]>, ModelError> {
        match self.put.tensors.contains_key(name) || self.put.weight(name).is_some() {
            true => Ok(None),
            false => self.model.stored_bf16(name),
        }
    }

    fn release_block(&self, index: usize) {
        self.model.release_block(index);
    }

    fn has_rows(&self, name: &str) -> bool {
        self.put.tensors.contains_key(name) || self.put.weight(name).is_some() || self.model.has_rows(name)
    }
}

fn spilled(error: std::io::Error) -> ModelError {
    candle_core::Error::Msg(format!("a tensor that was put cannot be read again: {error}")).into()
}

fn unreadable(name: &str, error: &GridError) -> ModelError {
    candle_core::Error::Msg(format!("codes of `{name}`: {error}")).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use workbench_model::Checkpoint;
    use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, StorageDtype, Strategy};

    use super::*;

    #[test]
    fn what_was_put_stands_in_for_the_models_own() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model");
        let model = Checkpoint::open(&demo).unwrap();
        let (norm, module, other) = ("model.norm.weight", "model.layers.0.mlp.down_proj", "model.embed_tokens.weight");
        let weight_name = format!("{module}.weight");
        let shape = model.shape(&weight_name).unwrap();
        let values = model.values(&weight_name).unwrap();
        let args = QuantizationArgs { num_bits: 3, strategy: Strategy::Channel, ..Default::default() };
        let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
        let matrix = Matrix::new(&values, shape[0], shape[1]).unwrap();
        let weight = QuantizedWeight::round_to_nearest(matrix, &grid).unwrap();
        let expected = weight.dequantize().unwrap();
        let size = model.shape(norm).unwrap()[0];
        let bytes = [0, 0, 64, 63].repeat(size);
        let mut put = Put::default();
        put.weights.insert(module.to_owned(), weight);
        put.dense(norm, Dtype::F32, &[size], &bytes).unwrap();
        assert_eq!(put.stray(|name| name == norm), Some(weight_name.clone()));
        assert_eq!(put.stray(|_| true), None);

        let over = put.over(&model);
        assert_eq!(over.values(norm).unwrap(), vec![0.75; size]);
        assert!(over.values(&weight_name).unwrap() == expected && expected != values);
        let rows = [5, 0, 5].map(|row| &expected[row * shape[1]..(row + 1) * shape[1]]).concat();
        assert_eq!(over.rows(&weight_name, &[5, 0, 5]).unwrap(), rows);
        assert!(over.rows(&weight_name, &[shape[0] as u32]).is_err());
        assert_eq!(over.rows(other, &[3]).unwrap(), model.rows(other, &[3]).unwrap());
        assert!(over.stored_bf16(norm).unwrap().is_none() && over.stored_bf16(&weight_name).unwrap().is_none());
        assert_eq!(over.stored_bf16(other).unwrap(), model.stored_bf16(other).unwrap());
        assert_eq!((over.shape(&weight_name), over.shape("nothing")), (Some(shape), None));
    }
}
