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
const DIGEST: &str = "digest";

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
    tensors.sort();
    let digest = digest(tensors.iter().map(|(name, _, bytes)| (name.as_str(), bytes.as_slice())));
    let views: Vec<(&str, TensorView<'_>)> = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F64, shape.clone(), bytes)?)))
        .collect::<Result<_, Error>>()?;
    let metadata = HashMap::from([(SETTINGS.to_owned(), settings.to_owned()), (DIGEST.to_owned(), digest)]);
    let whole = safetensors::serialize(views, Some(metadata))?;
    fs::create_dir_all(folder)?;
    let unfinished = folder.join("unfinished");
    let mut file = File::create(&unfinished)?;
    file.write_all(&whole)?;
    file.sync_all()?;
    fs::rename(&unfinished, folder.join(FILE))?;
    Ok(())
}

/// The digest of tensors in the order of their names.
fn digest<'a>(tensors: impl Iterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut hasher = blake3::Hasher::new();
    for (name, bytes) in tensors {
        hasher.update(format!("{name} {}\n", bytes.len()).as_bytes());
        hasher.update(bytes);
    }
    hasher.finalize().to_hex().to_string()
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
        let tensors = SafeTensors::deserialize(&bytes)?;
        let mut found: Vec<(&str, &[u8])> = tensors.iter().map(|(name, view)| (name, view.data())).collect();
        found.sort_unstable();
        let promised = header.metadata().as_ref().and_then(|metadata| metadata.get(DIGEST));
        if promised != Some(&digest(found.into_iter())) {
            return Err(Error::input("it does not hold what was written").with_hint("remove it to start anew"));
        }
        let mut state = State::default();
        for (name, view) in tensors.iter() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_changed_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let matrices = vec![("b".to_owned(), Square::identity(2)), ("a".to_owned(), Square::identity(3))];
        save(dir.path(), &State { matrices, losses: vec![0.5], ..State::default() }, "x").unwrap();
        let found = load(dir.path(), "x").unwrap().unwrap();
        assert_eq!((found.matrices.len(), found.losses), (2, vec![0.5]));
        assert!(load(dir.path(), "y").is_err());
        let path = dir.path().join(FILE);
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(load(dir.path(), "x").is_err());
    }
}
