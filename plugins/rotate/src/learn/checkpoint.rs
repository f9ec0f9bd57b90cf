//! The state of an interrupted run: rotations in f64 and the losses so far, in one file that appears by a rename.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use workbench_api::sdk::Error;
use workbench_rotation::Square;

const FILE: &str = "rotations.safetensors";
const SETTINGS: &str = "settings";
const LOSSES: &str = "losses";
const DEVIATION: &str = "deviation";

/// Rotations by name, the loss of every step that led to them, and the largest deviation of one from orthogonality.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) matrices: Vec<(String, Square)>,
    pub(crate) losses: Vec<f64>,
    pub(crate) deviation: f64,
}

/// Writes the state; `settings` say which run it belongs to.
pub(crate) fn save(folder: &Path, state: &State, settings: &str) -> Result<(), Error> {
    let bytes = |values: &[f64]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
    let mut tensors = vec![
        (LOSSES.to_owned(), vec![state.losses.len()], bytes(&state.losses)),
        (DEVIATION.to_owned(), vec![1], bytes(&[state.deviation])),
    ];
    for (name, matrix) in &state.matrices {
        tensors.push((name.clone(), vec![matrix.size(); 2], bytes(matrix.values())));
    }
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F64, shape.clone(), bytes)?)))
        .collect::<Result<_, Error>>()?;
    let metadata = HashMap::from([(SETTINGS.to_owned(), settings.to_owned())]);
    let whole = safetensors::serialize(views, Some(metadata))?;
    fs::create_dir_all(folder)?;
    let unfinished = folder.join("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(&whole)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))?;
    Ok(())
}

/// The state of a folder; `None` if there is none.
pub(crate) fn load(folder: &Path, settings: &str) -> Result<Option<State>, Error> {
    let path = folder.join(FILE);
    if !path.exists() {
        return Ok(None);
    }
    let read = || -> Result<State, Error> {
        let bytes = fs::read(&path)?;
        let (_, header) = SafeTensors::read_metadata(&bytes)?;
        if header.metadata().as_ref().and_then(|metadata| metadata.get(SETTINGS)).map(String::as_str) != Some(settings)
        {
            return Err(Error::input("it belongs to a run with other settings").with_hint("remove it to start anew"));
        }
        let mut state = State::default();
        for (name, view) in SafeTensors::deserialize(&bytes)?.iter() {
            let (words, _) = view.data().as_chunks::<8>();
            let values: Vec<f64> = words.iter().map(|word| f64::from_le_bytes(*word)).collect();
            match (name, view.shape()) {
                (LOSSES, _) => state.losses = values,
                (DEVIATION, _) => state.deviation = values.first().copied().unwrap_or_default(),
                (_, [size, _]) => state.matrices.push((name.to_owned(), Square::new(*size, values)?)),
                (_, shape) => return Err(Error::input(format!("`{name}` is of shape {shape:?}"))),
            }
        }
        Ok(state)
    };
    read().map(Some).map_err(|error| error.context(format!("reading {}", path.display())))
}
