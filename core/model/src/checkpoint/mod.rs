//! Checkpoints: Hugging Face folders and GGUF files, mapped and checked when they are opened.
//!
//! [`Checkpoint::open`] reads headers and configuration only, yet checks the whole structure: every tensor that the
//! configuration calls for is there, with its shape and a type that can be widened, and nothing else is. What is opened
//! can therefore be trusted by whoever reads weights later, minutes into a run.

mod compressed;
pub(crate) mod dtype;
mod folder;
mod gguf;
mod kv_cache;
mod mapped;
mod quantization;
mod safetensors;
mod scales;
mod stacked;
mod stored;
mod transforms;
mod verify;
mod writer;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use workbench_quant::{Grid, QuantizedWeight};

pub use self::compressed::InputQuantizer;
pub use self::dtype::{Dtype, find_non_finite, narrow, narrow_piece, widen_piece, widened};
use self::gguf::Meta;
use self::gguf::vocabulary::Vocabulary;
pub use self::kv_cache::KvQuantizer;
use self::kv_cache::StoredKv;
use self::mapped::MappedFile;
pub use self::mapped::regular_file;
pub(crate) use self::mapped::{read_json, read_small};
pub use self::quantization::QuantizationConfig;
use self::quantization::has_coded_experts;
use self::stored::Stored;
pub(crate) use self::transforms::online_rotations;
pub use self::transforms::transform_config;
use self::verify::{Input, Layout, Matched};
pub use self::writer::{CheckpointWriter, Written, WrittenFile};
use crate::arch::{EMBEDDINGS, LM_HEAD, block_of};
use crate::config::token_id;
use crate::{ModelConfig, ModelError, WeightSource};

/// A model on disk: its configuration and its tensors, mapped into memory.
///
/// Tensors are known by their dense Hugging Face names, however they are stored.
pub struct Checkpoint {
    path: PathBuf,
    config: ModelConfig,
    config_json: Value,
    tensors: BTreeMap<String, Stored>,
    weight_files: Vec<Arc<MappedFile>>,
    /// Files other than weights that decide what the model means.
    documents: Vec<PathBuf>,
    companions: Companions,
    quantization: Option<QuantizationConfig>,
    inputs: BTreeMap<String, Input>,
    kv_cache: Vec<StoredKv>,
}

/// Where tokenizer and generation settings come from.
enum Companions {
    Folder,
    /// The metadata that say what the files of a folder would say.
    Gguf(BTreeMap<String, Meta>),
}

/// A dense tensor's bytes, row-major and little-endian.
pub struct RawTensor<'a> {
    /// Element type of `bytes`.
    pub dtype: Dtype,
    /// Row-major shape.
    pub shape: &'a [usize],
    /// Borrowed from the mapped file where it stores the tensor like this; at any alignment.
    pub bytes: Cow<'a, [u8]>,
}

