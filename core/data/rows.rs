//! Rows of the files that hold tables: JSON lines, a JSON list, CSV, Parquet.

use std::{
    fs::File,
    io::{BufReader, Cursor},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde_json::{Map, Value};

use super::{
    format::{Format, decode, text_of},
    lines::{Lines, ended},
    parquet::Table,
};
use crate::error::{Error, Result};

/// A row with the name of its place.
pub(super) type Row = (String, Map<String, Value>);
pub(super) type Rows = Box<dyn Iterator<Item = Result<Row>>>;

/// The rows of a file, of a Parquet file with nothing but the column; none for a format that has none.
///
/// # Errors
/// The file cannot be read, or is malformed as a whole; its column holds neither texts nor messages, where it has a type. A malformed row is an error of its own, with its place.
pub(super) fn rows(path: &Path, format: Format, column: &str) -> Result<Rows> {
    match format {
        Format::Lines => lines(path),
        Format::List => list(path, column),
        Format::Cells(between) => cells(path, between),
        Format::Parquet => {
            let table = Table::open(path)?;
            table.check_text(column)?;
            Ok(Box::new(table.rows(&[column])?))
        }
        Format::Text => Ok(Box::new(std::iter::empty())),
    }
}

/// The same with all columns that a file has.
///
/// # Errors
/// As [`rows`]; any column of a Parquet file is of a type that is not read.
pub(super) fn whole_rows(path: &Path, format: Format, column: &str) -> Result<Rows> {
    if !matches!(format, Format::Parquet) {
        return rows(path, format, column);
    }
    let table = Table::open(path)?;
    table.check_text(column)?;
    let names: Vec<String> = table.names().map(str::to_owned).collect();
    Ok(Box::new(table.rows(&names.iter().map(String::as_str).collect::<Vec<_>>())?))
}

/// Bytes of text that a file holds, as far as that is known without reading it: those of the column where it is stored by columns.
pub(crate) fn data_bytes(path: &Path, column: Option<&str>) -> u64 {
    let bytes = || path.metadata().map_or(0, |metadata| metadata.len());
    match Format::of(path) {
        Ok(Format::Parquet) => Table::open(path).map_or_else(|_| bytes(), |table| table.bytes(column)),
        _ => bytes(),
    }
}

/// The rows of a Parquet file with the columns of these names that it has, and the names of all that it has.
///
/// # Errors
/// The file cannot be read, or a column is of a type that is not read. What is damaged is an error of its row.
pub(crate) fn table_rows(path: &Path, names: &[&str]) -> Result<(impl Iterator<Item = Result<Row>>, Vec<String>)> {
    let table = Table::open(path)?;
    let known: Vec<String> = table.names().map(str::to_owned).collect();
    let wanted: Vec<&str> = names.iter().copied().filter(|name| known.iter().any(|known| known == name)).collect();
    Ok((table.rows(&wanted)?, known))
}

fn lines(path: &Path) -> Result<Rows> {
    let file = File::open(path).map_err(|e| Error::io("read the data", path, &e))?;
    let path: PathBuf = path.to_owned();
    Ok(Box::new(Lines::of(BufReader::new(file)).enumerate().filter_map(move |(index, line)| {
        let place = format!("{}:{}", path.display(), index + 1);
        let line = match line {
            Ok(bytes) => decode(bytes).map_err(|(_, message, hint)| Error::refused(message).maybe_hint(hint)),
            Err(e) => return Some(Err(Error::io("read", &path, &e))),
        };
        match line {
            Ok(line) if line.trim().is_empty() => None,
            line => {
                Some(line.and_then(|line| row(&line)).map(|row| (place.clone(), row)).map_err(|e| e.context(place)))
            }
        }
    })))
}

fn row(line: &str) -> Result<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(row)) => Ok(row),
        Ok(Value::Array(_)) => Err(Error::refused("the line is a list, not a JSON object")
            .hint("a line is `{\"text\": …}`; a file that is one list of objects is called .json")),
        Ok(_) => Err(Error::refused("the line is no JSON object").hint("a line is `{\"text\": …}`")),
        Err(e) => {
            let error = Error::refused(format!("no JSON: {e}"));
            Err(if line.trim() == "[" {
                error.hint("a file that is one list of objects is called .json")
            } else {
                error
            })
        }
    }
}

