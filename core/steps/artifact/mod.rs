//! The model folder that a step writes, opened again and compared when it is finished.

mod config;
mod put;
mod spill;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, WeightSource,
    arch::{LM_HEAD, block_name, block_of},
    checkpoint::{CheckpointWriter, Dtype, find_non_finite, narrow},
};
use workbench_quant::{Grid, QuantParams, QuantizedWeight};

pub(super) use self::{
    config::{merge, patched, stored_as, with_dtype},
    put::{DenseTensor, Put},
};
use crate::{
    error::{Error, Result},
    store::Scratch,
};

/// Files that make a folder usable beside its weights.
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
];

/// A model on its way to disk.
pub(in crate::steps) struct Artifact {
    writer: CheckpointWriter,
    folder: PathBuf,
    /// Whether the table of the source's embeddings becomes the head's weight too, where none is put.
    untie: bool,
    /// Digests of what was put, by name: of a dense tensor's bytes, of a linear's codes and scales.
    dense: BTreeMap<String, blake3::Hash>,
    coded: BTreeMap<String, blake3::Hash>,
    /// Scales of keys and values, by block.
    kv_scales: BTreeMap<usize, [QuantParams; 2]>,
}

impl Artifact {
    /// A folder that takes tokenizer and generation settings from the model it is made of.
    pub(in crate::steps) fn create(scratch: &Scratch, source: &Checkpoint, config_json: &Value) -> Result<Self> {
        let mut artifact = Self::empty(scratch, config_json)?;
        artifact.writer.copy_companions(source)?;
        Ok(artifact)
    }

