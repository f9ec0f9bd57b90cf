//! Where a file keeps its modifiers: `quant_modifiers` of a stage file, or the stages and groups of llm-compressor's recipes.
//!
//! A recipe has `…_stage` sections with `…_modifiers` groups in them, whatever stands before the underscore. llm-compressor 0.14 runs
//! the modifiers of all groups of all stages in the order of the file, and so does this. What it passes over without a word (a key of
//! a stage that ends otherwise) is an error here: it may be a group whose name was misspelled.

use serde_json::{Map, Value};

use super::modifiers::Fault;
use crate::error::Error;

/// A modifier of a file.
#[derive(Debug)]
pub(super) struct Entry {
    /// The names of the sections that lead to it, its own last.
    pub path: Vec<String>,
    pub options: Value,
}

/// The modifiers of a file.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub entries: Vec<Entry>,
    /// Whether the file has a section for them at all.
    pub given: bool,
    /// Whether it has stages, as a recipe of llm-compressor that knows nothing of pipelines.
    pub staged: bool,
}

/// Takes the sections with modifiers out of the keys of a file.
pub(super) fn take(keys: &mut Map<String, Value>) -> Result<Found, Fault> {
    let mut found = Found::default();
    let sections: Vec<String> = keys.keys().filter(|key| is_group(key) || is_stage(key)).cloned().collect();
    for key in sections {
        let Some(value) = keys.shift_remove(&key).filter(|value| !value.is_null()) else { continue };
        found.given = true;
        match is_group(&key) {
            true => group(vec![key], value, &mut found.entries)?,
            false => {
                found.staged = true;
                stage(key, value, &mut found.entries)?;
            }
        }
    }
    // Places for anchors, as files of other tools have them too.
    keys.retain(|key, _| !key.starts_with("x-"));
    if found.staged {
        // What older versions of that package wrote into every recipe.
        keys.retain(|key, value| !matches!(key.as_str(), "version" | "metadata") && !is_empty(key, value));
    }
    Ok(found)
}

/// Arguments that a recipe declares and does not have.
fn is_empty(key: &str, value: &Value) -> bool {
    key == "args" && (value.is_null() || value.as_object().is_some_and(Map::is_empty))
}

fn is_group(key: &str) -> bool {
    key.ends_with("_modifiers")
}

fn is_stage(key: &str) -> bool {
    key.ends_with("_stage")
}

fn stage(name: String, value: Value, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let Value::Object(groups) = value else {
        let error = Error::usage(format!("`{name}` is a map of groups of modifiers, not {value}")).at(name.as_str());
        return Err(Box::new((vec![name], error)));
    };
    for (key, value) in groups {
        let path = vec![name.clone(), key.clone()];
        match (key.as_str(), &value) {
            (group_key, _) if is_group(group_key) => group(path, value, entries)?,
            ("run_type", Value::Null) => {}
            ("run_type", Value::String(kind)) if kind == "oneshot" => {}
            ("run_type", other) => {
                let error = Error::usage(format!("`run_type` of `{name}` is {other}, and only oneshot is here"));
                return Err(Box::new((path, error.at("run_type").hint("the plugin `sft` trains, from a script"))));
            }
            _ => {
                let error =
                    Error::usage(format!("`{name}` has no group of modifiers `{key}`")).at(key.as_str()).hint(format!(
                        "the name of a group ends in `_modifiers`: {}_modifiers",
                        key.trim_end_matches("_modifier")
                    ));
                return Err(Box::new((path, error)));
            }
        }
    }
    Ok(())
}

fn group(path: Vec<String>, value: Value, entries: &mut Vec<Entry>) -> Result<(), Fault> {
    let modifiers = match value {
        Value::Null => return Ok(()),
        Value::Object(modifiers) => modifiers,
        other => {
            let name = path.last().cloned().unwrap_or_default();
            let error = Error::usage(format!("`{name}` is a map of modifiers by name, not {other}")).at(name);
            return Err(Box::new((path, error)));
        }
    };
    for (name, options) in modifiers {
        let mut path = path.clone();
        path.push(name);
        entries.push(Entry { path, options });
    }
    Ok(())
}
