//! Headers of safetensors files, read with every claim checked before it is used.
//!
//! The header is parsed here and not by the safetensors crate because its errors name neither the file nor, mostly, the
//! tensor, and a person with a broken download needs both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use super::dtype::Dtype;
use super::mapped::MappedFile;
use crate::ModelError;

/// The limit of the reference implementation.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// A tensor as one file holds it.
#[derive(Clone)]
pub(crate) struct StoredTensor {
    pub(crate) file: Arc<MappedFile>,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(crate) range: Range<usize>,
}

impl StoredTensor {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.file.bytes()[self.range.clone()]
    }

    pub(crate) fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

#[derive(Deserialize)]
struct HeaderEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// What a file's header says.
pub(crate) struct Header {
    /// By name. Their ranges are inside the file, fit dtype and shape, and neither overlap nor leave gaps.
    pub(crate) tensors: BTreeMap<String, StoredTensor>,
    /// Free text by key.
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Reads and checks the header of a mapped file.
pub(crate) fn read_header(file: &Arc<MappedFile>) -> Result<Header, ModelError> {
    let error = |message: String, hint: &str| ModelError::file(file.path(), message, hint);
    let bytes = file.bytes();
    let incomplete = "the file is truncated or no safetensors file; fetch it again";
    let Some((prefix, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(error(format!("has {} bytes, too few for a safetensors header", bytes.len()), incomplete));
    };
    let header_bytes = u64::from_le_bytes(*prefix);
    if header_bytes > MAX_HEADER_BYTES {
        return Err(error(
            format!("claims a header of {header_bytes} bytes, at most {MAX_HEADER_BYTES} are allowed"),
            incomplete,
        ));
    }
    if header_bytes > rest.len() as u64 {
        return Err(error(format!("claims a header of {header_bytes} bytes but has only {}", rest.len()), incomplete));
    }
    let (header, data) = rest.split_at(header_bytes as usize);
    let entries: BTreeMap<String, Value> = serde_json::from_slice(header)
        .map_err(|cause| error(format!("its safetensors header is not a JSON object: {cause}"), incomplete))?;

    let data_start = bytes.len() - data.len();
    let mut tensors = BTreeMap::new();
    let mut metadata = BTreeMap::new();
    for (name, entry) in entries {
        if name == "__metadata__" {
            metadata = serde_json::from_value(entry)
                .map_err(|cause| error(format!("its `__metadata__` are not texts by name: {cause}"), incomplete))?;
            continue;
        }
        let tensor = stored_tensor(file, &name, entry, data_start, data.len())?;
        tensors.insert(name, tensor);
    }
    check_cover(file, &tensors, data_start)?;
    Ok(Header { tensors, metadata })
}

fn stored_tensor(
    file: &Arc<MappedFile>,
    name: &str,
    entry: Value,
    data_start: usize,
    data_len: usize,
) -> Result<StoredTensor, ModelError> {
    let error = |message: String, hint: &str| ModelError::tensor(file.path(), name, message, hint);
    let entry: HeaderEntry =
        serde_json::from_value(entry).map_err(|cause| error(format!("its header entry is malformed: {cause}"), ""))?;
    let dtype = Dtype::from_name(&entry.dtype)
        .ok_or_else(|| error(format!("is of the unsupported type {}", entry.dtype), ""))?;
    let size = entry.shape.iter().try_fold(dtype.size() as u64, |size, dim| size.checked_mul(*dim));
    let (start, end) = entry.data_offsets;
    if end < start || size != Some(end - start) {
        return Err(error(
            format!("its byte range {start}..{end} does not fit {dtype} {:?}", entry.shape),
            "the header contradicts itself; fetch the file again",
        ));
    }
    if end > data_len as u64 {
        return Err(error(
            format!("ends at byte {end} of the data, but the file holds only {data_len}"),
            "the file is truncated; fetch it again",
        ));
    }
    Ok(StoredTensor {
        file: file.clone(),
        dtype,
        // The product was checked against the file's length, but a zero can hide a huge factor.
        shape: entry
            .shape
            .iter()
            .map(|dim| usize::try_from(*dim))
            .collect::<Result<_, _>>()
            .map_err(|_| error("its shape is too large".into(), ""))?,
        range: data_start + start as usize..data_start + end as usize,
    })
}

/// Overlapping tensors and bytes that belong to none are refused, as the format demands.
fn check_cover(
    file: &MappedFile,
    tensors: &BTreeMap<String, StoredTensor>,
    data_start: usize,
) -> Result<(), ModelError> {
    let mut ranges = tensors.iter().map(|(name, tensor)| (tensor.range.clone(), name)).collect::<Vec<_>>();
    ranges.sort_by_key(|(range, _)| (range.start, range.end));
    let mut position = data_start;
    for (range, name) in ranges {
        if range.start != position {
            let what = if range.start < position { "overlaps another tensor" } else { "leaves a gap before it" };
            return Err(ModelError::tensor(
                file.path(),
                name.as_str(),
                format!("its byte range {what}"),
                "the header contradicts itself; fetch the file again",
            ));
        }
        position = range.end;
    }
    if position != file.bytes().len() {
        let extra = file.bytes().len() - position;
        return Err(ModelError::file(
            file.path(),
            format!("has {extra} bytes after its last tensor"),
            "fetch it again",
        ));
    }
    Ok(())
}
