//! A model that is split over several GGUF files, as llama.cpp's `gguf-split` does: `NAME-00001-of-00003.gguf` and so on. Each
//! part has a directory of its own; the metadata stand in the first.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::mapped::MappedFile;
use super::header::{Header, Meta, TensorInfo, parse};
use crate::ModelError;

/// More parts than any model has; a damaged count ends here and not in a list of missing files.
const MAX_PARTS: u64 = 10_000;

/// One tensor with the file that holds it.
pub(super) struct Placed {
    pub(super) file: Arc<MappedFile>,
    pub(super) info: TensorInfo,
}

/// All parts of a model as one.
pub(super) struct Whole {
    pub(super) metadata: BTreeMap<String, Meta>,
    pub(super) tensors: BTreeMap<String, Placed>,
    pub(super) files: Vec<Arc<MappedFile>>,
}

/// Reads a file, and the other parts where it is one of several; any of them may be named.
pub(super) fn open(file: &Arc<MappedFile>) -> Result<Whole, ModelError> {
    let header = parse(file.bytes(), file.path())?;
    let count = number(&header, "split.count", file.path())?.unwrap_or(1);
    let mut whole = Whole { metadata: BTreeMap::new(), tensors: BTreeMap::new(), files: Vec::new() };
    if count <= 1 {
        whole.add(file.clone(), header)?;
        return Ok(whole);
    }
    for (index, path) in names(file.path(), &header, count)?.into_iter().enumerate() {
        let part = open_part(&path, index as u64, count)?;
        let header = parse(part.bytes(), part.path())?;
        for (key, expected) in [("split.no", index as u64), ("split.count", count)] {
            let found = number(&header, key, part.path())?;
            if found != Some(expected) {
                let found = found.map_or("missing".into(), |found| found.to_string());
                let message = format!("`{key}` is {found}, expected {expected}");
                return Err(ModelError::file(part.path(), message, "the parts belong to different models"));
            }
        }
        whole.add(part, header)?;
    }
    whole.check_count(file.path())?;
    Ok(whole)
}

impl Whole {
    fn add(&mut self, file: Arc<MappedFile>, header: Header) -> Result<(), ModelError> {
        if self.files.is_empty() {
            self.metadata = header.metadata;
        } else {
            self.check_metadata(&file, &header.metadata)?;
        }
        for info in header.tensors {
            if let Some(other) = self.tensors.get(&info.name) {
                let message = format!("is in `{}` too", other.file.path().display());
                return Err(ModelError::tensor(
                    file.path(),
                    info.name,
                    message,
                    "the parts belong to different models",
                ));
            }
            self.tensors.insert(info.name.clone(), Placed { file: file.clone(), info });
        }
        self.files.push(file);
        Ok(())
    }

    /// What a later part says of the model has to be what the first says.
    fn check_metadata(&self, file: &MappedFile, metadata: &BTreeMap<String, Meta>) -> Result<(), ModelError> {
        let own = |key: &str| key.starts_with("split.") || key == "general.alignment";
        match metadata.iter().find(|(key, value)| !own(key) && self.metadata.get(*key) != Some(value)) {
            None => Ok(()),
            Some((key, _)) => {
                let message = format!("`{key}` is not what the first part says");
                Err(ModelError::file(file.path(), message, "the parts belong to different models"))
            }
        }
    }

    fn check_count(&self, file: &Path) -> Result<(), ModelError> {
        let claimed = self.metadata.get("split.tensors.count").and_then(Meta::as_u64);
        match claimed {
            Some(claimed) if claimed != self.tensors.len() as u64 => {
                let message =
                    format!("its parts hold {} tensors, `split.tensors.count` is {claimed}", self.tensors.len());
                Err(ModelError::file(file, message, "the parts belong to different models"))
            }
            _ => Ok(()),
        }
    }
}

fn number(header: &Header, key: &str, file: &Path) -> Result<Option<u64>, ModelError> {
    let Some(value) = header.metadata.get(key) else { return Ok(None) };
    match value.as_u64() {
        Some(number) if number <= MAX_PARTS => Ok(Some(number)),
        _ => Err(ModelError::file(file, format!("`{key}` is {value}, not a number of parts"), "")),
    }
}

/// The paths of all parts, from that of one of them.
fn names(path: &Path, header: &Header, count: u64) -> Result<Vec<PathBuf>, ModelError> {
    let no = number(header, "split.no", path)?.unwrap_or(0);
    let ending = |no: u64| format!("-{:05}-of-{count:05}.gguf", no + 1);
    let stem = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(&ending(no)));
    let Some(stem) = stem else {
        let message = format!("is part {} of {count}, and its name does not lead to the others", no + 1);
        let hint = format!("name it as it was split: NAME{}, with the other parts beside it", ending(no));
        return Err(ModelError::file(path, message, hint));
    };
    Ok((0..count).map(|no| path.with_file_name(format!("{stem}{}", ending(no)))).collect())
}

fn open_part(path: &Path, index: u64, count: u64) -> Result<Arc<MappedFile>, ModelError> {
    if !path.exists() {
        let message = format!("does not exist: part {} of the {count} that the model is split into", index + 1);
        return Err(ModelError::file(path, message, "fetch the missing part"));
    }
    MappedFile::open(path).map(Arc::new)
}
