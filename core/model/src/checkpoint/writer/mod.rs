//! Writes a model as a Hugging Face folder: dense, or quantized in the layouts of compressed-tensors.
//!
//! Tensors may come in any order. A block's shard is written as soon as the block is complete, so that memory holds one
//! block and not the model; embeddings, final norm and head make another shard, static input scales a third. The same
//! tensors give the same bytes and therefore the same names: two models that share a block share its file.

mod encode;
mod experts;
mod settings;
mod shard;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use workbench_quant::{Format, Grid, QuantParams, ScaleDtype, Scheme};

use self::settings::WrittenLinear;
use self::shard::PendingTensor;
pub use self::shard::WrittenFile;
use super::folder::{COMPANIONS, GRIDS_KEY, INDEX_FILE, noted_grids};
use super::mapped::MappedFile;
use super::safetensors::read_header;
use super::{Checkpoint, Dtype};
use crate::arch::{self, BlockLayout, EMBEDDINGS, LM_HEAD, TensorSpec, kv_scale_name, kv_zero_point_name};
use crate::{ModelConfig, ModelError};

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Every file of the folder, sorted by name.
    pub files: Vec<WrittenFile>,
    /// Their size together.
    pub bytes: u64,
}

/// The shards that a model is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Block(usize),
    Embeddings,
}

/// Writes one model into one folder.
pub struct CheckpointWriter {
    folder: PathBuf,
    config: ModelConfig,
    config_json: Value,
    specs: BTreeMap<String, TensorSpec>,
    /// Tensors of the configuration that have not been put yet, by shard.
    missing: BTreeMap<Part, BTreeSet<String>>,
    pending: BTreeMap<Part, BTreeMap<String, PendingTensor>>,
    /// Static scales of inputs, keys and values.
    input_scales: BTreeMap<String, PendingTensor>,
    kv_grid: Option<Grid>,
    quantized: BTreeMap<String, WrittenLinear>,
    /// Whether the experts are MXFP4 codes in stacks.
    coded_experts: bool,
    /// Stored tensor name to shard.
    weight_map: BTreeMap<String, String>,
    total_size: u64,
    files: Vec<WrittenFile>,
    dtype: Option<Dtype>,
}

