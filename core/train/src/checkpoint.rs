//! Training state on disk.
//!
//! A checkpoint is a folder `step-N` with `state.safetensors` (weights and moments in f32 of what is trained, and the best weights so
//! far where they are kept: frozen parameters are the caller's to load again), `state.json` (the step, what was measured until then and
//! the settings it belongs to) and the digests of both. It is written under another name and renamed when it is complete, so that what
//! can be found can be used, if it still is what was written.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_model::WeightSource;
use workbench_model::decoder::TrainableParams;

use crate::TrainError;
use crate::adamw::{AdamW, Moments};
use crate::course::{Best, Course};

const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
const DIGESTS: &str = "digests.json";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct State {
    step: u64,
    /// The bits of the mean losses of the steps so far: the summary of a resumed run is that of an uninterrupted one, and reading
    /// a number from text may change its last bit.
    losses: Vec<u64>,
    /// Step and loss of the measurements on validation data.
    validation: Vec<(u64, u64)>,
    /// Step and loss of the best of them, where its weights are kept.
    best: Option<(u64, u64)>,
    settings: Value,
}

fn broken(path: &Path, message: impl ToString) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), message: message.to_string() }
}

/// Writes the state after the steps of `course` and removes older checkpoints.
pub(crate) fn save(
    folder: &Path,
    parameters: &TrainableParams,
    optimizer: &AdamW,
    course: &Course,
    settings: &Value,
) -> Result<(), TrainError> {
    let step = course.losses.len() as u64;
    let fail = |error: std::io::Error| broken(folder, error);
    let unfinished = folder.join("unfinished");
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).map_err(fail)?;
    }
    fs::create_dir_all(&unfinished).map_err(fail)?;
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = BTreeMap::new();
    for (name, var) in parameters.trainable() {
        let mut put = |kind: &str, values: &[f32]| {
            let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            tensors.insert(format!("{kind}.{name}"), (var.dims().to_vec(), bytes));
        };
        put("weight", &parameters.values(name)?);
        if let Some(moments) = optimizer.moments.get(name) {
            put("first", &moments.first);
            put("second", &moments.second);
        }
        if let Some(values) = course.best.as_ref().and_then(|best| best.weights.get(name)) {
            put("best", values);
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes).map_err(|error| broken(folder, error))?))
    });
    let views: Vec<_> = views.collect::<Result<_, TrainError>>()?;
    let bytes = safetensors::serialize(views, None).map_err(|error| broken(folder, error))?;
    write(&unfinished.join(TENSORS), &bytes)?;
    let mut digests = BTreeMap::from([(TENSORS, digest(&bytes))]);
    let state = State {
        step,
        losses: course.losses.iter().map(|loss| loss.to_bits()).collect(),
        validation: course.validation.iter().map(|(step, loss)| (*step, loss.to_bits())).collect(),
        best: course.best.as_ref().map(|best| (best.step, best.loss.to_bits())),
        settings: settings.clone(),
    };
    let bytes = serde_json::to_vec(&state).map_err(|error| broken(folder, error))?;
    write(&unfinished.join(STATE), &bytes)?;
    digests.insert(STATE, digest(&bytes));
    write(&unfinished.join(DIGESTS), &serde_json::to_vec(&digests).map_err(|error| broken(folder, error))?)?;
    let finished = folder.join(format!("step-{step}"));
    if !finished.exists() {
        fs::rename(&unfinished, &finished).map_err(fail)?;
    }
    for (other, path) in found(folder)? {
        if other < step {
            fs::remove_dir_all(path).map_err(fail)?;
        }
    }
    Ok(())
}

fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let write = || {
        let mut file = File::create(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|error| broken(path, error))
}

/// Finished checkpoints by step.
fn found(folder: &Path) -> Result<BTreeMap<u64, PathBuf>, TrainError> {
    if !folder.exists() {
        return Ok(BTreeMap::new());
    }
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| broken(folder, error))? {
        let path = entry.map_err(|error| broken(folder, error))?.path();
        let step = path.file_name().and_then(|name| name.to_str()?.strip_prefix("step-")?.parse().ok());
        if let Some(step) = step {
            all.insert(step, path);
        }
    }
    Ok(all)
}

/// Loads the latest checkpoint into parameters and optimizer and returns what happened until then; `None` if there is no
/// checkpoint.
pub(crate) fn resume(
    folder: &Path,
    parameters: &TrainableParams,
    optimizer: &mut AdamW,
    settings: &Value,
) -> Result<Option<Course>, TrainError> {
    let Some((_, path)) = found(folder)?.pop_last() else { return Ok(None) };
    let bytes = |name: &str| fs::read(path.join(name)).map_err(|error| broken(&path.join(name), error));
    let digests: BTreeMap<String, String> =
        serde_json::from_slice(&bytes(DIGESTS)?).map_err(|error| broken(&path.join(DIGESTS), error))?;
    let read = |name: &str| {
        let bytes = bytes(name)?;
        if digests.get(name) == Some(&digest(&bytes)) {
            return Ok(bytes);
        }
        Err(broken(&path.join(name), "it does not hold what was written: remove the checkpoint to start anew"))
    };
    let state: State = serde_json::from_slice(&read(STATE)?).map_err(|error| broken(&path.join(STATE), error))?;
    if state.settings != *settings || state.losses.len() as u64 != state.step {
        return Err(broken(&path, "the checkpoint belongs to a training with other settings"));
    }
    let bytes = read(TENSORS)?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|error| broken(&path.join(TENSORS), error))?;
    let values = |kind: &str, name: &str| -> Result<Vec<f32>, TrainError> {
        let key = format!("{kind}.{name}");
        let view = tensors.tensor(&key).map_err(|error| broken(&path.join(TENSORS), error))?;
        let expected = parameters.get(name).map(|var| var.dims().to_vec()).unwrap_or_default();
        if view.dtype() != Dtype::F32 || view.shape() != expected {
            return Err(broken(&path.join(TENSORS), format!("`{key}` is not f32 of shape {expected:?}")));
        }
        Ok(view.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };
    let mut best = state.best.map(|(step, loss)| Best { step, loss: f64::from_bits(loss), ..Best::default() });
    for (name, _) in parameters.trainable() {
        if let Some(best) = &mut best {
            best.weights.insert(name.to_owned(), values("best", name)?);
        }
        parameters.set(name, values("weight", name)?)?;
        let moments = Moments { first: values("first", name)?, second: values("second", name)? };
        optimizer.moments.insert(name.to_owned(), moments);
    }
    optimizer.steps = state.step;
    let losses = state.losses.into_iter().map(f64::from_bits).collect();
    let validation = state.validation.into_iter().map(|(step, loss)| (step, f64::from_bits(loss))).collect();
    Ok(Some(Course { losses, validation, best }))
}
