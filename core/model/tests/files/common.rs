//! Small models written into temporary folders, and the large fixtures where they are there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::{Checkpoint, ModelConfig, ModelError};

/// Dtype, shape and data.
pub(crate) type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// The tensors of a file.
pub(crate) type Tensors = BTreeMap<String, Stored>;

/// A Qwen3 of two layers with grouped queries, untied.
pub(crate) fn tiny_config() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 32,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
        "eos_token_id": 3, "torch_dtype": "float32"
    })
}

pub(crate) fn parse(config: &Value) -> Result<ModelConfig, ModelError> {
    ModelConfig::from_json(config, Path::new("config.json"))
}

/// Values that differ from element to element and from tensor to tensor, none of them an integer.
pub(crate) fn values(seed: usize, elements: usize) -> Vec<f32> {
    (0..elements).map(|i| (((i * 37 + seed * 101) % 257) as f32 - 128.3) / 61.0).collect()
}

pub(crate) fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Every tensor that the configuration calls for, in f32.
pub(crate) fn tiny_tensors(config: &Value) -> Tensors {
    let specs = parse(config).unwrap().tensors().into_iter().enumerate();
    specs
        .map(|(seed, spec)| {
            let data = f32_bytes(&values(seed, spec.shape.iter().product()));
            (spec.name, (Dtype::F32, spec.shape, data))
        })
        .collect()
}

pub(crate) fn write_safetensors(path: &Path, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dtype, shape, data))| {
        (name.as_str(), TensorView::new(*dtype, shape.clone(), data).expect("shape and data agree"))
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// A folder with one weight file.
pub(crate) fn write_model(config: &Value, tensors: &Tensors) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), config);
    write_safetensors(&folder.path().join("model.safetensors"), tensors);
    folder
}

pub(crate) fn write_config(folder: &Path, config: &Value) {
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
}

/// The message of the error that opening a folder must give, file and tensor included.
pub(crate) fn open_error(path: &Path) -> String {
    match Checkpoint::open(path) {
        Ok(_) => panic!("{} was opened although it is broken", path.display()),
        Err(error) => error.to_string(),
    }
}

/// Asserts that a text holds every one of the parts.
pub(crate) fn assert_holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

/// A path among the large fixtures; prints the reason for a skip where it is absent.
pub(crate) fn fixture(test: &str, path: &str) -> Option<PathBuf> {
    let root = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let found = root.join(path);
    if !found.exists() {
        eprintln!("skipped: {test}: {path} is not among the fixtures");
        return None;
    }
    Some(found)
}
