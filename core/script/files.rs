//! Files that a script reads as data: TOML, YAML and JSON as maps, CSV as a list of rows.
//!
//! What comes out is a value like any that a script spells out itself, so a key depends on what was read and never on the
//! file: comments, spaces, the order of a CSV's columns and the choice between TOML and YAML change no key.

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use polars::prelude::{AnyValue, DataFrame};
use polars_io::{SerReader, csv::read::CsvReadOptions};
use serde_json::{Map, Number, Value};
use workbench_model::regular_file;

use super::{
    root::Root,
    yaml::{self, Dialect},
};
use crate::error::{Error, Location, Result};

/// Endings of files that can be read, in the order in which messages list them.
const ENDINGS: [&str; 5] = ["toml", "yaml", "yml", "json", "csv"];

/// The ending of a file's name.
fn ending(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or_default()
}

/// Whether a file holds maps of keys and values, by its name.
pub(super) fn holds_maps(path: &Path) -> bool {
    ending(path) != "csv" && ENDINGS.contains(&ending(path))
}

/// A file that was read.
#[derive(Clone, Debug)]
pub(super) struct DataFile {
    /// As messages name it.
    pub name: String,
    text: String,
    pub value: Value,
}

impl DataFile {
    /// Reads a file by the ending of its name.
    pub(super) fn read(path: &Path, name: &str) -> Result<Self> {
        Self::read_as(path, name, Dialect::Core)
    }

    /// Reads a stage file, whose YAML is that of other packages' recipes.
    pub(super) fn read_stage(path: &Path, name: &str) -> Result<Self> {
        Self::read_as(path, name, Dialect::PyYaml)
    }

    fn read_as(path: &Path, name: &str, dialect: Dialect) -> Result<Self> {
        if !ENDINGS.contains(&ending(path)) {
            let error = Error::usage(format!("`{name}` is of no kind that a script can read")).at(name);
            let hint = match ending(path) {
                "jsonl" | "parquet" | "txt" => "a file of texts is opened by dataset(…)".to_owned(),
                _ => format!("files ending in {} are", ENDINGS.join(", ")),
            };
            return Err(error.hint(hint));
        }
        let text = read_text(path).map_err(|e| {
            let error = Error::io("read", path, &e);
            Error { kind: crate::error::ErrorKind::Usage, ..error }
        })?;
        let mut file = Self { name: name.to_owned(), text, value: Value::Null };
        file.value = match ending(path) {
            "toml" => file.toml()?,
            "yaml" | "yml" => yaml::parse(&file.text, dialect)
                .map_err(|fault| file.malformed(fault.line, fault.column, fault.message))?,
            "json" => serde_json::from_str(&file.text).map_err(|e| file.malformed(e.line(), e.column(), e))?,
            _ => file.csv()?,
        };
        Ok(file)
    }

    fn malformed(&self, line: usize, column: usize, cause: impl ToString) -> Error {
        let mut error = Error::usage(format!("`{}` cannot be read", self.name)).cause(cause.to_string());
        error.location = Some(Box::new(self.place(line, column, None)));
        error
    }

    fn place(&self, line: usize, column: usize, needle: Option<String>) -> Location {
        Location { file: self.name.clone(), source: self.text.clone(), line, column, needle }
    }

    fn toml(&self) -> Result<Value> {
        let refused = |e: toml::de::Error| {
            let (line, column) = position(&self.text, e.span().map_or(0, |span| span.start));
            self.malformed(line, column, e.message())
        };
        // As JSON they would become null, which says that nothing was given.
        if !finite(&toml::from_str(&self.text).map_err(refused)?) {
            return Err(self.malformed(1, 1, "it holds a number that is not finite"));
        }
        toml::from_str(&self.text).map_err(refused)
    }

    fn csv(&self) -> Result<Value> {
        let options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(None);
        let frame = options.into_reader_with_file_handle(Cursor::new(self.text.as_bytes())).finish();
        let rows = frame.and_then(|frame| (0..frame.height()).map(|row| csv_row(&frame, row)).collect());
        rows.map(Value::Array).map_err(|e| self.malformed(1, 1, e))
    }

    /// An error with its place in this file: the line with the text at fault, looked for behind a section where that is given, as
    /// the names that lead to it.
    pub(super) fn locate(&self, error: Error, section: &[&str]) -> Error {
        if error.location.is_some() {
            return error;
        }
        let inwards = |from: Option<usize>, name: &&str| self.find(name, from.unwrap_or(0)).or(from);
        let begin = section.iter().fold(None, inwards);
        let own = error.needle.as_deref().and_then(|needle| self.find(needle, begin.unwrap_or(0)));
        let needle = if own.is_some() { error.needle.clone() } else { section.last().map(|name| (*name).to_owned()) };
        let (line, column) = position(&self.text, own.or(begin).unwrap_or(0));
        Error { location: Some(Box::new(self.place(line, column, needle))), ..error }
    }