impl Checkpoint {
    /// Opens a model folder (`config.json` and safetensors files) or a GGUF file.
    ///
    /// # Errors
    /// [`ModelError`] that names the file and the tensor for anything that is missing, extra, misshapen, truncated,
    /// contradictory or not supported.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        match path.metadata() {
            Err(error) => Err(ModelError::file(path, format!("cannot be opened: {error}"), "")),
            Ok(metadata) if metadata.is_dir() => Self::open_folder(path),
            Ok(_) => Self::open_file(path),
        }
    }

    fn open_file(path: &Path) -> Result<Self, ModelError> {
        let file = Arc::new(MappedFile::open(path)?);
        let named_gguf = path.extension().is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
        if !named_gguf && !gguf::is_gguf(file.bytes()) {
            let hint = "name a GGUF file, or the folder that holds config.json and safetensors files";
            return Err(ModelError::file(path, "is neither a model folder nor a GGUF file", hint));
        }
        let gguf::GgufModel { mut config, config_json, tensors, metadata, files: weight_files } = gguf::open(&file)?;
        if let Some(vocabulary) = Vocabulary::read(&metadata, path)? {
            add_generation_eos(&mut config, &vocabulary.generation_config(), path)?;
        }
        let companions = Companions::Gguf(metadata);
        let (path, documents) = (path.into(), Vec::new());
        let (quantization, inputs, kv_cache) = (None, BTreeMap::new(), Vec::new());
        Ok(Self {
            path,
            config,
            config_json,
            tensors,
            weight_files,
            documents,
            companions,
            quantization,
            inputs,
            kv_cache,
        })
    }

    fn open_folder(path: &Path) -> Result<Self, ModelError> {
        let config_file = path.join("config.json");
        let config_json = read_json(&config_file)?.ok_or_else(|| {
            ModelError::file(&config_file, "does not exist", "a model folder holds config.json and safetensors files")
        })?;
        let mut config = ModelConfig::from_json(&config_json, &config_file)?;
        let generation_file = path.join("generation_config.json");
        if let Some(generation) = read_json(&generation_file)? {
            add_generation_eos(&mut config, &generation, &generation_file)?;
        }
        let coded_experts = has_coded_experts(&config, &config_json);
        let quantization = match coded_experts {
            true => None,
            false => QuantizationConfig::from_config(&config_json, &config_file)?,
        };
        let weights = folder::open_weights(path)?;
        let kv_grid = noted_kv_grid(&config_json, &config_file)?;
        let layout = Layout {
            config: &config,
            folder: path,
            quantization: quantization.as_ref(),
            weight_grids: &weights.grids,
            input_grids: &noted_input_grids(&config_json, &config_file)?,
            kv_grid: kv_grid.as_ref(),
            coded_experts,
        };
        let Matched { tensors, inputs, kv_cache } = layout.match_tensors(weights.tensors)?;
        let mut documents = vec![config_file];
        documents.extend(weights.index);
        documents.extend(folder::COMPANIONS.map(|name| path.join(name)).into_iter().filter(|file| file.exists()));
        let (path, weight_files, companions) = (path.into(), weights.files, Companions::Folder);
        Ok(Self {
            path,
            config,
            config_json,
            tensors,
            weight_files,
            documents,
            companions,
            quantization,
            inputs,
            kv_cache,
        })
    }

    /// The folder or file that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The normalised configuration. Its end tokens include those of `generation_config.json`.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The parsed `config.json`; for a GGUF file one that says the same as its metadata.
    pub fn config_json(&self) -> &Value {
        &self.config_json
    }

    /// Whether weights are codes of a quantized folder: those of compressed-tensors, or experts in stacks of MXFP4. Blocks of a GGUF file
    /// are a way of storing numbers, and no codes in this sense.
    pub fn has_codes(&self) -> bool {
        self.quantization.is_some() || self.tensors.values().any(|stored| matches!(stored, Stored::StackedCodes(_)))
    }

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The type in which [`Checkpoint::raw`] gives a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(Stored::dtype)
    }

    /// A tensor's bytes as they are stored; as f32 where it is stored as codes.
    ///
    /// # Errors
    /// There is no tensor of that name, or its codes give values that are not finite.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>, ModelError> {
        self.stored(name)?.raw(name)
    }

    /// The size of all weight files.
    pub fn bytes_on_disk(&self) -> u64 {
        self.weight_files.iter().map(|file| file.bytes().len() as u64).sum()
    }

    /// Every file that decides what the model means, weights and documents, in a fixed order.
    pub fn files(&self) -> Vec<PathBuf> {
        let weights = self.weight_files.iter().map(|file| file.path().to_path_buf());
        self.documents.iter().cloned().chain(weights).collect()
    }

    /// The files that would decide it too, if they were there.
    pub fn absent_files(&self) -> Vec<PathBuf> {
        let Companions::Folder = self.companions else { return Vec::new() };
        let there = self.files();
        // A single file is preferred to an index with its shards.
        let names = folder::COMPANIONS.into_iter().chain([folder::SINGLE_FILE]);
        names.map(|name| self.path.join(name)).filter(|file| !there.contains(file)).collect()
    }

    /// The bytes of a file that accompanies the weights, such as `tokenizer.json`; `None` where the model has none.
    ///
    /// # Errors
    /// The file exists but cannot be read, or a GGUF file's tokenizer is of an unknown kind.
    pub fn companion(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        match &self.companions {
            Companions::Folder => read_small(&self.path.join(name)),
            Companions::Gguf(metadata) => {
                let Some(vocabulary) = Vocabulary::read(metadata, &self.path)? else { return Ok(None) };
                let content = match name {
                    "tokenizer.json" => vocabulary.tokenizer_json()?,
                    "tokenizer_config.json" => vocabulary.tokenizer_config(),
                    "generation_config.json" => vocabulary.generation_config(),
                    _ => return Ok(None),
                };
                Ok(Some(content.to_string().into_bytes()))
            }
        }
    }

    /// How the linears are quantized, for a compressed-tensors folder.
    pub fn quantization(&self) -> Option<&QuantizationConfig> {
        self.quantization.as_ref()
    }

    /// The codes of a linear or of the embeddings, by the module's name; `None` where the weight is dense.
    ///
    /// # Errors
    /// There is no such linear, or its scales are damaged.
    pub fn quantized_linear(&self, module: &str) -> Result<Option<QuantizedWeight>, ModelError> {
        match self.stored(&format!("{module}.weight"))? {
            Stored::Compressed(stored) => stored.read().map(Some),
            Stored::StackedCodes(stored) => stored.read().map(Some),
            _ => Ok(None),
        }
    }

    /// The grid that the codes of a linear, or of the embeddings, are on, without reading them; `None` where the weight is dense.
    pub fn weight_grid(&self, module: &str) -> Option<&Grid> {
        match self.tensors.get(&format!("{module}.weight"))? {
            Stored::Compressed(stored) => Some(stored.grid()),
            _ => None,
        }
    }

    /// How the input of a linear is quantized, by its module name; `None` where it is not.
    ///
    /// # Errors
    /// A static scale is damaged.
    pub fn input_quantizer(&self, module: &str) -> Result<Option<InputQuantizer>, ModelError> {
        let Some(input) = self.inputs.get(module) else { return Ok(None) };
        let parameters = input.scale.as_ref().map(|scale| scale.parameters(module, &input.grid)).transpose()?;
        Ok(Some(InputQuantizer { grid: input.grid.clone(), parameters }))
    }

    /// How the keys and values of a block are quantized; `None` where they are not.
    ///
    /// # Errors
    /// A static scale is damaged.
    pub fn kv_quantizer(&self, block: usize) -> Result<Option<KvQuantizer>, ModelError> {
        self.kv_cache.get(block).map(StoredKv::read).transpose()
    }

    /// Stored bits per weight of the decoder blocks' linears, scales and zero-points counted.
    pub fn bits_per_weight(&self) -> f64 {
        let linears = self.config.linears();
        let weights: usize = linears.iter().map(|linear| linear.out_features * linear.in_features).sum();
        let bytes: usize = linears
            .iter()
            .filter_map(|linear| self.tensors.get(&format!("{}.weight", linear.name)))
            .map(Stored::bytes)
            .sum();
        8.0 * bytes as f64 / weights as f64
    }

    /// Stored bits per parameter of the whole model, everything counted: norms, biases, embeddings and head too.
    pub fn bits_per_parameter(&self) -> f64 {
        let parameters: usize = self.tensors.values().map(|stored| stored.shape().iter().product::<usize>()).sum();
        let bytes: usize = self.tensors.values().map(Stored::bytes).sum();
        8.0 * bytes as f64 / parameters as f64
    }

    /// Those of `lm_head` and the embeddings that are stored as codes, by their modules' names.
    pub fn quantized_embeddings(&self) -> Vec<&'static str> {
        let coded = |module: &&'static str| {
            matches!(self.tensors.get(&self.config.weight_of(module)), Some(Stored::Compressed(_)))
        };
        [LM_HEAD, EMBEDDINGS].into_iter().filter(coded).collect()
    }

    /// Reads every tensor once and makes sure that all values are finite, and scales and zero-points legal.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for the first tensor, by name, that holds a NaN or an infinity, or parameters that its grid
    /// cannot have.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        self.tensors.iter().try_for_each(|(name, stored)| {
            let checked = stored.check_finite(name);
            stored.drop_pages();
            checked
        })?;
        self.inputs.keys().try_for_each(|module| self.input_quantizer(module).map(drop))?;
        self.kv_cache.iter().try_for_each(|stored| stored.read().map(drop))
    }

    /// Lets the kernel take back the memory that holds these tensors' pages. They can be read again at any time.
    pub fn drop_pages<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        for stored in names.into_iter().filter_map(|name| self.tensors.get(name)) {
            stored.drop_pages();
        }
    }

    /// The same for all tensors of a decoder block.
    pub fn drop_block_pages(&self, index: usize) {
        self.drop_pages(self.tensors.keys().map(String::as_str).filter(|name| block_of(name) == Some(index)));
    }

    fn stored(&self, name: &str) -> Result<&Stored, ModelError> {
        self.tensors.get(name).ok_or_else(|| ModelError::tensor(&self.path, name, "does not exist", ""))
    }
}

