//! Documents as something to go on from, with what else stands in their rows.

use serde_json::{Map, Value};

use super::{
    Document, Format, demo,
    documents::{document, documents},
    rows::{Rows, whole_rows},
};
use crate::{
    error::{Error, Result},
    graph::node::DataSource,
};

/// A beginning, and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// For messages: `prompts.jsonl:3`.
    pub place: String,
    /// The row that it stands in; nothing of a text that is no table.
    pub row: Map<String, Value>,
    /// A text, or a conversation without the assistant's turn at its end.
    pub begins: Document,
    /// What the assistant says in that turn.
    pub answer: Option<String>,
}

/// The prompts of a source: a row each of a table, from its column `column`; of any other text its paragraphs, as far as the first so many
/// `characters` go.
///
/// # Errors
/// As for [`documents`]; a conversation has nothing but an answer.
pub fn prompts(
    source: &DataSource,
    column: &str,
    characters: Option<usize>,
) -> Result<Box<dyn Iterator<Item = Result<Prompt>>>> {
    if let Some((rows, column)) = table(source, column)? {
        return Ok(Box::new(rows.map(move |row| {
            let (place, row) = row?;
            let (begins, answer) = document(&row, &column).and_then(beginning).map_err(|e| e.context(&place))?;
            Ok(Prompt { place, row, begins, answer })
        })));
    }
    let found = documents(source, column, characters, true)?.enumerate();
    Ok(Box::new(found.map(|(index, document)| {
        let place = format!("document {}", index + 1);
        let (begins, answer) = document.and_then(beginning).map_err(|e| e.context(&place))?;
        Ok(Prompt { place, row: Map::new(), begins, answer })
    })))
}

/// Whether the first row of a table has a column; texts that are no table have none.
pub fn has_column(source: &DataSource, column: &str) -> bool {
    let first = table(source, column).ok().flatten().and_then(|(mut rows, column)| Some((rows.next()?.ok()?, column)));
    first.is_some_and(|((_, row), column)| row.contains_key(&column))
}

/// The rows of a source that is a table, and the column of them that is meant.
fn table(source: &DataSource, column: &str) -> Result<Option<(Rows, String)>> {
    match source {
        DataSource::File(path) => {
            let format = Format::of(path)?;
            let is_table = format != Format::Text;
            is_table.then(|| Ok((whole_rows(path, format, column)?, column.to_owned()))).transpose()
        }
        DataSource::Demo(name) => Ok(demo::rows(name)?.map(|rows| (rows, demo::column(column).to_owned()))),
        DataSource::Node(_) => Ok(None),
    }
}

/// A conversation without the answer that it ends with, and that answer.
fn beginning(document: Document) -> Result<(Document, Option<String>)> {
    let Document::Chat(mut turns) = document else { return Ok((document, None)) };
    let answer = turns.pop_if(|last| last.role == "assistant").map(|last| last.content);
    if turns.is_empty() {
        return Err(Error::refused("the conversation has no turn that could be answered")
            .hint("a prompt ends with a turn of the user, or with the answer that another is written for"));
    }
    Ok((Document::Chat(turns), answer))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use workbench_model::tokenizer::Message;

    use super::*;

    fn read(name: &str, text: &str, column: &str) -> Result<Vec<Prompt>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        prompts(&DataSource::File(path), column, None)?.collect()
    }

    #[test]
    fn the_answer_at_the_end_is_cut_off_and_the_row_kept() {
        let text = concat!(
            r#"{"id": 7, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#,
            "\n",
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]}"#,
            "\n"
        );
        let found = read("a.jsonl", text, "messages").unwrap();
        assert_eq!(found[0].begins, Document::Chat(vec![Message::new("user", "a")]));
        assert_eq!((&found[0].row["id"], found[0].row["messages"].as_array().unwrap().len()), (&json!(7), 2));
        assert!(matches!(&found[1].begins, Document::Chat(turns) if turns.len() == 3));
        assert!(found[1].place.ends_with("a.jsonl:2"), "{}", found[1].place);
        let error =
            read("a.jsonl", r#"{"messages": [{"role": "assistant", "content": "b"}]}"#, "messages").unwrap_err();
        assert!(error.to_string().contains("no turn") && error.to_string().contains("a.jsonl:1"), "{error}");
    }

    /// The demo's conversations are rows as those of a file are.
    #[test]
    fn rows_of_the_demo_are_those_of_a_file() {
        for column in ["text", "messages"] {
            let source = DataSource::Demo("chat/answers/valid".to_owned());
            let found: Vec<Prompt> = prompts(&source, column, None).unwrap().take(5).map(Result::unwrap).collect();
            let lines: String = found.iter().map(|prompt| format!("{}\n", json!(prompt.row))).collect();
            let of_file = read("a.jsonl", &lines, "messages").unwrap();
            assert_eq!(found.len(), 5);
            for (own, other) in found.iter().zip(&of_file) {
                assert!(own.row.len() > 1 && own.answer.is_some() && own.place.contains("demo:chat/answers/valid"));
                assert_eq!((&own.row, &own.begins, &own.answer), (&other.row, &other.begins, &other.answer));
            }
        }
    }

    #[test]
    fn texts_are_rows_or_paragraphs() {
        let found = read("a.txt", "one\ntwo\n\nthree\n", "text").unwrap();
        let texts: Vec<_> = found.iter().map(|prompt| prompt.begins.clone()).collect();
        assert_eq!(texts, [Document::Text("one\ntwo".into()), Document::Text("three".into())]);
        assert!(found[1].row.is_empty() && found[1].place == "document 2");
        let found = read("a.csv", "id,q\n1,x\n2,y\n", "q").unwrap();
        assert_eq!((&found[1].row["id"], &found[1].begins), (&json!("2"), &Document::Text("y".into())));
        assert!(read("a.jsonl", "{\"q\": \"x\"}\n", "text").unwrap_err().to_string().contains("no column `text`"));
    }
}
