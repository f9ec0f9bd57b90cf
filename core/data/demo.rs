//! Texts of the demo as data.

use super::{
    documents::{Document, Documents, document},
    rows::Rows,
};
use crate::{
    demo::{Passage, Text},
    error::{Error, Result},
};

/// Where a conversation stands in a row of the demo's.
const MESSAGES: &str = "messages";

/// The documents of a text: of one of conversations what stands in the column, which is that of the messages if it is the one that
/// texts usually stand in.
///
/// # Errors
/// There is no such text; no such column.
pub(super) fn documents(name: &str, column: &str) -> Result<Documents> {
    if let Some(rows) = rows(name)? {
        let column = self::column(column).to_owned();
        return Ok(Box::new(rows.map(move |row| {
            let (place, row) = row?;
            document(&row, &column).map_err(|e| e.context(place))
        })));
    }
    let passages = text(name)?.passages();
    Ok(Box::new(passages.filter_map(|passage| match passage {
        Passage::Text(text) => Some(Ok(Document::Text(text))),
        Passage::Row(_) => None,
    })))
}

/// The column of rows of the demo that is meant: that of the messages if it is the one that texts usually stand in.
pub(super) fn column(column: &str) -> &str {
    if column == "text" { MESSAGES } else { column }
}

/// The rows of a text of conversations; none of running text.
///
/// # Errors
/// There is no such text.
pub(super) fn rows(name: &str) -> Result<Option<Rows>> {
    let text = text(name)?;
    if !matches!(text, Text::Chat(..)) {
        return Ok(None);
    }
    let name = name.to_owned();
    let rows = text.passages().enumerate().filter_map(move |(index, passage)| match passage {
        Passage::Row(row) => Some(Ok((format!("demo:{name}, row {}", index + 1), row))),
        Passage::Text(_) => None,
    });
    Ok(Some(Box::new(rows)))
}

fn text(name: &str) -> Result<Text> {
    Text::by_name(name).map_err(|e| Error::usage(e.to_string()).maybe_hint(e.hint()))
}
