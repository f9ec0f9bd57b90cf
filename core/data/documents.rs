//! Documents of a file or of the demo, one after the other.

use std::path::Path;

use serde_json::{Map, Value};
use workbench_model::tokenizer::Message;

use super::{
    demo,
    format::Format,
    rows::rows,
    text::{Paragraphs, TextPieces},
};
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

pub(super) type Documents = Box<dyn Iterator<Item = Result<Document>>>;

/// The documents of a source. A table (`.jsonl`, a list in `.json`, `.csv`, `.tsv`, `.parquet`) has one a row, in the column
/// `column`: a text, or a list of messages with `role` and `content` or `from` and `value`. Any other file is one text; with
/// `split` its paragraphs (set off by blank lines) are documents of their own. `characters` keeps only the first of them of a
/// text file. Of the demo's conversations the column is `messages`, also where the usual `text` is asked for.
///
/// # Errors
/// The file cannot be read or is no text; a row is malformed, or lacks the column.
pub fn documents(source: &DataSource, column: &str, characters: Option<usize>, split: bool) -> Result<Documents> {
    let path = match source {
        DataSource::Demo(name) => return demo::documents(name, column),
        DataSource::File(path) => path,
        DataSource::Node(made) => {
            return Err(Error::internal(format!("what `{}` is was not looked up", made.name)));
        }
    };
    match Format::of(path)? {
        Format::Text => text(path, characters, split),
        format => {
            let column = column.to_owned();
            Ok(Box::new(rows(path, format, &column)?.map(move |row| {
                let (place, row) = row?;
                document(&row, &column).map_err(|e| e.context(place))
            })))
        }
    }
}

fn text(path: &Path, characters: Option<usize>, split: bool) -> Result<Documents> {
    let pieces = TextPieces::open(path, characters)?;
    if split {
        return Ok(Box::new(Paragraphs::of(pieces).map(|paragraph| paragraph.map(Document::Text))));
    }
    Ok(Box::new(std::iter::once(pieces.collect::<Result<String>>().map(Document::Text))))
}

pub(super) fn document(row: &Map<String, Value>, column: &str) -> Result<Document> {
    let Some(value) = row.get(column) else {
        let known = row.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Error::refused(format!("there is no column `{column}`"))
            .hint(format!("the row has {known}; name one as text_column")));
    };
    match value {
        Value::String(text) => Ok(Document::Text(text.clone())),
        Value::Array(turns) => {
            let turns = turns.iter().enumerate();
            turns
                .map(|(i, turn)| message(turn).map_err(|e| e.context(format!("message {}", i + 1))))
                .collect::<Result<_>>()
                .map(Document::Chat)
        }
        Value::Null => Err(Error::refused(format!("column `{column}` has no text here"))
            .hint("leave the row out, or give it a text: \"\" is an empty one in JSON")),
        _ => Err(Error::refused(format!("column `{column}` is neither text nor a list of messages"))),
    }
}

/// What a message may look like.
const MESSAGE: &str = "a message is {\"role\": \"user\", \"content\": \"…\"}, its content text or a list of parts \
    {\"type\": \"text\", \"text\": \"…\"}, or in ShareGPT's way {\"from\": \"human\", \"value\": \"…\"}";

/// Who speaks, in the words of ShareGPT.
const SPEAKERS: [(&str, &str); 8] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bard", "assistant"),
    ("bing", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
];

fn message(turn: &Value) -> Result<Message> {
    let refused = |message: String| Err(Error::refused(message).hint(MESSAGE));
    if let Some(key) = ["tool_calls", "function_call"].into_iter().find(|key| !turn[*key].is_null()) {
        return refused(format!("it has `{key}`, which would not be rendered"));
    }
    if let Some(role) = turn["role"].as_str() {
        return Ok(Message { role: role.to_owned(), content: content(&turn["content"], "content")? });
    }
    let Some(from) = turn["from"].as_str() else { return refused("it has neither a `role` nor a `from`".to_owned()) };
    match SPEAKERS.iter().find(|(name, _)| *name == from) {
        Some((_, role)) => Ok(Message { role: (*role).to_owned(), content: content(&turn["value"], "value")? }),
        None => {
            let known = SPEAKERS.map(|(name, _)| name).join(", ");
            Err(Error::refused(format!("it is from `{from}`")).hint(format!("`from` may be {known}")))
        }
    }
}