impl WeightSource for Checkpoint {
    fn release_block(&self, index: usize) {
        self.drop_block_pages(index);
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|stored| stored.shape().to_vec())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.stored(name)?.values(name)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.stored(name)?.rows(name, rows)
    }

    fn stored_bf16(&self, name: &str) -> Result<Option<&[[u8; 2]]>, ModelError> {
        if self.dtype(name) != Some(Dtype::BF16) || !self.has_rows(name) {
            return Ok(None);
        }
        match self.raw(name)?.bytes {
            Cow::Borrowed(bytes) => Ok(Some(bytes.as_chunks().0)),
            Cow::Owned(_) => Ok(None),
        }
    }

    /// Where a tensor is stored as it is, and not in blocks or codes.
    fn has_rows(&self, name: &str) -> bool {
        matches!(self.tensors.get(name), Some(Stored::Dense(_)))
    }
}

/// A companion file parsed as JSON.
pub(crate) fn companion_json(checkpoint: &Checkpoint, name: &str) -> Result<Option<Value>, ModelError> {
    let Some(bytes) = checkpoint.companion(name)? else { return Ok(None) };
    let file = checkpoint.path.join(name);
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ModelError::file(&file, format!("is not valid JSON: {error}"), ""))
}

/// The key of `config.json` under which the writer notes what the format has no place for.
pub(crate) const NOTES_KEY: &str = "workbench";