fn list(path: &Path, column: &str) -> Result<Rows> {
    let text = text_of(path)?;
    let shown = path.display().to_string();
    let first = text.split(['\n', '\r']).find(|line| !line.trim().is_empty());
    let value: Value = match serde_json::from_str(&text) {
        Ok(value) => value,
        // Many call .json what has an object a line.
        Err(_) if first.is_some_and(|line| row(line).is_ok()) => return lines(path),
        Err(e) => return Err(Error::refused(format!("`{shown}:{}` is no JSON", e.line())).cause(e.to_string())),
    };
    match value {
        Value::Array(items) => Ok(Box::new(items.into_iter().enumerate().map(move |(index, item)| {
            let place = format!("{shown}, item {}", index + 1);
            match item {
                Value::Object(row) => Ok((place, row)),
                _ => Err(Error::refused("it is no JSON object").context(place).hint("an item is `{\"text\": …}`")),
            }
        }))),
        Value::Object(row) if row.contains_key(column) => Ok(Box::new(std::iter::once(Ok((shown, row))))),
        Value::Object(row) => {
            let keys = row.keys().cloned().collect::<Vec<_>>().join(", ");
            Err(Error::refused(format!("`{shown}` is one object with {keys}, not a list of rows"))
                .hint("save the list of rows as a file of its own"))
        }
        _ => Err(Error::refused(format!("`{shown}` is no list of rows"))),
    }
}

fn cells(path: &Path, between: u8) -> Result<Rows> {
    let text = Shared(Arc::new(text_of(path)?));
    let shown = path.display().to_string();
    let failed = {
        let (shown, text) = (shown.clone(), text.clone());
        move |e: csv::Error| {
            let line = e.position().map(|at| format!(":{}", text.line(at, (0, 1)).1)).unwrap_or_default();
            let unequal = matches!(e.kind(), csv::ErrorKind::UnequalLengths { .. });
            let hint = unequal.then_some("a cell that holds the separator, a quote or a line's end stands in quotes");
            Error::refused(format!("`{shown}{line}` is not as many cells as the first line, or no CSV"))
                .cause(e.to_string())
                .maybe_hint(hint.map(str::to_owned))
        }
    };
    if let Some(at) = open_quote(&text.0, between) {
        let line = 1 + ended(&text.0.as_bytes()[..at]);
        return Err(Error::refused(format!("`{shown}:{line}`: a quote is not closed")));
    }
    let mut reader = csv::ReaderBuilder::new().delimiter(between).from_reader(Cursor::new(text.clone()));
    let names: Vec<String> = reader.headers().map_err(&failed)?.iter().map(str::to_owned).collect();
    if let Some(twice) = names.iter().enumerate().find(|(i, name)| names[..*i].contains(name)) {
        return Err(
            Error::refused(format!("`{shown}` has two columns called `{}`", twice.1)).hint("rename one of them")
        );
    }
    let mut counted = (0, 1);
    Ok(Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(&failed)?;
        // The next line is counted from the last one on: a file may have millions.
        counted = record.position().map_or(counted, |at| text.line(at, counted));
        let line = counted.1;
        let place = format!("{shown}:{line}");
        let cell = |cell: &str| if cell.is_empty() { Value::Null } else { cell.into() };
        Ok((place, names.iter().cloned().zip(record.iter().map(cell)).collect()))
    })))
}

/// A text that is read and looked at.
#[derive(Clone)]
struct Shared(Arc<String>);

impl Shared {
    /// Where a row really begins, and its line from 1, whatever ends lines; counted from such a place on.
    fn line(&self, at: &csv::Position, (from, line): (usize, usize)) -> (usize, usize) {
        let (text, at) = (self.0.as_bytes(), at.byte() as usize);
        // What ends the line before, and lines without cells, may still stand in front of it.
        let blank = text.get(at..).unwrap_or_default().iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        (at + blank, line + ended(text.get(from..at + blank).unwrap_or_default()))
    }
}

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Where a cell in quotes begins that does not end.
fn open_quote(text: &str, between: u8) -> Option<usize> {
    let (mut opened, mut cell_begins) = (None, true);
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match (opened, byte) {
            // Two of them are one in the text.
            (Some(_), b'"') if bytes.next_if(|(_, next)| *next == b'"').is_some() => {}
            (Some(_), b'"') => opened = None,
            (None, b'"') if cell_begins => opened = Some(at),
            _ => {}
        }
        cell_begins = opened.is_none() && (byte == between || byte == b'\n' || byte == b'\r');
    }
    opened
}
