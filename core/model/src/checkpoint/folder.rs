//! The weight files of a Hugging Face folder: one safetensors file, or shards with an index.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use workbench_quant::Grid;

use super::mapped::{MappedFile, read_json};
use super::safetensors::{Header, StoredTensor, read_header};
use crate::ModelError;

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// Files beside the weights that belong to a model: what decides its meaning, and what an artifact takes over.
pub(crate) const COMPANIONS: [&str; 9] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

/// Everything that the folder's weight files hold.
pub(crate) struct WeightFiles {
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
    pub(crate) files: Vec<Arc<MappedFile>>,
    /// The path of the index, where there is one.
    pub(crate) index: Option<PathBuf>,
    /// The grids that the writer noted, by module.
    pub(crate) grids: BTreeMap<String, Grid>,
}

impl WeightFiles {
    fn add(&mut self, file: Arc<MappedFile>, header: Header) -> Result<(), ModelError> {
        self.grids.extend(noted_grids(file.path(), &header)?);
        self.tensors.extend(header.tensors);
        self.files.push(file);
        Ok(())
    }
}

/// The key under which a shard notes the grids of its codes.
pub(crate) const GRIDS_KEY: &str = "grids";

/// The grids in a header's metadata.
pub(crate) fn noted_grids(file: &Path, header: &Header) -> Result<BTreeMap<String, Grid>, ModelError> {
    let Some(text) = header.metadata.get(GRIDS_KEY) else { return Ok(BTreeMap::new()) };
    let hint = "the file was written by another version, or is damaged";
    serde_json::from_str(text)
        .map_err(|cause| ModelError::file(file, format!("notes grids that cannot be read: {cause}"), hint))
}

/// Maps the weight files of a folder and reads their headers.
pub(crate) fn open_weights(folder: &Path) -> Result<WeightFiles, ModelError> {
    let single = folder.join(SINGLE_FILE);
    let index = folder.join(INDEX_FILE);
    let empty = |index| WeightFiles { tensors: BTreeMap::new(), files: Vec::new(), index, grids: BTreeMap::new() };
    if single.exists() {
        let file = Arc::new(MappedFile::open(&single)?);
        let mut weights = empty(None);
        let header = read_header(&file)?;
        weights.add(file, header)?;
        return Ok(weights);
    }
    match read_json(&index)? {
        Some(parsed) => open_shards(folder, &index, &parsed, empty(Some(index.clone()))),
        None => Err(no_weights(folder)),
    }
}

fn no_weights(folder: &Path) -> ModelError {
    let other = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let other = other.filter_map(|name| name.into_string().ok());
    let other = other.filter(|name| [".bin", ".pt", ".pth", ".gguf"].iter().any(|end| name.ends_with(end))).min();
    let hint = match other {
        Some(name) if name.ends_with(".gguf") => format!("name the GGUF file itself: {}", folder.join(name).display()),
        Some(name) => format!("`{name}` is in another format; convert it to safetensors"),
        None => "a model folder holds config.json and safetensors files".into(),
    };
    ModelError::file(folder, format!("holds neither {SINGLE_FILE} nor {INDEX_FILE}"), hint)
}

fn open_shards(
    folder: &Path,
    index: &Path,
    parsed: &Value,
    mut weights: WeightFiles,
) -> Result<WeightFiles, ModelError> {
    let map = weight_map(index, parsed)?;
    let shard_names = map.values().copied().collect::<BTreeSet<_>>();
    check_shards_exist(folder, index, &shard_names)?;
    for shard in shard_names {
        let file = Arc::new(MappedFile::open(&folder.join(shard))?);
        let header = read_header(&file)?;
        for name in header.tensors.keys() {
            if map.get(name.as_str()) != Some(&shard) {
                return Err(ModelError::tensor(
                    file.path(),
                    name,
                    match map.get(name.as_str()) {
                        Some(other) => format!("is in this shard, but the index places it in `{other}`"),
                        None => "is in this shard, but not in the index".into(),
                    },
                    "index and shards belong to different downloads",
                ));
            }
        }
        weights.add(file, header)?;
    }
    match map.iter().find(|(name, _)| !weights.tensors.contains_key(**name)) {
        Some((name, shard)) => Err(ModelError::tensor(
            index,
            *name,
            format!("the index places it in `{shard}`, which does not hold it"),
            "index and shards belong to different downloads",
        )),
        None => Ok(weights),
    }
}

/// Tensor name to shard file name; every shard name is a plain file name.
fn weight_map<'a>(index: &Path, parsed: &'a Value) -> Result<BTreeMap<&'a str, &'a str>, ModelError> {
    let Some(map) = parsed.get("weight_map").and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return Err(ModelError::file(index, "has no `weight_map` that names tensors and their files", ""));
    };
    let mut checked = BTreeMap::new();
    for (name, shard) in map {
        let Some(shard) = shard.as_str() else {
            return Err(ModelError::tensor(index, name, format!("is mapped to {shard}, not to a file name"), ""));
        };
        let mut components = Path::new(shard).components();
        let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
        if !plain {
            return Err(ModelError::tensor(
                index,
                name,
                format!("is mapped to `{shard}`, which is not a file name inside the folder"),
                "shards must lie beside the index",
            ));
        }
        checked.insert(name.as_str(), shard);
    }
    Ok(checked)
}

fn check_shards_exist(folder: &Path, index: &Path, shards: &BTreeSet<&str>) -> Result<(), ModelError> {
    let missing = shards.iter().filter(|shard| !folder.join(shard).exists()).collect::<Vec<_>>();
    match missing.first() {
        None => Ok(()),
        Some(first) => Err(ModelError::file(
            index,
            format!("names {} files, of which {} are missing, `{first}` among them", shards.len(), missing.len()),
            "fetch the missing shards",
        )),
    }
}
