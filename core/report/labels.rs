//! Labels as text, and which of them deserve a column.

use serde_json::Value;

use super::input::Labels;

/// A label's value as a person reads it: strings without quotes, lists joined by commas, nothing for `null`.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "[]".to_owned(),
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(", "),
        Value::Object(map) => {
            map.iter().map(|(key, value)| format!("{key}={}", text(value))).collect::<Vec<_>>().join(", ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The value of one label; `null` where the row does not have it.
pub(super) fn get<'a>(labels: &'a Labels, key: &str) -> &'a Value {
    labels.iter().find(|(name, _)| name == key).map_or(&Value::Null, |(_, value)| value)
}

/// `key=value` pairs in one line.
pub(super) fn line(labels: &Labels) -> String {
    let pair = |(key, value): &(String, Value)| format!("{key}={}", text(value));
    labels.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// Names of all labels in the order of their first appearance.
pub(super) fn keys<'a>(rows: impl Iterator<Item = &'a Labels>) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    for (key, _) in rows.flatten() {
        if !keys.contains(key) {
            keys.push(key.clone());
        }
    }
    keys
}

/// Labels split into those that tell rows apart, and those that are equal in every row and belong in the caption.
pub(super) struct Split {
    /// Names of the labels that become columns.
    pub columns: Vec<String>,
    /// Labels of the caption.
    pub constant: Labels,
}

/// Splits the labels of `rows`. Rows without any label (an unlabelled baseline) have no say in what is equal, but a
/// single labelled row beside one keeps its labels as columns: they are what tells the two apart.
pub(super) fn split(rows: &[&Labels]) -> Split {
    let labelled: Vec<&Labels> = rows.iter().copied().filter(|labels| !labels.is_empty()).collect();
    let mut result = Split { columns: Vec::new(), constant: Vec::new() };
    for key in keys(labelled.iter().copied()) {
        let first = labelled.first().map_or(&Value::Null, |labels| get(labels, &key));
        let equal = labelled.iter().all(|labels| get(labels, &key) == first);
        if equal && (labelled.len() > 1 || rows.len() == 1) {
            result.constant.push((key, first.clone()));
        } else {
            result.columns.push(key);
        }
    }
    result
}
