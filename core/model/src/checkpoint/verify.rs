//! Holds the tensors of the weight files against the configuration.

use std::collections::BTreeMap;
use std::path::Path;

use super::Stored;
use super::safetensors::StoredTensor;
use crate::{ModelConfig, ModelError};

/// Gives every tensor that the configuration calls for its stored form; anything missing, misshapen or left over is an
/// error.
pub(crate) fn match_tensors(
    config: &ModelConfig,
    mut stored: BTreeMap<String, StoredTensor>,
    folder: &Path,
) -> Result<BTreeMap<String, Stored>, ModelError> {
    let mut tensors = BTreeMap::new();
    let mut missing = Vec::new();
    for spec in config.tensors() {
        match stored.remove(&spec.name) {
            Some(tensor) => {
                check_dense(&spec.name, &spec.shape, &tensor)?;
                tensors.insert(spec.name, Stored::Dense(tensor));
            }
            None => missing.push(spec.name),
        }
    }
    if let Some(first) = missing.first() {
        return Err(missing_error(config, folder, first, missing.len()));
    }
    refuse_leftovers(config, &tensors, &stored)?;
    Ok(tensors)
}

fn check_dense(name: &str, shape: &[usize], tensor: &StoredTensor) -> Result<(), ModelError> {
    if tensor.shape != shape {
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("has shape {:?}, the configuration calls for {shape:?}", tensor.shape),
            "config.json and weights belong to different models",
        ));
    }
    if !tensor.dtype.is_dense_float() {
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("is of type {}, expected F32, F16 or BF16", tensor.dtype),
            "",
        ));
    }
    Ok(())
}

fn missing_error(config: &ModelConfig, folder: &Path, first: &str, count: usize) -> ModelError {
    let more = if count > 1 { format!(" (and {} more)", count - 1) } else { String::new() };
    let hint = if first == "lm_head.weight" {
        "`tie_word_embeddings` is false, so the head needs its own weight".into()
    } else {
        format!("the configuration describes a {} of {} layers", config.architecture.class_name(), config.num_layers)
    };
    ModelError::tensor(folder, first, format!("is missing{more}"), hint)
}

/// Refuses tensors that no part of the decoder would read: ignoring one would silently compute another function.
fn refuse_leftovers(
    config: &ModelConfig,
    tensors: &BTreeMap<String, Stored>,
    leftovers: &BTreeMap<String, StoredTensor>,
) -> Result<(), ModelError> {
    for (name, tensor) in leftovers {
        // Old exports store the rotary frequencies, which follow from the configuration.
        if name.ends_with(".rotary_emb.inv_freq") {
            continue;
        }
        if name == "lm_head.weight" && config.tie_word_embeddings {
            let embedding = tensors.get("model.embed_tokens.weight");
            if let Some(Stored::Dense(embedding)) = embedding
                && embedding.bytes() == tensor.bytes()
            {
                continue;
            }
            return Err(ModelError::tensor(
                tensor.file.path(),
                name,
                "differs from the embeddings although `tie_word_embeddings` is true",
                "set `tie_word_embeddings` to false if the head is meant to have its own weight",
            ));
        }
        return Err(ModelError::tensor(
            tensor.file.path(),
            name,
            format!("belongs to no part of a {} of {} layers", config.architecture.class_name(), config.num_layers),
            "config.json and weights belong to different models",
        ));
    }
    Ok(())
}