/// The text of a message, or of its parts one after the other.
fn content(value: &Value, key: &str) -> Result<String> {
    let part = |part: &Value| match (part, part["type"].as_str().unwrap_or("text"), part["text"].as_str()) {
        (Value::String(text), ..) => Ok(text.clone()),
        (_, "text", Some(text)) => Ok(text.to_owned()),
        (_, kind, _) => Err(Error::refused(format!("a part of its `{key}` is `{kind}`, not text")).hint(MESSAGE)),
    };
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Array(parts) => parts.iter().map(part).collect(),
        Value::Null => Err(Error::refused(format!("its `{key}` is missing")).hint(MESSAGE)),
        _ => Err(Error::refused(format!("its `{key}` is neither text nor a list of parts")).hint(MESSAGE)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn file(name: &str, text: impl AsRef<[u8]>) -> (tempfile::TempDir, DataSource) {
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

    fn texts(name: &str, text: impl AsRef<[u8]>) -> Vec<String> {
        let (_dir, source) = file(name, text);
        let found = all(&source, "text", None, true).unwrap_or_else(|e| panic!("{name}: {e} {:?}", e.hints));
        found.iter().map(|d| if let Document::Text(text) = d { text.clone() } else { panic!("a text") }).collect()
    }

    fn error(name: &str, text: impl AsRef<[u8]>) -> String {
        let (dir, source) = file(name, text);
        let error = all(&source, "text", None, true).unwrap_err();
        format!("{} | {}", error, error.hints.join(" ")).replace(&format!("{}/", dir.path().display()), "")
    }

    #[test]
    fn a_bad_line_is_named() {
        for (name, text, parts) in [
            ("a.jsonl", "{\"text\": \"x\"}\n{\"body\": 1}\n", &["a.jsonl:2", "no column `text`", "has body"][..]),
            ("a.jsonl", "{\"text\": \n", &["a.jsonl:1", "no JSON"]),
            ("a.jsonl", "\n{\"text\": null}\n", &["a.jsonl:2", "has no text here"]),
            ("a.jsonl", "{\"text\": 3}\n", &["a.jsonl:1", "neither text nor"]),
            ("a.jsonl", "[{\"text\": \"x\"}]\n", &["a.jsonl:1", "is a list", ".json"]),
            ("a.json", "[{\"text\": \"x\"}, {\"text\": null}]", &["a.json, item 2", "has no text here"]),
            ("a.json", "{\"data\": [{\"text\": \"x\"}]}", &["one object with data"]),
            ("a.json", "[1]", &["item 1", "no JSON object"]),
            ("a.json", "[\n{\"text\": }]", &["a.json:2"]),
            ("a.csv", "id,text\n1,x\n2,\n", &["a.csv:3", "has no text here"]),
            ("a.csv", "id,text\n1,x\n2\n", &["a.csv:3", "as many cells"]),
            ("a.csv", "text,text\nx,y\n", &["two columns called `text`"]),
            ("a.csv", "text\n\"x\ny\n", &["a.csv:2", "a quote is not closed"]),
            ("a.csv", "text\nx\n\"y", &["a.csv:3", "a quote is not closed"]),
            ("a.parquet", "PAR1 and no more", &["is no Parquet file that can be read", "cut off"]),
            // Whatever ends lines, they are counted.
            ("a.jsonl", "{\"text\": \"x\"}\r\r{\"text\": 3}\r", &["a.jsonl:3", "neither text nor"]),
            ("a.csv", "id,text\r1,\"x\ry\"\r2,\r", &["a.csv:4", "has no text here"]),
            ("a.csv", "id,text\r1,x\r2\r", &["a.csv:3", "as many cells"]),
            ("a.csv", "text\rx\r\"y\r", &["a.csv:3", "a quote is not closed"]),
        ] {
            let found = error(name, text);
            assert!(parts.iter().all(|part| found.contains(part)), "{found}");
        }
    }

    /// What Python reads of such files: `Path.read_text`, the modules json and csv.
    #[test]
    fn files_are_read_as_people_have_them() {
        for text in ["one\ntwo\n\nthree\n", "one\r\ntwo\r\n\r\nthree", "\u{feff}one\rtwo\r\rthree\r"] {
            assert_eq!(texts("a.txt", text), ["one\ntwo", "three"], "{text:?}");
        }
        assert_eq!(texts("a.txt", "a\0b and so on"), ["a\0b and so on"]);
        let rows = ["x", "y, \"z\"\nw"];
        let lines = "{\"text\": \"x\"}\r\n{\"text\": \"y, \\\"z\\\"\\nw\"}";
        for (name, text) in [
            ("a.jsonl", lines.to_owned()),
            ("a.ndjson", format!("\u{feff}{lines}")),
            ("a.json", lines.to_owned()),
            ("a.json", format!("\u{feff}[{}]", lines.replace("\r\n", ",\n"))),
            ("a.jsonl", lines.replace("\r\n", "\r")),
            ("a.json", lines.replace("\r\n", "\r")),
            ("a.csv", "id,text\r\n1,x\r\n2,\"y, \"\"z\"\"\nw\"".to_owned()),
            ("a.csv", "id,text\r1,x\r2,\"y, \"\"z\"\"\nw\"\r".to_owned()),
            ("a.CSV", "\u{feff}text,id\nx,1\n\"y, \"\"z\"\"\nw\",2\n".to_owned()),
            ("a.csv", "id,text\n5\" disk,x\n\"\"\"\",\"y, \"\"z\"\"\nw\"\n".to_owned()),
            ("a.tsv", "text\tid\nx\t1\n\"y, \"\"z\"\"\nw\"\t2\n".to_owned()),
        ] {
            assert_eq!(texts(name, &text), rows, "{name}: {text:?}");
        }
    }

    /// What `pandas.read_csv` gives, and with it datasets: lines end in every way, and cells keep what stands in them.
    #[test]
    fn what_stands_in_a_cell_is_kept() {
        for (name, text) in [
            ("a.csv", "text,id\r\n\"x\r\ny\",1\r\n\"p\rq\",2\r\n\"u\nv\",3\r\n"),
            ("a.tsv", "text\tid\r\"x\r\ny\"\t1\r\"p\rq\"\t2\r\"u\nv\"\t3"),
            ("a.jsonl", "{\"text\": \"x\\r\\ny\"}\r{\"text\": \"p\\rq\"}\r\n\r\n{\"text\": \"u\\nv\"}\n"),
            ("a.json", "[{\"text\": \"x\\r\\ny\"},\r{\"text\": \"p\\rq\"},\r\n{\"text\": \"u\\nv\"}]\r"),
        ] {
            assert_eq!(texts(name, text), ["x\r\ny", "p\rq", "u\nv"], "{name}: {text:?}");
        }
        // Python's csv and pandas take what follows a quoted part into the cell, and quotes within one as they are.
        assert_eq!(
            texts("a.csv", "text,id\n\"x\"y,1\nx\"y\",2\n \"x\",3\n\"x\" ,4\n"),
            ["xy", "x\"y\"", " \"x\"", "x "]
        );
    }

    #[test]
    fn files_that_are_no_text_say_what_they_are() {
        let utf16: Vec<u8> = "\u{feff}some text".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for (name, bytes, part) in [
            ("a.txt", utf16.clone(), "UTF-16"),
            ("a.jsonl", utf16.clone(), "UTF-16"),
            ("a.csv", utf16[2..].to_vec(), "full of NUL bytes"),
            ("a.txt", b"ok\nb\xe4d\n".to_vec(), "byte 4"),
            ("a.txt", b"\x1f\x8b\x08".to_vec(), "gunzip"),
            ("a.jsonl", b"\x28\xb5\x2f\xfd\x04".to_vec(), "zstd -d"),
            ("a.txt", b"PAR1...".to_vec(), "is Parquet"),
            ("a.jsonl.gz", b"{}".to_vec(), "unpack it first"),
            ("a.TXT.ZST", b"{}".to_vec(), "unpack it first"),
            ("a.csv", b"id,text\n1,\xe4\n".to_vec(), "a.csv:2`: the text is not UTF-8: byte 0xe4"),
            ("a.xlsx", b"x".to_vec(), "save it as"),
        ] {
            let found = error(name, bytes);
            assert!(found.contains(part), "{name}: {found}");
        }
    }

    #[test]
    fn messages_have_parts_and_other_names() {
        let turns = |turns: &str| {
            let (_dir, source) = file("a.jsonl", format!("{{\"conversations\": [{turns}]}}\n"));
            all(&source, "conversations", None, false)
        };
        let wanted = Document::Chat(vec![
            Message::new("system", "s"),
            Message::new("user", "two parts"),
            Message::new("assistant", "yes"),
        ]);
        for given in [
            r#"{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]}, {"role": "assistant", "content": "yes", "tool_calls": null}"#,
            r#"{"from": "system", "value": "s"}, {"from": "human", "value": "two parts"}, {"from": "gpt", "value": "yes"}"#,
        ] {
            assert_eq!(turns(given).unwrap(), std::slice::from_ref(&wanted));
        }
        for (given, part) in [
            (r#"{"from": "observation", "value": "s"}"#, "`from` may be human"),
            (r#"{"speaker": "x", "value": "s"}"#, "ShareGPT"),
            (r#"{"role": "user", "content": [{"type": "image_url"}]}"#, "`image_url`"),
            (r#"{"role": "assistant", "content": null}"#, "`content` is missing"),
            (r#"{"role": "assistant", "content": "", "tool_calls": [1]}"#, "tool_calls"),
        ] {
            let error = turns(given).unwrap_err();
            let found = format!("{error} {}", error.hints.join(" "));
            assert!(found.contains(part) && found.contains("a.jsonl:1"), "{found}");
        }
    }
}
