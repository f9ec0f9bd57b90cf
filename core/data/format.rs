//! What kind of data a file holds, by its name and its first bytes, and its text.

use std::path::Path;

use super::lines::ended;
use crate::error::{Error, Result};

/// How a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Running text.
    Text,
    /// A JSON object a line.
    Lines,
    /// A JSON list of objects.
    List,
    /// Lines of cells with this between them, the first with their names.
    Cells(u8),
    /// Columns of Parquet.
    Parquet,
}

/// Endings of files that are no text, and what to do about them.
const REFUSED: [(&[&str], &str); 3] = [
    (&["gz", "zst", "xz", "lzma", "bz2", "zip", "7z", "tar", "tgz", "lz4", "br"], "unpack it first"),
    (&["arrow", "feather", "orc", "avro", "xlsx", "xls", "ods", "db", "sqlite"], "save it as .jsonl, .csv or .parquet"),
    (
        &["pdf", "docx", "odt", "epub", "npy", "npz", "pt", "pth", "bin", "safetensors", "gguf"],
        "save its text as .txt or .jsonl",
    ),
];

/// First bytes of files that are no text whatever they are called.
const MARKS: [(&[u8], &str, &str); 9] = [
    (b"\x1f\x8b", "gzip", "unpack it first: gunzip"),
    (b"\x28\xb5\x2f\xfd", "Zstandard", "unpack it first: zstd -d"),
    (b"\xfd7zXZ", "xz", "unpack it first: xz -d"),
    (b"PK\x03\x04", "ZIP", "unpack it first: unzip"),
    (b"PAR1", "Parquet", "give it a name that ends in .parquet"),
    (b"ARROW1", "Arrow", "save it as .jsonl, .csv or .parquet"),
    (b"\xff\xfe", "UTF-16 text", "make it UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "make it UTF-8: iconv -f UTF-16 -t UTF-8"),
    (b"%PDF", "PDF", "save its text as .txt"),
];

/// What is wrong with bytes that should be text: the line, where there is one, a message and a hint.
pub(crate) type NoText = (Option<usize>, String, Option<String>);

impl Format {
    /// The format of a file's name.
    ///
    /// # Errors
    /// The name says that the file is compressed, or of a kind that is not read.
    pub fn of(path: &Path) -> Result<Self> {
        let ending = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if let Some((_, hint)) = REFUSED.iter().find(|(endings, _)| endings.contains(&ending.as_str())) {
            return Err(
                Error::usage(format!("`{}` is no text and no table that is read here", path.display())).hint(*hint)
            );
        }
        Ok(match ending.as_str() {
            "jsonl" | "ndjson" => Self::Lines,
            "json" => Self::List,
            "csv" => Self::Cells(b','),
            "tsv" => Self::Cells(b'\t'),
            "parquet" | "pq" => Self::Parquet,
            _ => Self::Text,
        })
    }
}

/// Says what bytes are that begin as no text does.
pub(super) fn check_beginning(bytes: &[u8]) -> Result<(), NoText> {
    if let Some((_, kind, hint)) = MARKS.iter().find(|(mark, ..)| bytes.starts_with(mark)) {
        return Err((None, format!("is {kind}, not UTF-8 text"), Some((*hint).to_owned())));
    }
    // Every other byte of UTF-16 is 0 in most languages; programs and archives have as many.
    let zeros = bytes.iter().filter(|byte| **byte == 0).count();
    if zeros * 8 > bytes.len() {
        let hint = "if it is UTF-16, make it UTF-8: iconv -f UTF-16 -t UTF-8";
        return Err((None, "is no text: it is full of NUL bytes".to_owned(), Some(hint.to_owned())));
    }
    Ok(())
}

/// The text of bytes in UTF-8, without the mark of its byte order.
pub(crate) fn decode(bytes: Vec<u8>) -> Result<String, NoText> {
    check_beginning(&bytes)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = 1 + ended(&error.as_bytes()[..valid]);
        let message = format!("the text is not UTF-8: byte {:#04x}", error.as_bytes()[valid]);
        (Some(line), message, Some("make it UTF-8: iconv -f ISO-8859-1 -t UTF-8, if that is what it is".to_owned()))
    })?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_owned(),
        None => text,
    })
}

/// The text of a file, as [`decode`].
pub(super) fn text_of(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read the text", path, &e))?;
    decode(bytes).map_err(|(line, message, hint)| {
        let place = line.map(|line| format!(":{line}")).unwrap_or_default();
        Error::refused(format!("`{}{place}`: {message}", path.display())).maybe_hint(hint)
    })
}

/// Lines that end as they do on this kind of machine, whatever wrote them: what Python's text files give.
pub(crate) fn plain_lines(text: String) -> String {
    if text.contains('\r') { text.replace("\r\n", "\n").replace('\r', "\n") } else { text }
}