    /// Where a word stands outside of comments, at or behind a position.
    fn find(&self, word: &str, from: usize) -> Option<usize> {
        let joined = |c: char| c.is_alphanumeric() || c == '_';
        let mut start = 0;
        for line in self.text.split_inclusive('\n') {
            let code = line.split('#').next().unwrap_or(line);
            let alone = |at: &usize| {
                let (before, after) = (&code[..*at], &code[at + word.len()..]);
                start + at >= from && !before.ends_with(joined) && !after.starts_with(joined)
            };
            if let Some(at) = code.match_indices(word).map(|(at, _)| at).find(alone) {
                return Some(start + at);
            }
            start += line.len();
        }
        None
    }
}

/// The text of a file that a person wrote. A mark of the byte order, as some editors put it in front, is no part of it.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    let text = regular_file(path).and_then(|()| fs::read_to_string(path))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

/// Line and column, from 1, of a position in bytes.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

/// A row of a CSV by column. An empty cell is null.
fn csv_row(frame: &DataFrame, row: usize) -> polars::prelude::PolarsResult<Value> {
    let cell = |column: &polars::prelude::Column| {
        let value = match column.get(row)? {
            AnyValue::Null => Value::Null,
            AnyValue::Boolean(flag) => flag.into(),
            AnyValue::String(text) => text.into(),
            AnyValue::StringOwned(text) => text.as_str().into(),
            AnyValue::Int64(number) => number.into(),
            other => other.extract::<f64>().and_then(Number::from_f64).map_or(Value::Null, Value::Number),
        };
        Ok((column.name().to_string(), value))
    };
    frame.columns().iter().map(cell).collect::<polars::prelude::PolarsResult<Map<_, _>>>().map(Value::Object)
}

/// Files that a glob names, in the order of their names, each with how messages name it. Folders and files that hold no maps
/// are left out, unless the pattern names one file.
pub(super) fn matching(root: &Root, pattern: &str) -> Result<Vec<(PathBuf, String)>> {
    let glob = globset::GlobBuilder::new(pattern)
        .literal_separator(true)
        .build()
        .map_err(|e| Error::usage(format!("malformed pattern `{pattern}`")).cause(e.to_string()).at(pattern))?
        .compile_matcher();
    let wild = |part: &str| part.contains(['*', '?', '[', '{']);
    let parts: Vec<&str> = pattern.split('/').collect();
    let Some(first) = parts.iter().position(|part| wild(part)) else {
        return Ok(vec![(root.find(pattern)?, pattern.to_owned())]);
    };
    // The folder in front of the first part with a wildcard is where to look, and how deep the parts behind it say.
    let fixed: PathBuf =
        Path::new(pattern).components().take_while(|c| !wild(&c.as_os_str().to_string_lossy())).collect();
    let depth = if parts.contains(&"**") { usize::MAX } else { parts.len() - first };
    let folders: Vec<PathBuf> =
        root.folders(pattern).iter().map(|folder| folder.join(&fixed)).filter(|folder| folder.is_dir()).collect();
    for folder in &folders {
        let mut found = Vec::new();
        for path in listed(folder, depth)? {
            let shown = fixed.join(path.strip_prefix(folder).unwrap_or(&path));
            if glob.is_match(&shown) && holds_maps(&path) {
                found.push((path, shown.display().to_string()));
            }
        }
        if !found.is_empty() {
            found.sort_by(|a, b| a.1.cmp(&b.1));
            return Ok(found);
        }
    }
    let error = Error::usage(format!("no file matches `{pattern}`")).at(pattern);
    Err(match folders.last() {
        Some(folder) => {
            error.hint(format!("looked in `{}` for files ending in toml, yaml, yml or json", folder.display()))
        }
        None => error.hint(format!("there is no folder `{}`", root.join(&fixed).display())),
    })
}

/// The files of a folder and of those in it, `depth` levels of folders in all.
fn listed(folder: &Path, depth: usize) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut waiting = vec![(folder.to_owned(), 1)];
    while let Some((current, level)) = waiting.pop() {
        for entry in fs::read_dir(&current).map_err(|e| Error::io("list", &current, &e))? {
            let entry = entry.map_err(|e| Error::io("list", &current, &e))?;
            match entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                true if level < depth => waiting.push((entry.path(), level + 1)),
                true => {}
                false => files.push(entry.path()),
            }
        }
    }
    Ok(files)
}