/// The grids of quantized inputs that the writer noted, by module.
fn noted_input_grids(config: &Value, file: &Path) -> Result<BTreeMap<String, Grid>, ModelError> {
    #[derive(serde::Deserialize)]
    struct Noted {
        grid: Grid,
        modules: Vec<String>,
    }
    let Some(noted) = config.get(NOTES_KEY).and_then(|notes| notes.get("input_grids")) else {
        return Ok(BTreeMap::new());
    };
    let noted: Vec<Noted> = serde_json::from_value(noted.clone()).map_err(|cause| {
        ModelError::config(
            file,
            format!("notes grids that cannot be read: {cause}"),
            "the file was written by another version",
        )
    })?;
    Ok(noted
        .into_iter()
        .flat_map(|Noted { grid, modules }| modules.into_iter().map(move |module| (module, grid.clone())))
        .collect())
}

/// The grid of a quantized KV cache that the writer noted.
fn noted_kv_grid(config: &Value, file: &Path) -> Result<Option<Grid>, ModelError> {
    let Some(noted) = config.get(NOTES_KEY).and_then(|notes| notes.get("kv_grid")) else { return Ok(None) };
    serde_json::from_value(noted.clone()).map(Some).map_err(|cause| {
        let hint = "the file was written by another version";
        ModelError::config(file, format!("notes a grid that cannot be read: {cause}"), hint)
    })
}

/// Chat models often name their turn's end only in `generation_config.json`.
fn add_generation_eos(config: &mut ModelConfig, generation: &Value, file: &Path) -> Result<(), ModelError> {
    let ids = match generation.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
        None => Vec::new(),
    };
    for id in ids.iter().filter(|id| !id.is_null()) {
        let id = token_id(id, "eos_token_id", config.vocab_size, file)?;
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    Ok(())
}
