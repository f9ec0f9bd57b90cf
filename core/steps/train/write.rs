//! The folder that a training leaves.

use std::{collections::BTreeSet, path::Path};

use serde_json::Value;
use workbench_model::{ModelConfig, WeightSource, checkpoint::Dtype};

use super::{
    super::artifact::{Artifact, Put, patched, stored_as, with_dtype},
    grids::Grids,
    start::Start,
};
use crate::{
    error::{Error, Result},
    graph::params::WeightDtype,
    store::Scratch,
};

/// Writes what the trainer put over what was there; codes go to disk as they are.
///
/// # Errors
/// What it put does not make a model, or cannot be written.
pub(super) fn write(
    scratch: &Scratch,
    start: &Start,
    grids: &Grids,
    dtype: Option<WeightDtype>,
    put: &Put,
) -> Result<Value> {
    let config_json = patched(start.config_json(), &put.config_patch);
    let wanted = dtype.map(stored_as);
    let config_json = match dtype {
        Some(dtype) => with_dtype(&config_json, dtype),
        None => config_json,
    };
    let config = ModelConfig::from_json(&config_json, Path::new("config.json"))?;
    let needed: BTreeSet<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
    if let Some(stray) = put.stray(|name| needed.contains(name)) {
        return Err(Error::refused(format!("the trainer put `{stray}`, which the resulting model has no place for")));
    }
    let mut artifact = match start {
        Start::Weights(checkpoint) => Artifact::create(scratch, checkpoint, &config_json)?,
        Start::Blank(blank) => Artifact::create_from_folder(scratch, blank.folder(), &config_json)?,
    };
    grids.declare(&mut artifact)?;
    for (module, weight) in &put.weights {
        artifact.put_quantized(module, weight)?;
    }
    for tensor in config.tensors() {
        if tensor.name.strip_suffix(".weight").is_some_and(|module| put.weights.contains_key(module)) {
            continue;
        }
        let (values, stored) = match (put.tensors.get(&tensor.name), start) {
            (Some(found), _) => {
                if found.shape != tensor.shape {
                    return Err(Error::refused(format!(
                        "the trainer put `{}` of shape {:?}; {:?} is needed",
                        tensor.name, found.shape, tensor.shape
                    )));
                }
                (found.values()?, found.dtype)
            }
            (None, Start::Weights(checkpoint)) => (
                checkpoint.values(&tensor.name)?,
                checkpoint.dtype(&tensor.name).filter(|d| d.is_dense_float()).unwrap_or(Dtype::F32),
            ),
            (None, Start::Blank(_)) => {
                return Err(Error::refused(format!(
                    "the trainer put no `{}`, and the model began without weights",
                    tensor.name
                )));
            }
        };
        let kept = match start {
            Start::Weights(checkpoint) => {
                checkpoint.dtype(&tensor.name).filter(|d| d.is_dense_float()).unwrap_or(stored)
            }
            Start::Blank(_) => stored,
        };
        let dtype = wanted.unwrap_or(kept);
        artifact.put_values(&tensor.name, dtype, &tensor.shape, &values)?;
    }
    artifact.finish(scratch)
}
