//! The lines, or rows, of a task's data.

use std::{collections::HashMap, path::Path};

use serde_json::{Map, Value};

use super::{TaskError, closest, read_text, template::text_of};
use crate::{
    data::{Format, Lines, table_rows},
    error::Error,
};

/// One line, or row, of a data file.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) id: String,
    pub(super) fields: Map<String, Value>,
}

/// Reads the rows of a file, of a Parquet file with the fields of these names, and of the others that it has: `id` or else the number of
/// the line is their identity.
pub(super) fn read_lines(path: &Path, names: &[&str], others: &[&str]) -> Result<Vec<Line>, TaskError> {
    let (rows, word) = match Format::of(path) {
        Ok(Format::Parquet) => (parquet_rows(path, names, others)?, "row"),
        _ => (json_rows(path)?, "line"),
    };
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut lines = Vec::with_capacity(rows.len());
    for (number, fields) in rows {
        let id = match fields.get("id") {
            None => number.to_string(),
            Some(value) => text_of(value, "id").map_err(|(message, _)| TaskError::new(path, Some(number), message))?,
        };
        if let Some(first) = seen.insert(id.clone(), number) {
            let error = TaskError::new(path, Some(number), format!("the id `{id}` was used on {word} {first}"));
            return Err(error.hint("results are paired by id: give every item its own"));
        }
        lines.push(Line { number, id, fields });
    }
    if lines.is_empty() {
        return Err(TaskError::new(path, None, "there is no item in the file"));
    }
    Ok(lines)
}

/// Items with the lines, or rows, on which they stand.
type Rows = Vec<(usize, Map<String, Value>)>;

/// An object a line, blank lines passed over, with the number of the line.
fn json_rows(path: &Path) -> Result<Rows, TaskError> {
    let source = read_text(path)?;
    let mut rows = Vec::new();
    for (index, line) in Lines::of(source.as_bytes()).enumerate() {
        let fault = |message: String| TaskError::new(path, Some(index + 1), message);
        let line = line.map_err(|error| fault(error.to_string()))?;
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(Value::Object(fields)) => rows.push((index + 1, fields)),
            Ok(_) => return Err(fault("the line is no JSON object".into()).hint("an item is `{\"field\": value, …}`")),
            // The library counts lines inside the one line it was given.
            Err(error) => {
                return Err(fault(format!("no valid JSON at column {}: {}", error.column(), brief(&error))));
            }
        }
    }
    Ok(rows)
}

/// Rows with their numbers.
fn parquet_rows(path: &Path, names: &[&str], others: &[&str]) -> Result<Rows, TaskError> {
    let fault = |line, error: Error| TaskError {
        hint: error.hints.first().cloned(),
        ..TaskError::new(path, line, error.to_string())
    };
    let mut wanted: Vec<&str> = names.to_vec();
    for name in others.iter().copied().chain(["id"]) {
        if !wanted.contains(&name) {
            wanted.push(name);
        }
    }
    let (rows, known) = table_rows(path, &wanted).map_err(|error| fault(None, error))?;
    if let Some(name) = names.iter().find(|name| !known.iter().any(|known| known == *name)) {
        let near = closest(name, known.iter().map(String::as_str)).map(|near| format!("did you mean `{near}`?"));
        let hint = near.unwrap_or_else(|| format!("it has {}", known.join(", ")));
        return Err(TaskError::new(path, None, format!("the file has no column `{name}`")).hint(hint));
    }
    rows.enumerate().map(|(index, row)| Ok((index + 1, row.map_err(|e| fault(Some(index + 1), e))?.1))).collect()
}

/// The error's words without the position that it adds.
fn brief(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}
