//! One safetensors file: the same tensors give the same bytes, and its name carries the digest of them.
//!
//! The header is written here because the safetensors crate keeps metadata in a hash map: with two entries its order, and
//! with it the digest, would differ from process to process.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

use crate::ModelError;
use crate::checkpoint::Dtype;

/// A tensor that waits to be written.
pub(crate) struct PendingTensor {
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Vec<u8>,
}

/// A file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenFile {
    /// Its name in the folder.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// The blake3 digest of its content, in hexadecimal.
    pub digest: String,
}

/// Characters of the digest in a shard's name: 64 bits tell any two shards of a store apart.
const DIGEST_IN_NAME: usize = 16;

/// The name of a shard whose content has this digest.
pub(crate) fn shard_name(stem: &str, digest: &str) -> String {
    format!("{stem}-{}.safetensors", &digest[..DIGEST_IN_NAME.min(digest.len())])
}

/// Writes a shard under its final name.
pub(crate) fn write_shard(
    folder: &Path,
    stem: &str,
    tensors: &BTreeMap<String, PendingTensor>,
    metadata: &BTreeMap<&str, String>,
) -> Result<WrittenFile, ModelError> {
    // Larger elements first, then by name: every tensor then starts at a multiple of its element's size.
    let mut order = tensors.iter().collect::<Vec<_>>();
    order.sort_by_key(|(name, tensor)| (std::cmp::Reverse(tensor.dtype.size()), *name));
    let header = header(&order, metadata);
    let pieces = [header.as_slice()].into_iter().chain(order.iter().map(|(_, tensor)| tensor.bytes.as_slice()));
    write_atomically(folder, pieces, |digest| shard_name(stem, digest))
}

fn header(order: &[(&String, &PendingTensor)], metadata: &BTreeMap<&str, String>) -> Vec<u8> {
    let mut entries = Map::new();
    entries.insert("__metadata__".into(), json!(metadata));
    let mut offset = 0;
    for (name, tensor) in order {
        let end = offset + tensor.bytes.len();
        let entry = json!({"dtype": tensor.dtype.name(), "shape": tensor.shape, "data_offsets": [offset, end]});
        entries.insert((*name).clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(entries).to_string().into_bytes();
    // Data from a multiple of 64 on can be used in place by whoever maps the file.
    let length = (8 + text.len()).next_multiple_of(64) - 8;
    text.resize(length, b' ');
    [&(length as u64).to_le_bytes(), text.as_slice()].concat()
}

/// Writes a file of a known name.
pub(crate) fn write_file(folder: &Path, name: &str, content: &[u8]) -> Result<WrittenFile, ModelError> {
    write_atomically(folder, [content], |_| name.to_owned())
}

/// Writes, syncs and renames into place: a file under its final name is always whole, whatever happens meanwhile.
fn write_atomically<'a>(
    folder: &Path,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    name: impl FnOnce(&str) -> String,
) -> Result<WrittenFile, ModelError> {
    let temporary = folder.join(TEMPORARY);
    let failed = |error: std::io::Error| {
        ModelError::file(&temporary, format!("cannot be written: {error}"), remedy(error.kind()))
    };
    let mut hasher = blake3::Hasher::new();
    let mut bytes = 0;
    let mut file = File::create(&temporary).map_err(failed)?;
    for piece in pieces {
        let (written, _) = rayon::join(|| file.write_all(piece), || hasher.update(piece));
        written.map_err(failed)?;
        bytes += piece.len() as u64;
    }
    file.sync_all().map_err(failed)?;
    drop(file);
    let digest = hasher.finalize().to_hex().to_string();
    let name = name(&digest);
    let target = folder.join(&name);
    std::fs::rename(&temporary, &target)
        .and_then(|()| File::open(folder)?.sync_all())
        .map_err(|error| ModelError::file(&target, format!("cannot be put in place: {error}"), ""))?;
    Ok(WrittenFile { name, bytes, digest })
}

/// What helps against a write that failed.
fn remedy(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space on this disk, or choose another one",
        ErrorKind::FileTooLarge => "the file size limit (ulimit -f) of this shell is too small",
        _ => "",
    }
}

/// The file that is being written; one writer works in a folder at a time.
const TEMPORARY: &str = ".writing.tmp";
