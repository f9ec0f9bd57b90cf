//! The header of a GGUF file: metadata and tensor directory, every count checked against the bytes that are there.
//!
//! Layout: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use super::blocks::BlockType;
use crate::ModelError;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays occur in no known file; the limit keeps a crafted one from exhausting the stack.
const MAX_NESTING: usize = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Meta {
    Unsigned(u64),
    Signed(i64),
    /// Single-precision numbers are kept as the shortest decimal that names them: 1e-5, not 9.99999974e-6.
    Float(f64),
    Bool(bool),
    Text(String),
    List(Vec<Meta>),
}

/// One entry of the tensor directory.
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    pub(crate) kind: BlockType,
    /// Row-major, the contiguous dimension last (GGUF itself lists it first).
    pub(crate) shape: Vec<usize>,
    /// Where its bytes lie in the file.
    pub(crate) range: std::ops::Range<usize>,
}

/// All that precedes the tensor data.
pub(crate) struct Header {
    pub(crate) metadata: BTreeMap<String, Meta>,
    pub(crate) tensors: Vec<TensorInfo>,
}

/// Parses the header of a mapped file.
pub(crate) fn parse(bytes: &[u8], file: &Path) -> Result<Header, ModelError> {
    let mut cursor = Cursor { bytes, position: 0, file };
    check_version(&mut cursor)?;
    let tensor_count = cursor.count("tensors", 24)?;
    let metadata_count = cursor.count("metadata entries", 13)?;
    let mut metadata = BTreeMap::new();
    for _ in 0..metadata_count {
        let key = cursor.text()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0)?;
        if metadata.contains_key(&key) {
            return Err(cursor.error(format!("the metadata key `{key}` occurs twice")));
        }
        metadata.insert(key, value);
    }
    let mut raw = Vec::new();
    let mut seen = BTreeSet::new();
    for _ in 0..tensor_count {
        let tensor = raw_tensor(&mut cursor)?;
        if !seen.insert(tensor.name.clone()) {
            return Err(ModelError::tensor(file, tensor.name, "occurs twice", ""));
        }
        raw.push(tensor);
    }
    let alignment = match metadata.get("general.alignment") {
        None => DEFAULT_ALIGNMENT,
        Some(Meta::Unsigned(value)) if value.is_power_of_two() && *value <= 1 << 20 => *value,
        Some(other) => return Err(cursor.error(format!("`general.alignment` is {other:?}, not a small power of two"))),
    };
    let data_start = (cursor.position as u64).next_multiple_of(alignment);
    let tensors = raw.into_iter().map(|tensor| tensor.place(data_start, bytes.len() as u64, file));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    check_cover(&tensors, data_start as usize, alignment as usize, bytes.len(), file)?;
    Ok(Header { metadata, tensors })
}

/// The data of the tensors follow each other in the order of the directory, each from the next multiple of the alignment on.
/// Whatever else a directory says would be read as other numbers without a word: an offset or a type that changed.
fn check_cover(
    tensors: &[TensorInfo],
    data_start: usize,
    alignment: usize,
    file_len: usize,
    file: &Path,
) -> Result<(), ModelError> {
    let hint = "the directory contradicts itself; fetch the file again";
    let mut expected = data_start;
    for tensor in tensors {
        let start = tensor.range.start;
        if start != expected {
            let what = match start - data_start {
                offset if !offset.is_multiple_of(alignment) => format!("is no multiple of {alignment}"),
                _ if start < expected => "overlaps the tensor before it".into(),
                _ => "leaves a gap before it".into(),
            };
            let message = format!("its offset {} {what}; {} was expected", start - data_start, expected - data_start);
            return Err(ModelError::tensor(file, tensor.name.as_str(), message, hint));
        }
        expected = tensor.range.end.next_multiple_of(alignment);
    }
    match file_len.checked_sub(expected) {
        Some(extra) if extra > 0 => {
            let last = tensors.last().map(|tensor| format!(", `{}`", tensor.name)).unwrap_or_default();
            Err(ModelError::file(file, format!("has {extra} bytes after its last tensor{last}"), hint))
        }
        _ => Ok(()),
    }
}

fn check_version(cursor: &mut Cursor<'_>) -> Result<(), ModelError> {
    if cursor.take(4)? != MAGIC {
        return Err(cursor.error("is no GGUF file: it does not begin with `GGUF`"));
    }
    match cursor.u32()? {
        2 | 3 => Ok(()),
        version if (1..=3).contains(&version.swap_bytes()) => {
            Err(cursor.error("is a big-endian GGUF file, which is not supported"))
        }
        version => Err(cursor.error(format!("is GGUF version {version}; known are 2 and 3"))),
    }
}

/// A directory entry before its claims about the data are checked.
struct RawTensor {
    name: String,
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

fn raw_tensor(cursor: &mut Cursor<'_>) -> Result<RawTensor, ModelError> {
    let name = cursor.text()?;
    let dimensions = cursor.u32()?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let message = format!("has {dimensions} dimensions, expected 1 to {MAX_DIMENSIONS}");
        return Err(ModelError::tensor(cursor.file, name, message, "the file is damaged; fetch it again"));
    }
    let dims = (0..dimensions).map(|_| cursor.u64()).collect::<Result<Vec<_>, _>>()?;
    Ok(RawTensor { name, dims, kind: cursor.u32()?, offset: cursor.u64()? })
}

