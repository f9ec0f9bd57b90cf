//! Prompt templates: text with `{field}` placeholders.

use serde_json::{Map, Value};

use super::closest;

/// A parsed template. Placeholders name a field of the item, `{field}`, or an element of a list in it, `{field.0}`; `{{`
/// and `}}` stand for braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Field { name: String, index: Option<usize> },
}

/// What is wrong with a template or with the item that is put into it: a message and a hint.
pub(crate) type Fault = (String, Option<String>);

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// A message and a hint for braces without a partner and for placeholders that are no field names.
    pub fn parse(source: &str) -> Result<Self, (String, Option<String>)> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let (brace, tail) = rest[at..].split_at(1);
            if let Some(tail) = tail.strip_prefix(brace) {
                text.push_str(brace);
                rest = tail;
                continue;
            }
            let end = tail.find('}').filter(|_| brace == "{").ok_or_else(|| {
                (
                    format!("`{brace}` without its partner in the template"),
                    Some(format!("write `{brace}{brace}` for a brace")),
                )
            })?;
            if !text.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut text)));
            }
            parts.push(placeholder(&tail[..end])?);
            rest = &tail[end + 1..];
        }
        text.push_str(rest);
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        Ok(Self { parts })
    }

    /// The names of the fields that the template uses.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Field { name, .. } => Some(name.as_str()),
        })
    }

    /// Puts an item's fields in. Texts, numbers and booleans can be put into a template; nothing else can.
    ///
    /// # Errors
    /// A message and a hint for a field that the item lacks, and for one that is no text.
    pub fn render(&self, fields: &Map<String, Value>) -> Result<String, (String, Option<String>)> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Field { name, index } => out.push_str(&text_of(lookup(fields, name, *index)?, name)?),
            }
        }
        Ok(out)
    }
}

fn placeholder(inner: &str) -> Result<Part, Fault> {
    let (name, index) = match inner.rsplit_once('.') {
        Some((name, digits)) if digits.chars().all(|c| c.is_ascii_digit()) => (name, digits.parse().ok()),
        _ => (inner, None),
    };
    let good = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || !name.chars().all(good) {
        let hint = "a placeholder is a field's name, such as `{question}`, or an element of a list, `{options.0}`";
        return Err((format!("`{{{inner}}}` is no placeholder"), Some(hint.into())));
    }
    Ok(Part::Field { name: name.to_owned(), index })
}

/// A field of the item, with a did-you-mean where it lacks one.
pub(crate) fn field<'a>(fields: &'a Map<String, Value>, name: &str) -> Result<&'a Value, Fault> {
    fields.get(name).ok_or_else(|| {
        let names = || fields.keys().map(String::as_str);
        let hint = match closest(name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("it has {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        (format!("the item has no field `{name}`"), Some(hint))
    })
}

fn lookup<'a>(fields: &'a Map<String, Value>, name: &str, index: Option<usize>) -> Result<&'a Value, Fault> {
    let value = field(fields, name)?;
    let Some(index) = index else { return Ok(value) };
    let list = value
        .as_array()
        .ok_or_else(|| (format!("the field `{name}` is no list, so it has no element {index}"), None))?;
    list.get(index).ok_or_else(|| {
        (
            format!("the field `{name}` has {} elements and no element {index}", list.len()),
            Some("elements count from 0".into()),
        )
    })
}

/// The text of a field that may stand in a prompt or be an answer.
pub(crate) fn text_of(value: &Value, name: &str) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Bool(flag) => Ok(flag.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => Err((
            format!("the field `{name}` is neither text nor a number"),
            Some("`{field.0}` names the first element of a list".into()),
        )),
    }
}
