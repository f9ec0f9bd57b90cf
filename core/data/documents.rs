//! Documents of a file or of the demo, one after the other.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
};

use serde_json::Value;
use workbench_model::tokenizer::Message;

use super::text::{Paragraphs, TextPieces};
use crate::{
    error::{Error, Result},
    graph::node::DataSource,
};

/// A piece of data that stands for itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    /// Running text.
    Text(String),
    /// A conversation.
    Chat(Vec<Message>),
}

type Documents = Box<dyn Iterator<Item = Result<Document>>>;

/// The documents of a source. A `.jsonl` file has one per line, in the column `column`: a text, or a list of messages with
/// `role` and `content`. Any other file is one text; with `split` its paragraphs (set off by blank lines) are documents of
/// their own. `characters` keeps only the first of them of a text file.
///
/// # Errors
/// The file cannot be read; a line is no JSON object or lacks the column.
pub fn documents(source: &DataSource, column: &str, characters: Option<usize>, split: bool) -> Result<Documents> {
    match source {
        DataSource::Demo(name) => demo(name),
        DataSource::File(path) if path.extension().is_some_and(|e| e == "jsonl") => lines(path, column),
        DataSource::File(path) => text(path, characters, split),
    }
}

fn demo(name: &str) -> Result<Documents> {
    let split = crate::demo::Split::by_name(name).map_err(|e| Error::usage(e.to_string()))?;
    Ok(Box::new(crate::demo::documents(split).map(|text| Ok(Document::Text(text)))))
}

fn text(path: &Path, characters: Option<usize>, split: bool) -> Result<Documents> {
    let pieces = TextPieces::open(path, characters)?;
    if split {
        return Ok(Box::new(Paragraphs::of(pieces).map(|paragraph| paragraph.map(Document::Text))));
    }
    Ok(Box::new(std::iter::once(pieces.collect::<Result<String>>().map(Document::Text))))
}

fn lines(path: &Path, column: &str) -> Result<Documents> {
    let file = fs::File::open(path).map_err(|e| Error::io("read the data", path, &e))?;
    let (path, column): (PathBuf, String) = (path.to_owned(), column.to_owned());
    let lines = BufReader::new(file).lines().enumerate();
    Ok(Box::new(lines.filter_map(move |(index, line)| match line {
        Ok(line) if line.trim().is_empty() => None,
        Ok(line) => Some(document(&line, &column).map_err(|e| e.context(format!("{}:{}", path.display(), index + 1)))),
        Err(e) => Some(Err(Error::io("read", &path, &e))),
    })))
}

fn document(line: &str, column: &str) -> Result<Document> {
    let row: Value = serde_json::from_str(line).map_err(|e| Error::refused(format!("no JSON: {e}")))?;
    let known = || row.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>().join(", ")).unwrap_or_default();
    match &row[column] {
        Value::String(text) => Ok(Document::Text(text.clone())),
        Value::Array(turns) => turns.iter().map(message).collect::<Result<_>>().map(Document::Chat),
        Value::Null => Err(Error::refused(format!("there is no column `{column}`"))
            .hint(format!("the line has {}; name one as text_column", known()))),
        _ => Err(Error::refused(format!("column `{column}` is neither text nor a list of messages"))),
    }
}

fn message(turn: &Value) -> Result<Message> {
    match (turn["role"].as_str(), turn["content"].as_str()) {
        (Some(role), Some(content)) => Ok(Message { role: role.to_owned(), content: content.to_owned() }),
        _ => Err(Error::refused("a message has no text `role` and `content`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> (tempfile::TempDir, DataSource) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        (dir, DataSource::File(path))
    }

    fn all(source: &DataSource, column: &str, characters: Option<usize>, split: bool) -> Result<Vec<Document>> {
        documents(source, column, characters, split)?.collect()
    }

    #[test]
    fn a_text_is_one_document_or_its_paragraphs() {
        let (_dir, source) = file("a.txt", "one\ntwo\n\n\nthräe\n\n");
        assert_eq!(
            all(&source, "text", None, true).unwrap(),
            [Document::Text("one\ntwo".into()), Document::Text("thräe".into())]
        );
        assert_eq!(all(&source, "text", Some(14), false).unwrap(), [Document::Text("one\ntwo\n\n\nthrä".into())]);
    }

    #[test]
    fn lines_are_texts_or_chats() {
        let (_dir, source) =
            file("a.jsonl", "{\"text\": \"x\"}\n\n{\"text\": [{\"role\": \"user\", \"content\": \"y\"}]}\n");
        let found = all(&source, "text", None, false).unwrap();
        assert_eq!(found[0], Document::Text("x".into()));
        assert!(matches!(&found[1], Document::Chat(turns) if turns.len() == 1 && turns[0].role == "user"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let (_dir, source) = file("a.jsonl", "{\"text\": \"x\"}\n{\"body\": 1}\n");
        let error = all(&source, "text", None, false).unwrap_err();
        assert!(error.message.ends_with("a.jsonl:2"), "{error}");
        assert!(error.hints[0].contains("body"));
        let (_dir, source) = file("b.jsonl", "{\"text\": \n");
        assert!(all(&source, "text", None, false).unwrap_err().to_string().contains("b.jsonl:1"));
    }
}