/// What a person is told who has another type.
const SUPPORTED: &str = "supported are F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K and Q6_K";

impl RawTensor {
    fn place(self, data_start: u64, file_len: u64, file: &Path) -> Result<TensorInfo, ModelError> {
        let error = |message: String, hint: &str| ModelError::tensor(file, self.name.as_str(), message, hint);
        let kind = BlockType::from_id(self.kind)
            .map_err(|found| error(format!("is of the unsupported type {found}"), SUPPORTED))?;
        let row = self.dims[0];
        if !row.is_multiple_of(kind.elements() as u64) {
            return Err(error(
                format!(
                    "is of type {} and has rows of {row} elements, which blocks of {} do not fill",
                    kind.name(),
                    kind.elements()
                ),
                "",
            ));
        }
        let elements = self.dims.iter().try_fold(1_u64, |size, dim| size.checked_mul(*dim));
        let size = elements.and_then(|elements| (elements / kind.elements() as u64).checked_mul(kind.bytes() as u64));
        let start = data_start.checked_add(self.offset);
        let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_len => Ok(TensorInfo {
                kind,
                // Dimensions are bounded by the byte count, which fits the mapped file, unless one of them is zero.
                shape: self.dims.iter().rev().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect(),
                range: start as usize..end as usize,
                name: self.name,
            }),
            _ => Err(error(
                format!(
                    "of {} {:?} at offset {} ends after the file's {file_len} bytes",
                    kind.name(),
                    self.dims,
                    self.offset
                ),
                "the file is truncated; fetch it again",
            )),
        }
    }
}

/// Reads little-endian values and never beyond the end.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    file: &'a Path,
}

impl<'a> Cursor<'a> {
    fn error(&self, message: impl Into<String>) -> ModelError {
        ModelError::file(self.file, message, "the file is damaged or of another format; fetch it again")
    }

    fn remaining(&self) -> u64 {
        (self.bytes.len() - self.position) as u64
    }

    fn take(&mut self, count: u64) -> Result<&'a [u8], ModelError> {
        if count > self.remaining() {
            let message = format!("ends inside its header: byte {} calls for {count} more", self.position);
            return Err(self.error(message));
        }
        let start = self.position;
        self.position += count as usize;
        Ok(&self.bytes[start..self.position])
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], ModelError> {
        let mut array = [0; SIZE];
        array.copy_from_slice(self.take(SIZE as u64)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A count of things that take at least `least` bytes each; more than the file can hold is an error.
    fn count(&mut self, what: &str, least: u64) -> Result<u64, ModelError> {
        let count = self.u64()?;
        if count > self.remaining() / least {
            let message = format!("claims {count} {what}, which its remaining {} bytes cannot hold", self.remaining());
            return Err(self.error(message));
        }
        Ok(count)
    }

    fn text(&mut self) -> Result<String, ModelError> {
        let length = self.u64()?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(self.error(format!("holds a text that is not UTF-8 before byte {}", self.position))),
        }
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Meta, ModelError> {
        Ok(match kind {
            0 => Meta::Unsigned(u8::from_le_bytes(self.array()?).into()),
            1 => Meta::Signed(i8::from_le_bytes(self.array()?).into()),
            2 => Meta::Unsigned(u16::from_le_bytes(self.array()?).into()),
            3 => Meta::Signed(i16::from_le_bytes(self.array()?).into()),
            4 => Meta::Unsigned(self.u32()?.into()),
            5 => Meta::Signed(i32::from_le_bytes(self.array()?).into()),
            6 => {
                let single = f32::from_le_bytes(self.array()?);
                Meta::Float(single.to_string().parse().unwrap_or(f64::from(single)))
            }
            7 => Meta::Bool(self.array::<1>()? != [0]),
            8 => Meta::Text(self.text()?),
            9 => return self.list(depth),
            10 => Meta::Unsigned(self.u64()?),
            11 => Meta::Signed(i64::from_le_bytes(self.array()?)),
            12 => Meta::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(self.error(format!("holds a metadata value of the unknown type {other}"))),
        })
    }

    fn list(&mut self, depth: usize) -> Result<Meta, ModelError> {
        if depth == MAX_NESTING {
            return Err(self.error(format!("nests metadata arrays deeper than {MAX_NESTING}")));
        }
        let kind = self.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            9 => 12,
            _ => 8,
        };
        let count = self.count("array elements", least)?;
        (0..count).map(|_| self.value(kind, depth + 1)).collect::<Result<_, _>>().map(Meta::List)
    }
}

impl fmt::Display for Meta {
    /// For messages: a list only by its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unsigned(value) => write!(f, "{value}"),
            Self::Signed(value) => write!(f, "{value}"),
            Self::Float(value) => write!(f, "{value}"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::Text(value) => write!(f, "{value:?}"),
            Self::List(values) => write!(f, "a list of {}", values.len()),
        }
    }
}

impl Meta {
    pub(crate) fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    pub(crate) fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => self.as_u64().map(|value| value as f64),
        }
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(crate) fn as_bool(&self) -> Option<bool> {
        if let Self::Bool(flag) = self { Some(*flag) } else { None }
    }

    pub(crate) fn as_list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }
}