    /// The same, of a folder without weights.
    pub(in crate::steps) fn create_from_folder(scratch: &Scratch, source: &Path, config_json: &Value) -> Result<Self> {
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

    /// The folder of a model whose first `blocks` blocks an interrupted run left finished; `None` where they are not what
    /// they should be. `inputs` are the grids of quantized inputs by module; `untie` gives a model with tied embeddings a
    /// head of its own; `coded_experts` says that the linears of all experts become MXFP4 codes, and nothing else.
    pub(in crate::steps) fn resume(
        folder: &Path,
        source: &Checkpoint,
        inputs: &BTreeMap<&str, &Grid>,
        (untie, coded_experts): (bool, bool),
        blocks: usize,
    ) -> Result<Option<Self>> {
        let mut config = source.config_json().clone();
        if untie {
            config["tie_word_embeddings"] = false.into();
        }
        let mut writer = CheckpointWriter::create(folder, &config)?;
        if coded_experts {
            writer.code_experts()?;
        }
        let mut artifact = Self { untie, ..Self::over(writer, folder.to_owned()) };
        for (module, grid) in inputs {
            artifact.put_input_quantizer(module, grid)?;
        }
        if artifact.writer.resume(blocks)?.len() != blocks {
            return Ok(None);
        }
        artifact.writer.copy_companions(source)?;
        Ok(Some(artifact))
    }

    fn over(writer: CheckpointWriter, folder: PathBuf) -> Self {
        Self {
            writer,
            folder,
            untie: false,
            dense: BTreeMap::new(),
            coded: BTreeMap::new(),
            kv_scales: BTreeMap::new(),
        }
    }

    fn empty(scratch: &Scratch, config_json: &Value) -> Result<Self> {
        let folder = scratch.model_folder()?;
        let writer = CheckpointWriter::create(&folder, config_json)?;
        Ok(Self::over(writer, folder))
    }

    /// Puts a dense tensor.
    pub(in crate::steps) fn put_dense(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        bytes: &[u8],
    ) -> Result<()> {
        let (put, digest) = rayon::join(|| self.writer.put_dense(name, dtype, shape, bytes), || blake3::hash(bytes));
        put?;
        self.dense.insert(name.to_owned(), digest);
        Ok(())
    }

    /// Puts values in the dtype in which they are to be written.
    ///
    /// # Errors
    /// A value lies outside of that dtype: another step would find an infinity, far from where it came from.
    pub(in crate::steps) fn put_values(
        &mut self,
        name: &str,
        dtype: Dtype,
        shape: &[usize],
        values: &[f32],
    ) -> Result<()> {
        self.put_dense(name, dtype, shape, &rounded(name, values, dtype)?)
    }

    /// Puts a tensor of a method in the dtype in which it is to be written.
    ///
    /// # Errors
    /// As [`put_values`](Self::put_values); it cannot be read again.
    pub(in crate::steps) fn put_rounded(&mut self, name: &str, dtype: Dtype, tensor: &DenseTensor) -> Result<()> {
        let bytes = tensor.rounded(dtype)?;
        match find_non_finite(dtype, &bytes) {
            None => self.put_dense(name, dtype, &tensor.shape, &bytes),
            Some((index, _)) => Err(outside(name, tensor.values()?[index], index, dtype)),
        }
    }

    /// Declares that the input of a linear is quantized, before its weight is put.
    pub(in crate::steps) fn put_input_quantizer(&mut self, module: &str, grid: &Grid) -> Result<()> {
        Ok(self.writer.put_input_quantizer(module, grid)?)
    }

    /// Puts a quantized weight.
    pub(in crate::steps) fn put_quantized(&mut self, module: &str, weight: &QuantizedWeight) -> Result<()> {
        self.writer.put_quantized(module, &weight.grid, &weight.codes, &weight.parameters)?;
        self.coded.insert(module.to_owned(), digest(&weight.codes, &weight.parameters));
        Ok(())
    }

    /// Puts the static scale of a linear's input.
    pub(in crate::steps) fn put_input_scale(&mut self, module: &str, parameters: &QuantParams) -> Result<()> {
        Ok(self.writer.put_input_scale(module, parameters)?)
    }

    /// Declares that keys and values are quantized.
    pub(in crate::steps) fn put_kv_cache(&mut self, grid: &Grid) {
        self.writer.put_kv_cache(grid);
    }

    /// Puts the static scales of a block's keys and values.
    pub(in crate::steps) fn put_kv_scales(
        &mut self,
        block: usize,
        key: &QuantParams,
        value: &QuantParams,
    ) -> Result<()> {
        self.writer.put_kv_scales(block, key, value)?;
        self.kv_scales.insert(block, [key.clone(), value.clone()]);
        Ok(())
    }

    /// Puts every tensor that was not put yet as it is stored in the source, or in f32 where the source stores blocks.
    pub(in crate::steps) fn copy_rest(&mut self, source: &Checkpoint) -> Result<()> {
        self.copy(source, |_| true)
    }

    /// The same for the tensors of one decoder block.
    pub(in crate::steps) fn copy_block(&mut self, source: &Checkpoint, index: usize) -> Result<()> {
        self.copy(source, |name| block_of(name) == Some(index))
    }

    fn copy(&mut self, source: &Checkpoint, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let config = source.config();
        let tensors = config.tensors().into_iter().map(|tensor| (tensor.name.clone(), tensor.name));
        let head = self.untie.then(|| (format!("{LM_HEAD}.weight"), config.weight_of(LM_HEAD)));
        for (name, from) in tensors.chain(head).filter(|(name, _)| wanted(name)) {
            if !self.writer.lacks(&name) {
                continue;
            }
            let shape = source.shape(&from).unwrap_or_default();
            if source.dtype(&from).is_some_and(Dtype::is_dense_float) {
                let raw = source.raw(&from)?;
                self.put_dense(&name, raw.dtype, &shape, &raw.bytes)?;
            } else {
                let values = source.values(&from)?;
                self.put_dense(&name, Dtype::F32, &shape, &narrow(&values, Dtype::F32))?;
            }
        }
        Ok(())
    }

    /// Finishes the folder, opens it again, compares every weight, code and scale of a KV cache with what was put, and leaves it where the result
    /// belongs. Shards that were taken over were compared with the digests in their names.
    ///
    /// # Errors
    /// Something is missing, cannot be written, or reads back otherwise than it was put.
    pub(in crate::steps) fn finish(self, scratch: &Scratch) -> Result<Value> {
        let written = self.writer.finish()?;
        let opened = Checkpoint::open(&self.folder)?;
        let differs = |name: &str| Error::internal(format!("`{name}` reads back otherwise than it was written"));
        for (name, expected) in &self.dense {
            if blake3::hash(&opened.raw(name)?.bytes) != *expected {
                return Err(differs(name));
            }
            opened.drop_pages([name.as_str()]);
        }
        for (module, expected) in &self.coded {
            let found = opened.quantized_linear(module)?.ok_or_else(|| differs(module))?;
            if digest(&found.codes, &found.parameters) != *expected {
                return Err(differs(module));
            }
            opened.drop_pages([format!("{module}.weight").as_str()]);
        }
        for (block, [key, value]) in &self.kv_scales {
            let found = opened.kv_quantizer(*block)?;
            if found.is_none_or(|found| found.key.as_ref() != Some(key) || found.value.as_ref() != Some(value)) {
                return Err(differs(&format!("the scale of keys of {}", block_name(*block))));
            }
        }
        let (bits, compared) = (opened.bits_per_weight(), opened.config().tensors().len());
        drop(opened);
        let target = scratch.model_path();
        if self.folder != target {
            std::fs::rename(&self.folder, &target).map_err(|e| Error::io("rename to", &target, &e))?;
        }
        Ok(
            json!({ "bytes": written.bytes, "files": written.files.len(), "bits_per_weight": bits, "compared": compared }),
        )
    }
}

/// The bytes of a tensor in the dtype in which it is written.
///
/// # Errors
/// A value lies outside of that dtype: another step would find an infinity, far from where it came from.
fn rounded(name: &str, values: &[f32], dtype: Dtype) -> Result<Vec<u8>> {
    let bytes = narrow(values, dtype);
    match find_non_finite(dtype, &bytes) {
        None => Ok(bytes),
        Some((index, _)) => Err(outside(name, values[index], index, dtype)),
    }
}

fn outside(name: &str, value: f32, index: usize, dtype: Dtype) -> Error {
    Error::refused(format!("`{name}` holds {value} at {index}, which is not finite in {dtype}"))
        .hint("write the model in float32 or bfloat16")
}

/// Codes that are hashed at once: few enough to stay in the first cache.
const PIECE: usize = 1 << 14;

fn digest(codes: &[i8], parameters: &QuantParams) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    let mut sublayer = Vec::with_capacity(PIECE);
    for codes in codes.chunks(PIECE) {
        sublayer.clear();
        sublayer.extend(codes.iter().map(|code| code.cast_unsigned()));
        hasher.update(&sublayer);
    }
    for scale in &parameters.scales {
        hasher.update(&scale.to_bits().to_le_bytes());
    }
    for point in parameters.zero_points.iter().flatten() {
        hasher.update(&point.to_le_bytes());
    }
    hasher.update(&parameters.global_scale.unwrap_or(0.0).to_bits().to_le_bytes());
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_outside_of_its_dtype_is_refused() {
        assert_eq!(rounded("w", &[1.0, -2.0], Dtype::F16).unwrap(), [0x00, 0x3c, 0x00, 0xc0]);
        assert_eq!(rounded("w", &[70_000.0], Dtype::BF16).unwrap().len(), 2);
        let error = rounded("w", &[1.0, 70_000.0], Dtype::F16).unwrap_err();
        assert!(error.message.contains("`w` holds 70000 at 1, which is not finite in F16"), "{}", error.message);
    }
}