impl CheckpointWriter {
    /// Starts a model of the given `config.json` in a folder, which is made where it does not exist. Its quantization
    /// settings, if any, are replaced by what is put.
    ///
    /// # Errors
    /// The configuration is not that of a known model, or the folder cannot be made.
    pub fn create(folder: &Path, config_json: &Value) -> Result<Self, ModelError> {
        let config = ModelConfig::from_json(config_json, &folder.join("config.json"))?;
        std::fs::create_dir_all(folder)
            .map_err(|error| ModelError::file(folder, format!("cannot be made: {error}"), ""))?;
        // From here on the folder is no model until `finish` has written it.
        let settings = folder.join("config.json");
        match std::fs::remove_file(&settings) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ModelError::file(&settings, format!("cannot be replaced: {error}"), ""));
            }
            _ => {}
        }
        let specs = config.tensors().into_iter().map(|spec| (spec.name.clone(), spec)).collect::<BTreeMap<_, _>>();
        let mut missing: BTreeMap<Part, BTreeSet<String>> = BTreeMap::new();
        for name in specs.keys() {
            missing.entry(part_of(name)).or_default().insert(name.clone());
        }
        Ok(Self {
            folder: folder.into(),
            config,
            config_json: config_json.clone(),
            specs,
            missing,
            pending: BTreeMap::new(),
            input_scales: BTreeMap::new(),
            kv_grid: None,
            quantized: BTreeMap::new(),
            coded_experts: false,
            weight_map: BTreeMap::new(),
            total_size: 0,
            files: Vec::new(),
            dtype: None,
        })
    }

    /// Takes over those of the first `blocks` blocks that an interrupted writer left whole in the folder, and returns their
    /// indices. Inputs have to be declared first; static input scales have to be put again.
    ///
    /// # Errors
    /// A shard cannot be read. One whose content does not have the digest in its name is not taken over.
    pub fn resume(&mut self, blocks: usize) -> Result<Vec<usize>, ModelError> {
        let names = self.names()?;
        let mut taken = Vec::new();
        for block in 0..blocks.min(self.config.num_layers) {
            let prefix = format!("{}-", stem(Part::Block(block)));
            for name in names.iter().filter(|name| name.starts_with(&prefix)) {
                if self.adopt(block, name)? {
                    taken.push(block);
                    break;
                }
            }
        }
        Ok(taken)
    }

    /// Registers a shard that holds exactly a block.
    fn adopt(&mut self, block: usize, name: &str) -> Result<bool, ModelError> {
        let part = Part::Block(block);
        let file = Arc::new(MappedFile::open(&self.folder.join(name))?);
        let digest = blake3::hash(file.bytes()).to_hex().to_string();
        if name != shard::shard_name(&stem(part), &digest) {
            return Ok(false);
        }
        let header = read_header(&file)?;
        let grids = noted_grids(file.path(), &header)?;
        let covered = |spec: &String| {
            let module = spec.strip_suffix(".weight").unwrap_or(spec);
            let stack = || experts::stack_name(&self.config, block, spec, self.coded_experts);
            header.tensors.contains_key(spec)
                || grids.contains_key(module)
                || stack().is_some_and(|stack| header.tensors.contains_key(&stack))
        };
        if !self.missing.get(&part).is_some_and(|specs| specs.iter().all(covered)) {
            return Ok(false);
        }
        for (module, grid) in grids {
            let format = self.format(&module, Some(&grid));
            let entry = self.quantized.entry(module).or_insert(WrittenLinear { weights: None, inputs: None, format });
            (entry.weights, entry.format) = (Some(grid), format);
        }
        for (tensor, stored) in &header.tensors {
            self.weight_map.insert(tensor.clone(), name.to_owned());
            self.total_size += stored.range.len() as u64;
        }
        self.missing.remove(&part);
        self.files.push(WrittenFile { name: name.into(), bytes: file.bytes().len() as u64, digest });
        Ok(true)
    }

    /// Puts a dense tensor by its Hugging Face name: a norm, a bias, an embedding, or the weight of a linear that is not
    /// quantized.
    ///
    /// # Errors
    /// The model has no such tensor, it was put before, or shape, type and bytes do not fit.
    pub fn put_dense(&mut self, name: &str, dtype: Dtype, shape: &[usize], bytes: &[u8]) -> Result<(), ModelError> {
        let spec = self.claim(name)?;
        if spec.shape != shape
            || !dtype.is_dense_float()
            || bytes.len() != dtype.size() * shape.iter().product::<usize>()
        {
            let message = format!(
                "{} bytes of {dtype} {shape:?} were put, the configuration calls for F32, F16 or BF16 {:?}",
                bytes.len(),
                spec.shape
            );
            return Err(self.error(name, message));
        }
        if name.strip_suffix(".weight") == Some(EMBEDDINGS) {
            self.dtype = Some(dtype);
        }
        self.add(name, name.to_owned(), PendingTensor { dtype, shape: shape.into(), bytes: bytes.into() });
        self.complete(name)
    }

    /// Declares that the input of a linear is quantized, before its weight is put: the layout of the weight depends on it.
    /// A static grid also needs [`CheckpointWriter::put_input_scale`].
    ///
    /// # Errors
    /// The model has no such linear, or its weight was put before.
    pub fn put_input_quantizer(&mut self, module: &str, grid: &Grid) -> Result<(), ModelError> {
        let weight = format!("{module}.weight");
        if !self.lacks(&weight) || module == EMBEDDINGS {
            return Err(
                self.error(&weight, "its input has to be declared before the weight is put, on a linear of the model")
            );
        }
        let linear = WrittenLinear { weights: None, inputs: Some(grid.clone()), format: Format::Dense };
        self.quantized.insert(module.into(), linear);
        Ok(())
    }

    /// Puts the static scale of a declared input.
    ///
    /// # Errors
    /// The input was not declared as static, or the parameters do not fit its grid.
    pub fn put_input_scale(&mut self, module: &str, parameters: &QuantParams) -> Result<(), ModelError> {
        let name = format!("{module}.input_scale");
        let inputs = self.quantized.get(module).and_then(|linear| linear.inputs.as_ref());
        let Some(grid) = inputs.filter(|grid| settings::has_scale(grid)) else {
            return Err(self.error(&name, "the input of this linear was not declared as statically quantized"));
        };
        let parts = encode::encode_input(grid, parameters).map_err(|message| self.error(&name, message))?;
        self.input_scales.extend(parts.into_iter().map(|(suffix, tensor)| (format!("{module}.{suffix}"), tensor)));
        Ok(())
    }

    /// Declares that the linears of all experts, and nothing else, will be put as MXFP4 codes: they are then stored in stacks, as
    /// OpenAI published gpt-oss, which its loaders read. Call it before anything is put or taken over.
    ///
    /// # Errors
    /// The family's folders hold no stacks of codes.
    pub fn code_experts(&mut self) -> Result<(), ModelError> {
        if !experts::are_stacked(&self.config) {
            return Err(self.error("experts", "are not stored in stacks of codes by this family"));
        }
        self.coded_experts = true;
        Ok(())
    }

    /// Declares that keys and values are quantized before they are cached. A static grid also needs
    /// [`CheckpointWriter::put_kv_scales`] for every block.
    pub fn put_kv_cache(&mut self, grid: &Grid) {
        self.kv_grid = Some(grid.clone());
    }

    /// Puts the static scales of a block's keys and values: one, or one a head (shape `[1, kv_heads]`).
    ///
    /// # Errors
    /// The cache was not declared as static, or the parameters do not fit its grid.
    pub fn put_kv_scales(&mut self, block: usize, key: &QuantParams, value: &QuantParams) -> Result<(), ModelError> {
        for (part, parameters) in [("k", key), ("v", value)] {
            let name = kv_scale_name(block, part);
            let grid = self.kv_grid.as_ref().filter(|grid| settings::has_scale(grid));
            let Some(grid) = grid.filter(|_| block < self.config.num_layers) else {
                return Err(self.error(&name, "the KV cache of this model was not declared as statically quantized"));
            };
            let (scale, zero_point) = encode::encode_kv(grid, parameters, self.config.num_kv_heads)
                .map_err(|message| self.error(&name, message))?;
            self.input_scales.insert(name, scale);
            self.input_scales.extend(zero_point.map(|tensor| (kv_zero_point_name(block, part), tensor)));
        }
        Ok(())
    }

    /// Puts the codes of a linear's weight, [out, in], or of the embeddings, [vocabulary, hidden], packed as their layout asks
    /// for.
    ///
    /// # Errors
    /// The model has no such module, it was put before, or codes and parameters do not fit the grid.
    pub fn put_quantized(
        &mut self,
        module: &str,
        grid: &Grid,
        codes: &[i8],
        parameters: &QuantParams,
    ) -> Result<(), ModelError> {
        let weight = format!("{module}.weight");
        let &[rows, columns] = &self.claim(&weight)?.shape[..] else {
            return Err(self.error(&weight, "only linears and embeddings can be quantized"));
        };
        if !self.modules().contains(&module.to_owned()) && module != EMBEDDINGS {
            return Err(self.error(&weight, "only linears and embeddings can be quantized"));
        }
        let format = self.format(module, Some(grid));
        let parts = encode::encode_weight(grid, codes, parameters, [rows, columns], format)
            .map_err(|message| self.error(&weight, message))?;
        for (suffix, tensor) in parts {
            self.add(&weight, format!("{module}.{suffix}"), tensor);
        }
        let entry = self.quantized.entry(module.into());
        let entry = entry.or_insert(WrittenLinear { weights: None, inputs: None, format });
        (entry.weights, entry.format) = (Some(grid.clone()), format);
        if module == EMBEDDINGS {
            // Scales are kept in the type that the table had.
            self.dtype = match grid.scale_dtype() {
                ScaleDtype::F32 => Some(Dtype::F32),
                ScaleDtype::F16 => Some(Dtype::F16),
                ScaleDtype::Bf16 => Some(Dtype::BF16),
                ScaleDtype::F8E4M3 | ScaleDtype::E8M0 => self.dtype,
            };
        }
        self.complete(&weight)
    }

    /// Copies tokenizer and generation settings of the model that this one was made from.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn copy_companions(&mut self, source: &Checkpoint) -> Result<(), ModelError> {
        for name in COMPANIONS {
            if let Some(content) = source.companion(name)? {
                self.files.push(shard::write_file(&self.folder, name, &content)?);
            }
        }
        Ok(())
    }

    /// Writes what is left: embeddings and head, input scales, the index and last `config.json`, without which the folder
    /// is no model.
    ///
    /// # Errors
    /// A tensor or an input scale is missing, or a file cannot be written.
    pub fn finish(mut self) -> Result<Written, ModelError> {
        if let Some(name) = self.missing.values().flatten().next() {
            let count = self.missing.values().map(BTreeSet::len).sum::<usize>();
            return Err(self.error(name, format!("was not put (and {} others)", count - 1)));
        }
        for (module, linear) in &self.quantized {
            let suffix = if linear.inputs.as_ref().is_some_and(settings::is_local) {
                "input_global_scale"
            } else {
                "input_scale"
            };
            let scale = format!("{module}.{suffix}");
            if linear.inputs.as_ref().is_some_and(settings::has_scale) && !self.input_scales.contains_key(&scale) {
                return Err(self.error(&scale, "was not put, but the input is statically quantized"));
            }
        }
        if self.kv_grid.as_ref().is_some_and(settings::has_scale) {
            let names = (0..self.config.num_layers).map(|block| kv_scale_name(block, "v"));
            if let Some(name) = names.into_iter().find(|name| !self.input_scales.contains_key(name)) {
                return Err(self.error(&name, "was not put, but the KV cache is statically quantized"));
            }
        }
        if !self.input_scales.is_empty() {
            let scales = std::mem::take(&mut self.input_scales);
            self.write("model-input-scales", &scales)?;
        }
        let index = json!({"metadata": {"total_size": self.total_size}, "weight_map": self.weight_map});
        let mut config = match self.coded_experts {
            // What is said of them is said of all at once.
            true => settings::config_json(&self.config_json, self.dtype, &[], &BTreeMap::new(), self.kv_grid.as_ref()),
            false => settings::config_json(
                &self.config_json,
                self.dtype,
                &self.modules(),
                &self.quantized,
                self.kv_grid.as_ref(),
            ),
        };
        if self.coded_experts {
            config["quantization_config"] =
                json!({ "quant_method": "mxfp4", "modules_to_not_convert": arch::uncoded_modules(&self.config) });
        }
        for (name, content) in [(INDEX_FILE, index), ("config.json", config)] {
            let text = serde_json::to_string_pretty(&content).unwrap_or_default() + "\n";
            self.files.push(shard::write_file(&self.folder, name, text.as_bytes())?);
        }
        self.files.sort_by(|a, b| a.name.cmp(&b.name));
        self.remove_strays()?;
        let bytes = self.files.iter().map(|file| file.bytes).sum();
        Ok(Written { files: self.files, bytes })
    }

    /// Removes shards that an interrupted writer left and that were not taken over: they belong to no index.
    fn remove_strays(&self) -> Result<(), ModelError> {
        for name in self.names()? {
            let ours = name.starts_with("model-") && name.ends_with(".safetensors");
            if ours && !self.files.iter().any(|file| file.name == name) {
                let path = self.folder.join(name);
                std::fs::remove_file(&path)
                    .map_err(|error| ModelError::file(&path, format!("cannot be removed: {error}"), ""))?;
            }
        }
        Ok(())
    }

    /// The names of the folder's files, sorted.
    fn names(&self) -> Result<Vec<String>, ModelError> {
        let failed = |error: std::io::Error| ModelError::file(&self.folder, format!("cannot be listed: {error}"), "");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        names.sort();
        Ok(names)
    }

    fn error(&self, tensor: &str, message: impl Into<String>) -> ModelError {
        ModelError::tensor(&self.folder, tensor, message, "")
    }

    /// The linears of the model, in order; routers too, which are linears for everybody else.
    fn modules(&self) -> Vec<String> {
        let of_block = |block: BlockLayout| block.linears.into_iter().chain(block.router).map(|linear| linear.name);
        let mut modules = self.config.blocks().flat_map(of_block).collect::<Vec<_>>();
        if !self.config.tie_word_embeddings {
            modules.push(LM_HEAD.into());
        }
        modules
    }

    /// Whether a tensor of the configuration has not been put yet.
    pub fn lacks(&self, name: &str) -> bool {
        self.missing.get(&part_of(name)).is_some_and(|names| names.contains(name))
    }

    fn claim(&self, name: &str) -> Result<TensorSpec, ModelError> {
        match self.specs.get(name) {
            None => Err(self.error(name, "the model has no such tensor")),
            Some(_) if !self.lacks(name) => Err(self.error(name, "was put before")),
            Some(spec) => Ok(spec.clone()),
        }
    }

    fn format(&self, module: &str, weights: Option<&Grid>) -> Format {
        let inputs = self.quantized.get(module).and_then(|linear| linear.inputs.as_ref());
        let args = |grid: &Grid| grid.args().clone();
        let scheme = Scheme { weights: weights.map(args), input_activations: inputs.map(args), ..Scheme::default() };
        match scheme.inferred_format() {
            // As long as the packed ones, and transformers looks for `weight` when it makes an embedding.
            Format::PackQuantized if module == EMBEDDINGS && weights.is_some_and(|grid| grid.args().num_bits == 8) => {
                Format::IntQuantized
            }
            format => format,
        }
    }

    fn add(&mut self, spec: &str, stored: String, tensor: PendingTensor) {
        self.pending.entry(part_of(spec)).or_default().insert(stored, tensor);
    }

    /// Writes a shard whose last tensor was just put.
    fn complete(&mut self, name: &str) -> Result<(), ModelError> {
        let part = part_of(name);
        let Some(missing) = self.missing.get_mut(&part) else { return Ok(()) };
        missing.remove(name);
        if !missing.is_empty() {
            return Ok(());
        }
        self.missing.remove(&part);
        let mut tensors = self.pending.remove(&part).unwrap_or_default();
        if let Part::Block(block) = part {
            tensors = match self.coded_experts {
                true => experts::stack_codes(&self.config, block, tensors)
                    .map_err(|(name, message)| self.error(&name, message))?,
                false => experts::stack(&self.config, block, tensors),
            };
        }
        self.write(&stem(part), &tensors)
    }

    fn write(&mut self, stem: &str, tensors: &BTreeMap<String, PendingTensor>) -> Result<(), ModelError> {
        let modules = tensors.keys().filter_map(|name| name.strip_suffix(".weight_scale"));
        let grids = modules.filter_map(|module| Some((module, self.quantized.get(module)?.weights.as_ref()?)));
        let grids = grids.collect::<BTreeMap<_, _>>();
        let mut metadata = BTreeMap::from([("format", "pt".to_owned())]);
        if !grids.is_empty() {
            metadata.insert(GRIDS_KEY, json!(grids).to_string());
        }
        let written = shard::write_shard(&self.folder, stem, tensors, &metadata)?;
        for (name, tensor) in tensors {
            self.weight_map.insert(name.clone(), written.name.clone());
            self.total_size += tensor.bytes.len() as u64;
        }
        self.files.push(written);
        Ok(())
    }
}

/// The shard that a tensor of the configuration belongs to.
fn part_of(name: &str) -> Part {
    arch::block_of(name).map_or(Part::Embeddings, Part::Block)
}

fn stem(part: Part) -> String {
    match part {
        Part::Block(index) => format!("model-block-{index:05}"),
        Part::Embeddings => "model-embeddings".into(),
    }
}
