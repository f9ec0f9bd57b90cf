//! Checkpoints: Hugging Face folders and GGUF files, mapped and checked when they are opened.
//!
//! [`Checkpoint::open`] reads headers and configuration only, yet checks the whole structure: every tensor that the
//! configuration calls for is there, with its shape and a type that can be widened, and nothing else is. What is opened
//! can therefore be trusted by whoever reads weights later, minutes into a run.

mod dtype;
mod folder;
mod gguf;
mod mapped;
mod safetensors;
mod verify;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

pub use self::dtype::Dtype;
use self::dtype::widen;
use self::gguf::GgufTensor;
use self::gguf::Meta;
use self::gguf::vocabulary::Vocabulary;
use self::mapped::MappedFile;
use self::safetensors::StoredTensor;
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
}

/// How a logical tensor is stored.
enum Stored {
    Dense(StoredTensor),
    Gguf(GgufTensor),
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
        let gguf::GgufModel { mut config, config_json, tensors, metadata } = gguf::open(&file)?;
        if let Some(vocabulary) = Vocabulary::read(&metadata, path)? {
            add_generation_eos(&mut config, &vocabulary.generation_config(), path)?;
        }
        let companions = Companions::Gguf(metadata);
        let (path, documents) = (path.into(), Vec::new());
        Ok(Self { path, config, config_json, tensors, weight_files: vec![file], documents, companions })
    }

    fn open_folder(path: &Path) -> Result<Self, ModelError> {
        let config_file = path.join("config.json");
        let config_json = mapped::read_json(&config_file)?.ok_or_else(|| {
            ModelError::file(&config_file, "does not exist", "a model folder holds config.json and safetensors files")
        })?;
        let mut config = ModelConfig::from_json(&config_json, &config_file)?;
        let generation_file = path.join("generation_config.json");
        if let Some(generation) = mapped::read_json(&generation_file)? {
            add_generation_eos(&mut config, &generation, &generation_file)?;
        }
        let weights = folder::open_weights(path)?;
        let tensors = verify::match_tensors(&config, weights.tensors, path)?;
        let mut documents = vec![config_file];
        documents.extend(weights.index);
        documents.extend(folder::COMPANIONS.map(|name| path.join(name)).into_iter().filter(|file| file.exists()));
        let (path, weight_files, companions) = (path.into(), weights.files, Companions::Folder);
        Ok(Self { path, config, config_json, tensors, weight_files, documents, companions })
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

    /// The names of all tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    /// The type in which [`Checkpoint::raw`] gives a tensor.
    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.tensors.get(name).map(|stored| match stored {
            Stored::Dense(tensor) => tensor.dtype,
            Stored::Gguf(tensor) => tensor.dense_dtype(),
        })
    }

    /// A tensor's bytes as they are stored; as f32 where it is stored in blocks.
    ///
    /// # Errors
    /// There is no tensor of that name, or its blocks hold values that are not finite.
    pub fn raw(&self, name: &str) -> Result<RawTensor<'_>, ModelError> {
        match self.stored(name)? {
            Stored::Dense(tensor) => {
                Ok(RawTensor { dtype: tensor.dtype, shape: &tensor.shape, bytes: Cow::Borrowed(tensor.bytes()) })
            }
            Stored::Gguf(tensor) => {
                let bytes = tensor.dense_bytes().map_err(|bad| self.not_finite(name, &tensor.shape, bad))?;
                Ok(RawTensor { dtype: tensor.dense_dtype(), shape: &tensor.shape, bytes: Cow::Owned(bytes) })
            }
        }
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

    /// The bytes of a file that accompanies the weights, such as `tokenizer.json`; `None` where the model has none.
    ///
    /// # Errors
    /// The file exists but cannot be read, or a GGUF file's tokenizer is of an unknown kind.
    pub fn companion(&self, name: &str) -> Result<Option<Vec<u8>>, ModelError> {
        match &self.companions {
            Companions::Folder => mapped::read_small(&self.path.join(name)),
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

    /// Reads every tensor once and makes sure that all values are finite.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] for the first tensor, by name, that holds a NaN or an infinity.
    pub fn check_finite(&self) -> Result<(), ModelError> {
        self.tensors.keys().try_for_each(|name| {
            let checked = self.values(name).map(drop);
            self.drop_pages([name.as_str()]);
            checked
        })
    }

    /// Lets the kernel take back the memory that holds these tensors' pages. They can be read again at any time.
    pub fn drop_pages<'a>(&self, names: impl IntoIterator<Item = &'a str>) {
        for stored in names.into_iter().filter_map(|name| self.tensors.get(name)) {
            match stored {
                Stored::Dense(tensor) => tensor.file.drop_pages(tensor.range.clone()),
                Stored::Gguf(tensor) => tensor.file.drop_pages(tensor.range.clone()),
            }
        }
    }

    fn not_finite(&self, name: &str, shape: &[usize], (index, value): (usize, f32)) -> ModelError {
        not_finite(&self.path, name, shape, index, value)
    }

    fn stored(&self, name: &str) -> Result<&Stored, ModelError> {
        self.tensors.get(name).ok_or_else(|| ModelError::tensor(&self.path, name, "does not exist", ""))
    }
}

impl WeightSource for Checkpoint {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.tensors.get(name).map(|stored| match stored {
            Stored::Dense(tensor) => tensor.shape.clone(),
            Stored::Gguf(tensor) => tensor.shape.clone(),
        })
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        match self.stored(name)? {
            Stored::Dense(tensor) => dense_values(name, tensor),
            Stored::Gguf(tensor) => tensor.values().map_err(|bad| self.not_finite(name, &tensor.shape, bad)),
        }
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

/// Widens a stored tensor; NaN and infinities are refused here, where the tensor can still be named.
fn dense_values(name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
    let mut values = vec![0.0; tensor.elements()];
    match widen(tensor.dtype, tensor.bytes(), &mut values) {
        None => Ok(values),
        Some(index) => Err(not_finite(tensor.file.path(), name, &tensor.shape, index, values[index])),
    }
}

fn not_finite(file: &Path, name: &str, shape: &[usize], index: usize, value: f32) -> ModelError {
    let mut position = vec![0; shape.len()];
    let mut rest = index;
    for (coordinate, dim) in position.iter_mut().zip(shape).rev() {
        (*coordinate, rest) = (rest % dim, rest / dim);
    }
    ModelError::tensor(
        file,
        name,
        format!("holds {value} at {position:?}"),
        "the weights are damaged; fetch them again",
    )
}

/// Chat models often name their turn's end only in `generation_config.json`.
fn add_generation_eos(config: &mut ModelConfig, generation: &Value, file: &Path) -> Result<(), ModelError> {
    let ids = match generation.get("eos_token_id") {
        Some(Value::Array(ids)) => ids.clone(),
        Some(id) => vec![id.clone()],
        None => Vec::new(),
    };
    for id in ids.iter().filter(|id| !id.is_null()) {
        let Some(id) = id.as_u64().and_then(|id| u32::try_from(id).ok()) else {
            return Err(ModelError::config(file, format!("`eos_token_id` holds {id}, which is no token id"), ""));
        };
        if !config.eos_token_ids.contains(&id) {
            config.eos_token_ids.push(id);
        }
    }
    Ok(())
}