/// Whether all numbers are finite.
fn finite(value: &toml::Value) -> bool {
    match value {
        toml::Value::Float(number) => number.is_finite(),
        toml::Value::Array(items) => items.iter().all(finite),
        toml::Value::Table(items) => items.values().all(finite),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn written(name: &str, text: &str) -> Result<DataFile> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        DataFile::read(&path, name)
    }

    #[test]
    fn a_mark_of_the_byte_order_is_no_text() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("a.rhai", "let a = 1;\r\n"), ("b.rhai", ""), ("c.rhai", "\u{feff}x")] {
            let path = dir.path().join(name);
            fs::write(&path, format!("\u{feff}{text}")).unwrap();
            assert_eq!(read_text(&path).unwrap(), text);
        }
    }

    #[test]
    fn the_same_stage_in_every_syntax() {
        let toml = "name = \"a\" # first\n[quant_modifiers.B]\nx = 1\n[quant_modifiers.A]\ny = [0.5, true]\n";
        let yaml = "name: a\nquant_modifiers:\n  B: {x: 1}\n  A:\n    y: [0.5, True]\n";
        let json = r#"{"name": "a", "quant_modifiers": {"B": {"x": 1}, "A": {"y": [0.5, true]}}}"#;
        let [toml, yaml, json] =
            [("s.toml", toml), ("s.yaml", yaml), ("s.json", json)].map(|(n, t)| written(n, t).unwrap().value);
        assert_eq!(toml, json);
        assert_eq!(yaml, json);
        // Modifiers act in the order in which they are written.
        for value in [toml, yaml] {
            let names: Vec<&String> = value["quant_modifiers"].as_object().unwrap().keys().collect();
            assert_eq!(names, ["B", "A"]);
        }
    }

    #[test]
    fn yaml_of_the_field() {
        let file = written("s.yml", "a: null\nb: ~\nc:\nd: 1e-3\ne: \"no\"\nf: no\ng: &x {k: 1}\nh: *x\n").unwrap();
        assert_eq!(
            file.value,
            json!({ "a": null, "b": null, "c": null, "d": 1e-3, "e": "no", "f": "no", "g": { "k": 1 }, "h": { "k": 1 } })
        );
        assert_eq!(written("s.yml", "# nothing\n").unwrap().value, json!({}));
    }

    #[test]
    fn malformed_files_show_their_line() {
        for (name, text, line) in [
            ("s.toml", "a = 1\nb = \n", 2),
            ("s.yaml", "a: 1\nb: [1, 2\n", 3),
            ("s.yaml", "a: 1\nb: 2\na: 3\n", 3),
            ("s.json", "{\"a\": 1,\n\"b\": }", 2),
        ] {
            let error = written(name, text).unwrap_err();
            let place = error.location.as_ref().unwrap();
            assert_eq!((place.file.as_str(), place.line), (name, line), "{error}");
        }
        assert!(written("s.yaml", "a: 1\n---\nb: 2\n").unwrap_err().to_string().contains("2 documents"));
        assert!(written("s.yaml", "1: a\n").unwrap_err().to_string().contains("a key of it is not text"));
        assert!(written("s.yaml", "a: !!float nan\n").is_err());
        assert!(written("s.bin", "a").unwrap_err().hints[0].contains("toml"));
    }

    #[test]
    fn rows_of_a_table() {
        let rows = written("t.csv", "kind,block,kl.kl\nq_proj,0,0.25\n\"a,b\",all,\n").unwrap().value;
        assert_eq!(
            rows,
            json!([{ "kind": "q_proj", "block": "0", "kl.kl": 0.25 }, { "kind": "a,b", "block": "all", "kl.kl": null }])
        );
    }

    #[test]
    fn errors_point_at_the_key_and_not_at_a_comment() {
        let text = "# scheme is below\nname: x\nA:\n  ignore: [b]\nB:\n  schemes: W4\n  scheme: W4\n  ignore: [b]\n";
        let file = written("s.yaml", text).unwrap();
        let line = |needle: &str, section: &[&str]| {
            file.locate(Error::usage("wrong").at(needle), section).location.unwrap().line
        };
        assert_eq!(line("scheme", &[]), 7);
        assert_eq!(line("ignore", &["B"]), 8);
        assert_eq!(line("nowhere", &["B"]), 5);
        assert_eq!(line("nowhere", &[]), 1);
    }

    #[test]
    fn patterns_list_files_by_name() {
        let dir = tempfile::tempdir().unwrap();
        for name in
            ["2-quant/b.yaml", "2-quant/a.toml", "2-quant/README.md", "2-quant/example/c.yaml", "1-trans/a.toml"]
        {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found = |pattern: &str| -> Vec<String> {
            matching(&dir.path().into(), pattern).unwrap().into_iter().map(|(_, shown)| shown).collect()
        };
        assert_eq!(found("2-quant/*"), ["2-quant/a.toml", "2-quant/b.yaml"]);
        assert_eq!(found("*/{a,c}.toml"), ["1-trans/a.toml", "2-quant/a.toml"]);
        assert_eq!(found("2-quant/**/*.yaml"), ["2-quant/b.yaml", "2-quant/example/c.yaml"]);
        assert_eq!(found("2-quant/a.toml"), ["2-quant/a.toml"]);
        assert_eq!(found(&format!("{}/1-trans/*", dir.path().display())).len(), 1);
        let refused = |pattern: &str| matching(&dir.path().into(), pattern).unwrap_err();
        assert!(refused("2-quant/*.json").message.contains("no file matches"));
        assert!(refused("3-eval/*").hints[0].contains("there is no folder"));
        refused("2-quant/[");
    }
}
