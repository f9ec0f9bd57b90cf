//! Parquet files as others write them (scripts/peer/parquet.py), and what is left of them when they are damaged.

use std::path::PathBuf;

use serde_json::json;

use super::*;
use crate::{
    data::{Document, documents},
    graph::node::DataSource,
};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parquet").join(format!("{name}.parquet"))
}

fn read(path: &Path, column: &str) -> Result<Vec<Document>> {
    documents(&DataSource::File(path.to_owned()), column, None, true)?.collect()
}

fn words(error: &Error) -> String {
    format!("{error} | {}", error.hints.join(" "))
}

/// The values of a column.
fn values(name: &str, column: &str) -> Result<Vec<Value>> {
    let rows = Table::open(&fixture(name))?.rows(&[column])?;
    rows.map(|row| Ok(row?.1.remove(column).unwrap_or_default())).collect()
}

#[test]
fn texts_are_the_same_in_every_way_to_write_them() {
    let wanted =
        ["one", "two\r\nlines", "", "thräe 😀", "one", "five\n", "six"].map(|text| Document::Text(text.into()));
    for name in ["none", "snappy", "gzip", "zstd", "v2", "delta_length", "category", "required"] {
        let found = read(&fixture(&format!("texts_{name}")), "text").unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found, wanted, "{name}");
    }
    assert_eq!(read(&fixture("empty"), "text").unwrap(), []);
}

#[test]
fn lists_of_messages_are_conversations() {
    let said = |turns: &[(&str, &str)]| {
        Document::Chat(
            turns.iter().map(|(role, text)| workbench_model::tokenizer::Message::new(*role, *text)).collect(),
        )
    };
    let wanted = [
        said(&[("user", "one"), ("assistant", "two\n")]),
        said(&[("system", ""), ("user", "ä"), ("assistant", "x")]),
        said(&[("user", "alone")]),
    ];
    for name in ["chat", "chat_v2", "chat_legacy"] {
        assert_eq!(read(&fixture(name), "messages").unwrap(), wanted, "{name}");
    }
    let found = read(&fixture("chat_sharegpt"), "conversations").unwrap();
    assert_eq!(found, [said(&[("user", "a"), ("assistant", "b")])]);
}

#[test]
fn what_is_not_there_or_not_text_is_named() {
    for (name, column, parts) in [
        ("nulls", "text", &["nulls.parquet, row 3", "column `text` has no text here"][..]),
        ("chat_null", "messages", &["chat_null.parquet, row 2", "has no text here"]),
        ("chat", "text", &["no column `text`", "messages, source", "text_column"]),
        ("texts_none", "txt", &["no column `txt`", "did you mean `text`?"]),
        ("twice", "text", &["two columns called `text`"]),
        ("texts_lz4", "text", &["is compressed with LZ4", "snappy, gzip, zstd"]),
        ("types", "number", &["column `number` is of type int64, neither text nor a list of messages"]),
        ("types", "binary", &["is of type binary,"]),
        ("types", "moment", &["is of type timestamp,"]),
        ("types", "texts", &["is of type list<string>,"]),
        ("types", "columns", &["is of type struct<role: list<string>, content: list<string>>,"]),
        ("types", "map", &["is of type map<key: string, value: int64>,"]),
        ("types", "nothing", &["is of type null,"]),
    ] {
        let error = words(&read(&fixture(name), column).unwrap_err());
        assert!(parts.iter().all(|part| error.contains(part)), "{name}: {error}");
    }
    for (column, kind) in [("day", "date"), ("money", "decimal"), ("half", "float16"), ("image", "binary")] {
        let error = words(&values("types", column).unwrap_err());
        assert!(error.contains(&format!("{kind} is not read here")), "{column}: {error}");
    }
}

/// The values that pyarrow's `to_pylist` gives.
#[test]
fn values_of_every_type_are_what_was_written() {
    let nothing = Value::Null;
    for (column, wanted) in [
        ("int8", json!([-5, 127, null])),
        ("uint8", json!([250, 0, null])),
        ("uint32", json!([4_294_967_295_u32, 0, null])),
        ("uint64", json!([u64::MAX, 1, null])),
        ("int64", json!([i64::MIN, 1, null])),
        ("float", json!([f64::from(0.1_f32), null, null])),
        ("double", json!([0.1, null, null])),
        ("bool", json!([true, false, null])),
        ("lists", json!([[["a", null], []], [], null])),
        ("struct", json!([{ "a": { "b": 1 }, "c": [1, 2] }, { "a": null, "c": null }, null])),
        ("structs", json!([[{ "a": 1, "b": ["x", "y"] }, { "a": null, "b": [] }], [null], []])),
        ("nothing", json!([nothing, nothing, nothing])),
    ] {
        assert_eq!(Value::Array(values("values", column).unwrap()), wanted, "{column}");
    }
    // Several columns side by side, in the order that is asked for.
    let rows = Table::open(&fixture("values")).unwrap().rows(&["structs", "int8", "lists"]).unwrap();
    let first = rows.map(|row| row.unwrap().1).next().unwrap();
    assert_eq!(
        Value::Object(first),
        json!({ "structs": [{ "a": 1, "b": ["x", "y"] }, { "a": null, "b": [] }], "int8": -5, "lists": [["a", null], []] })
    );
}

/// Whatever is done to a file, its rows are as many as it says, or there is an error.
fn survives(path: &Path, bytes: &[u8], column: &str, rows: usize) -> bool {
    std::fs::write(path, bytes).unwrap();
    match read(path, column) {
        Ok(found) => {
            assert_eq!(found.len(), rows);
            true
        }
        Err(_) => false,
    }
}

#[test]
fn a_file_that_is_cut_off_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    for (name, column) in [("texts_v2", "text"), ("chat", "messages")] {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for length in 0..bytes.len() {
            assert!(!survives(&path, &bytes[..length], column, 0), "{length} of {name}");
        }
    }
}

#[test]
fn a_damaged_file_neither_panics_nor_loses_rows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.parquet");
    for (name, column, rows) in
        [("texts_gzip", "text", 7), ("texts_v2", "text", 7), ("texts_none", "text", 7), ("chat", "messages", 3)]
    {
        let bytes = std::fs::read(fixture(name)).unwrap();
        let mut refused = 0;
        for at in 0..bytes.len() {
            for flip in [1, 0x10, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[at] ^= flip;
                refused += usize::from(!survives(&path, &damaged, column, rows));
            }
        }
        assert!(refused > 0, "{name}: no damage was found");
    }
}
