//! The model folder that a step writes, opened again and compared when it is finished.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use half::{bf16, f16};
use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, WeightSource,
    checkpoint::{CheckpointWriter, Dtype},
};
use workbench_quant::{Grid, Parameters};

use super::services::Codes;
use crate::{
    error::{Error, Result},
    store::Scratch,
};

/// Files that make a folder usable beside its weights.
const COMPANIONS: [&str; 5] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
];

/// A model on its way to disk.
pub(super) struct Artifact {
    writer: CheckpointWriter,
    folder: PathBuf,
    /// Digests of what was put, by name: of a dense tensor's bytes, of a linear's codes and scales.
    dense: BTreeMap<String, blake3::Hash>,
    coded: BTreeMap<String, blake3::Hash>,
    /// Scales of keys and values, by block.
    kv_scales: BTreeMap<usize, [Parameters; 2]>,
}

impl Artifact {
    /// A folder that takes tokenizer and generation settings from the model it is made of.
    pub(super) fn create(scratch: &Scratch, source: &Checkpoint, config_json: &Value) -> Result<Self> {
        let mut artifact = Self::empty(scratch, config_json)?;
        artifact.writer.copy_companions(source)?;
        Ok(artifact)
    }

    /// The same, of a folder without weights.
    pub(super) fn create_from_folder(scratch: &Scratch, source: &Path, config_json: &Value) -> Result<Self> {
        let artifact = Self::empty(scratch, config_json)?;
        for name in COMPANIONS {
            let from = source.join(name);
            if from.is_file() {
                let to = artifact.folder.join(name);
                std::fs::copy(&from, &to).map_err(|e| Error::io("copy to", &to, &e))?;
            }
        }
        Ok(artifact)
    }

    fn empty(scratch: &Scratch, config_json: &Value) -> Result<Self> {
        let folder = scratch.model_folder()?;
        let writer = CheckpointWriter::create(&folder, config_json)?;
        Ok(Self { writer, folder, dense: BTreeMap::new(), coded: BTreeMap::new(), kv_scales: BTreeMap::new() })
    }

    /// Puts a dense tensor.
    pub(super) fn put_dense(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.writer.put_dense(name, dtype, shape, bytes)?;
        self.dense.insert(name.to_owned(), blake3::hash(bytes));
        Ok(())
    }

    /// Puts a quantized linear with the grid of its input.
    pub(super) fn put_codes(&mut self, module: &str, codes: &Codes, inputs: Option<&Grid>) -> Result<()> {
        if let Some(grid) = inputs {
            self.writer.put_input_quantizer(module, grid)?;
        }
        self.writer.put_quantized(module, &codes.grid, &codes.codes, &codes.parameters)?;
        self.coded.insert(module.to_owned(), digest(&codes.codes, &codes.parameters));
        Ok(())
    }

    /// Puts the static scale of a linear's input.
    pub(super) fn put_input_scale(&mut self, module: &str, parameters: &Parameters) -> Result<()> {
        Ok(self.writer.put_input_scale(module, parameters)?)
    }

    /// Declares that keys and values are quantized.
    pub(super) fn put_kv_cache(&mut self, grid: &Grid) {
        self.writer.put_kv_cache(grid);
    }

    /// Puts the static scales of a block's keys and values.
    pub(super) fn put_kv_scales(&mut self, block: usize, key: &Parameters, value: &Parameters) -> Result<()> {
        self.writer.put_kv_scales(block, key, value)?;
        self.kv_scales.insert(block, [key.clone(), value.clone()]);
        Ok(())
    }

    /// Puts every tensor that is not the weight of a quantized linear as it is stored in the source, or in f32 where the
    /// source stores blocks.
    pub(super) fn copy_rest(&mut self, source: &Checkpoint, quantized: &[&str]) -> Result<()> {
        for tensor in source.config().tensors() {
            if tensor.name.strip_suffix(".weight").is_some_and(|module| quantized.contains(&module)) {
                continue;
            }
            if source.dtype(&tensor.name).is_some_and(Dtype::is_dense_float) {
                let raw = source.raw(&tensor.name)?;
                self.put_dense(&tensor.name, raw.dtype, &tensor.shape, &raw.bytes)?;
            } else {
                let values = source.values(&tensor.name)?;
                self.put_dense(&tensor.name, Dtype::F32, &tensor.shape, &cast(&values, Dtype::F32))?;
            }
        }
        Ok(())
    }

    /// Finishes the folder, opens it again and compares every tensor with what was put.
    ///
    /// # Errors
    /// Something is missing, cannot be written, or reads back otherwise than it was put.
    pub(super) fn finish(self) -> Result<Value> {
        let written = self.writer.finish()?;
        let opened = Checkpoint::open(&self.folder)?;
        let differs = |name: &str| Error::internal(format!("`{name}` reads back otherwise than it was written"));
        for (name, expected) in &self.dense {
            if blake3::hash(&opened.raw(name)?.bytes) != *expected {
                return Err(differs(name));
            }
        }
        for (module, expected) in &self.coded {
            let found = opened.quantized_linear(module)?.ok_or_else(|| differs(module))?;
            if digest(&found.codes, &found.parameters) != *expected {
                return Err(differs(module));
            }
        }
        for (block, [key, value]) in &self.kv_scales {
            let found = opened.kv_quantizer(*block)?;
            if found.is_none_or(|found| found.key.as_ref() != Some(key) || found.value.as_ref() != Some(value)) {
                return Err(differs(&format!("model.layers.{block}.self_attn.k_scale")));
            }
        }
        Ok(
            json!({ "bytes": written.bytes, "files": written.files.len(), "bits_per_weight": opened.bits_per_weight(), "compared": self.dense.len() + self.coded.len() }),
        )
    }
}

fn digest(codes: &[i8], parameters: &Parameters) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&codes.iter().map(|c| c.to_le_bytes()[0]).collect::<Vec<u8>>());
    for scale in &parameters.scales {
        hasher.update(&scale.to_bits().to_le_bytes());
    }
    for point in parameters.zero_points.iter().flatten() {
        hasher.update(&point.to_le_bytes());
    }
    hasher.update(&parameters.global_scale.unwrap_or(0.0).to_bits().to_le_bytes());
    hasher.finalize()
}

/// Values as the little-endian bytes of a dtype, rounded to nearest even.
pub(super) fn cast(values: &[f32], dtype: Dtype) -> Vec<u8> {
    match dtype {
        Dtype::F16 => values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
    }
}

/// Little-endian bytes of a dtype as values.
pub(super) fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}
