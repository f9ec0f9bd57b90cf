//! GGUF files, read as the Hugging Face model they were made from.

mod blocks;
mod config;
mod header;
mod k_blocks;
mod metadata;
mod parts;
pub(crate) mod vocabulary;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use rayon::prelude::*;
use serde_json::Value;

pub(crate) use self::blocks::BlockType;
pub(crate) use self::header::Meta;
use self::header::TensorInfo;
use self::parts::{Placed, Whole};
use super::dtype::{Dtype, first_non_finite};
use super::mapped::MappedFile;
use super::safetensors::StoredTensor;
use super::stored::Stored;
use crate::arch::gguf::GgufSpec;
use crate::{ModelConfig, ModelError, arch};

/// A tensor that has to be rewritten to be dense: blocks are dequantized, the rows of q and k put back in order.
pub(crate) struct GgufTensor {
    pub(crate) file: Arc<MappedFile>,
    pub(crate) kind: BlockType,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: std::ops::Range<usize>,
    /// The heads within which rows are interleaved: llama.cpp rotates neighbouring pairs where Hugging Face rotates the halves of
    /// a head, so for some families its converter interleaves the two halves of every head of q and k.
    interleaved_heads: Option<usize>,
}

/// What a GGUF file holds, or all parts of one.
pub(crate) struct GgufModel {
    pub(crate) config: ModelConfig,
    pub(crate) config_json: Value,
    pub(crate) tensors: BTreeMap<String, Stored>,
    pub(crate) metadata: BTreeMap<String, Meta>,
    pub(crate) files: Vec<Arc<MappedFile>>,
}

/// Whether a mapped file says that it is GGUF.
pub(crate) fn is_gguf(bytes: &[u8]) -> bool {
    bytes.starts_with(b"GGUF")
}

/// Reads header and configuration and matches every tensor with its Hugging Face name. A model that is split over several
/// files is read from all of them, whichever is given.
pub(crate) fn open(file: &Arc<MappedFile>) -> Result<GgufModel, ModelError> {
    let whole = parts::open(file)?;
    let path = whole.files.first().unwrap_or(file).path().to_path_buf();
    let mut config_json = config::config_json(&whole, &path)?;
    if let Some(scaling) = rope_scaling(&whole, &config_json)? {
        config_json["rope_scaling"] = scaling;
    }
    let config = ModelConfig::from_json(&config_json, &path)?;
    let tensors = match_tensors(&config, whole.tensors, &path)?;
    Ok(GgufModel { config, config_json, tensors, metadata: whole.metadata, files: whole.files })
}

/// The scaling that a file with a tensor of rotary factors means.
fn rope_scaling(whole: &Whole, config: &Value) -> Result<Option<Value>, ModelError> {
    let Some(Placed { file, info }) = whole.tensors.get(config::ROPE_FACTORS) else { return Ok(None) };
    let mut factors = vec![0.0; info.shape.iter().product()];
    info.kind.dequantize(&file.bytes()[info.range.clone()], &mut factors);
    if config["head_dim"].as_u64() != Some(2 * factors.len() as u64) {
        let message = format!("has {} factors for heads of {} dimensions", factors.len(), config["head_dim"]);
        return Err(ModelError::tensor(file.path(), &info.name, message, ""));
    }
    let theta = config["rope_theta"].as_f64().unwrap_or(10_000.0);
    config::llama3_scaling(&factors, theta).map(Some).ok_or_else(|| {
        let hint = "only the scalings of Llama 3.1 and 3.2 are recognised; use the model's safetensors folder";
        ModelError::tensor(file.path(), &info.name, "holds rotary factors of an unknown scaling", hint)
    })
}

