//! A stored node: what it found, what it reported on the way, and what it means.

use serde_json::{Value, json};

use super::{super::Global, super::style, curves};
use crate::{
    config::show_bytes,
    error::Result,
    report::{self, Terminal},
    store::Object,
};

/// Prints a node.
///
/// # Errors
/// It is damaged, or standard output cannot be written.
pub(super) fn show(object: &Object, global: &Global) -> Result<()> {
    let (key, record, curve) = (object.key(), object.record()?, object.curve()?);
    let provenance = object.provenance().unwrap_or_default();
    if global.json {
        return style::print_json(&json!({
            "key": key, "folder": object.path(), "record": record, "curve": curve.as_ref().map(curves::json),
            "provenance": provenance,
        }));
    }
    let mut text = format!("{key}\n{}  {}\n", object.path().display(), show_bytes(object.size()));
    section("values", &record.values, &mut text);
    if let Some(curve) = curve {
        let steps = curve.steps().len();
        text.push_str(&format!("\ncurve of {steps} {}\n", crate::words::nouns(steps, "step")));
        // Two columns of indentation.
        let width = style::width().map(|columns| columns.saturating_sub(2));
        indented(&report::curve(&curve, Terminal { width, color: false }), &mut text);
    }
    let mut facts = record.facts;
    let first = facts.get_mut("data").and_then(Value::as_object_mut).and_then(|data| data.remove("first_sequence"));
    sequence(&first.unwrap_or_default(), &mut text);
    section("facts", &facts, &mut text);
    section("meaning", &record.identity, &mut text);
    section("made", &provenance, &mut text);
    style::print(&text)
}

fn section(name: &str, value: &Value, out: &mut String) {
    out.push_str(&format!("\n{name}\n"));
    outline(value, 1, out);
}

/// What a training begins with: what is learned stands in brackets.
fn sequence(first: &Value, out: &mut String) {
    let (Some(pieces), Some(tokens), Some(shown)) =
        (first["pieces"].as_array(), first["tokens"].as_u64(), first["shown"].as_u64())
    else {
        return;
    };
    let part = if shown < tokens { format!("{shown} of {tokens} tokens") } else { format!("{tokens} tokens") };
    out.push_str(&format!("\nfirst training sequence, {part}; learned is what stands in ⟦ ⟧\n"));
    let piece = |piece: &Value| {
        let text = piece["text"].as_str().unwrap_or_default();
        if piece["learned"] == true { format!("⟦{text}⟧") } else { text.to_owned() }
    };
    let rest = if shown < tokens { "…" } else { "" };
    indented(&(pieces.iter().map(piece).collect::<String>() + rest), out);
}

fn indented(text: &str, out: &mut String) {
    for line in text.lines() {
        out.push_str(format!("  {line}").trim_end());
        out.push('\n');
    }
}

/// JSON as an indented outline, long lists cut short.
fn outline(value: &Value, depth: usize, out: &mut String) {
    let pad = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map.iter().filter(|(_, v)| !v.is_null()) {
                match value {
                    Value::Object(inner) if !inner.is_empty() => {
                        out.push_str(&format!("{pad}{key}\n"));
                        outline(value, depth + 1, out);
                    }
                    Value::Array(items) if items.iter().any(Value::is_object) => {
                        for (i, item) in items.iter().enumerate().take(8) {
                            out.push_str(&format!("{pad}{key}[{i}]\n"));
                            outline(item, depth + 1, out);
                        }
                        if items.len() > 8 {
                            out.push_str(&format!("{pad}{key}: {} more\n", items.len() - 8));
                        }
                    }
                    _ => out.push_str(&format!("{pad}{key}  {}\n", leaf(value))),
                }
            }
        }
        _ => out.push_str(&format!("{pad}{}\n", leaf(value))),
    }
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.len() > 6 => {
            let head: Vec<String> = items.iter().take(3).map(leaf).collect();
            format!("{}, … ({} in all)", head.join(", "), items.len())
        }
        Value::Array(items) => items.iter().map(leaf).collect::<Vec<_>>().join(", "),
        _ => value.to_string(),
    }
}