fn match_tensors(
    config: &ModelConfig,
    mut placed: BTreeMap<String, Placed>,
    path: &Path,
) -> Result<BTreeMap<String, Stored>, ModelError> {
    let mut tensors = BTreeMap::new();
    for GgufSpec { spec, name, interleaved_heads: heads } in arch::gguf::tensors(config) {
        let Placed { file, info } = placed.remove(&name).ok_or_else(|| {
            let hint = format!("the metadata describes a model of {} layers", config.num_layers);
            ModelError::tensor(path, &name, "is missing", hint)
        })?;
        if info.shape != spec.shape {
            let message = format!("has shape {:?}, the metadata calls for {:?}", info.shape, spec.shape);
            return Err(ModelError::tensor(file.path(), &name, message, "metadata and tensors contradict each other"));
        }
        if heads.is_some() && info.shape.len() == 1 && info.kind.elements() > 1 {
            let message = format!("is a bias of type {}, expected F32, F16 or BF16", info.kind.name());
            return Err(ModelError::tensor(file.path(), &name, message, ""));
        }
        tensors.insert(spec.name, stored(info, heads, &file));
    }
    match placed.into_iter().find(|(name, _)| name != config::ROPE_FACTORS) {
        None => Ok(tensors),
        Some((name, Placed { file, .. })) => {
            let message =
                format!("belongs to no part of a {} of {} layers", config.architecture.model_type(), config.num_layers);
            Err(ModelError::tensor(file.path(), name, message, ""))
        }
    }
}

/// Tensors that need no rewriting are ordinary dense ones.
fn stored(info: TensorInfo, interleaved_heads: Option<usize>, file: &Arc<MappedFile>) -> Stored {
    let dtype = match info.kind {
        BlockType::F32 => Some(Dtype::F32),
        BlockType::F16 => Some(Dtype::F16),
        BlockType::Bf16 => Some(Dtype::BF16),
        _ => None,
    };
    let (file, shape, range) = (file.clone(), info.shape, info.range);
    match dtype {
        Some(dtype) if interleaved_heads.is_none() => Stored::Dense(StoredTensor { file, dtype, shape, range }),
        _ => Stored::Gguf(GgufTensor { file, kind: info.kind, shape, range, interleaved_heads }),
    }
}

impl GgufTensor {
    /// The type that [`GgufTensor::dense_bytes`] gives.
    pub(crate) fn dense_dtype(&self) -> Dtype {
        match self.kind {
            BlockType::F16 => Dtype::F16,
            BlockType::Bf16 => Dtype::BF16,
            _ => Dtype::F32,
        }
    }

    fn rows_and_columns(&self) -> (usize, usize) {
        match self.shape[..] {
            [rows, columns] => (rows, columns),
            // The bias of an interleaved weight has one value for each of its rows.
            _ if self.interleaved_heads.is_some() => (self.shape.iter().product(), 1),
            _ => (1, self.shape.iter().product()),
        }
    }

    /// The row of the file that holds row `row` of the model.
    fn source_row(&self, row: usize, rows: usize) -> usize {
        let Some(heads) = self.interleaved_heads else { return row };
        let head_dim = rows / heads;
        let (head, within) = (row / head_dim, row % head_dim);
        let half = head_dim / 2;
        head * head_dim + 2 * (within % half) + within / half
    }

    fn bytes_of_row(&self, row: usize, rows: usize, columns: usize) -> &[u8] {
        let bytes = &self.file.bytes()[self.range.clone()];
        let length = columns / self.kind.elements() * self.kind.bytes();
        &bytes[self.source_row(row, rows) * length..][..length]
    }

    /// All values in f32; otherwise the index and value of the first that is not finite.
    pub(crate) fn values(&self) -> Result<Vec<f32>, (usize, f32)> {
        let (rows, columns) = self.rows_and_columns();
        let mut values = vec![0.0; rows * columns];
        let bad = values
            .par_chunks_mut(columns.max(1))
            .enumerate()
            .filter_map(|(row, out)| {
                self.kind.dequantize(self.bytes_of_row(row, rows, columns), out);
                first_non_finite(out).map(|column| (row * columns + column, out[column]))
            })
            .min_by_key(|(index, _)| *index);
        match bad {
            None => Ok(values),
            Some(found) => Err(found),
        }
    }

    /// The tensor as dense little-endian bytes of [`GgufTensor::dense_dtype`].
    pub(crate) fn dense_bytes(&self) -> Result<Vec<u8>, (usize, f32)> {
        if self.kind.elements() > 1 {
            return Ok(self.values()?.into_iter().flat_map(f32::to_le_bytes).collect());
        }
        let (rows, columns) = self.rows_and_columns();
        Ok((0..rows).flat_map(|row| self.bytes_of_row(row, rows, columns)).copied().collect())
    }
}
