//! Curves for other programs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use serde_json::{Map, Value, json};

use super::super::{Global, style};
use crate::{
    error::{Error, Result},
    graph::Key,
    report,
    store::{Curve, Object, RunSummary, Store, write_atomic},
    words::{listed, plural},
};

/// The curve of a node as CSV, in a file or on standard output.
///
/// # Errors
/// The node has none, or it cannot be read or written.
pub(super) fn csv(object: &Object, output: Option<&Path>) -> Result<()> {
    let curve = object.curve()?.ok_or_else(|| none(object.key()))?.to_csv()?;
    match output {
        Some(path) => write_atomic(path, curve.as_bytes()),
        None => style::print(&curve),
    }
}

/// The nodes of a run that are stored, and those that they were made of: a run that finds a result in the store does not list what
/// is behind it.
pub(super) fn keys(store: &Store, run: &RunSummary) -> Vec<Key> {
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    let mut waiting: Vec<Key> = run.nodes.iter().rev().map(|node| node.key.clone()).collect();
    while let Some(key) = waiting.pop() {
        if !store.holds(&key) || !seen.insert(key.clone()) {
            continue;
        }
        if let Ok(record) = store.object(&key).and_then(|object| object.record()) {
            let inputs = record.identity["inputs"].as_object().into_iter().flat_map(|inputs| inputs.values());
            waiting.extend(inputs.filter_map(|input| input["node"].as_str()?.parse::<Key>().ok()));
        }
        found.push(key);
    }
    found
}

/// The node of a run that has a curve.
///
/// # Errors
/// None has one, or several have; a stored result is damaged.
pub(super) fn only(store: &Store, run: &RunSummary) -> Result<Object> {
    let mut found = Vec::new();
    for key in keys(store, run) {
        let object = store.object(&key)?;
        if object.curve()?.is_some() {
            found.push(object);
        }
    }
    if found.len() > 1 {
        let names = found.iter().map(name).collect::<Result<Vec<String>>>()?;
        return Err(Error::usage(format!("several nodes of the run have a curve: {}", listed(&names, 8)))
            .hint("give the key of one, the digits behind its name, instead of the run"));
    }
    found.pop().ok_or_else(|| Error::refused("no node of the run has a curve: none reported anything step by step"))
}

/// The curve as JSON: by metric, the steps and what was reported at each; what is no finite number is null.
pub(super) fn json(curve: &Curve) -> Value {
    let metric = |(name, values): (&str, &BTreeMap<u64, f64>)| {
        let (steps, values): (Vec<u64>, Vec<f64>) = values.iter().unzip();
        (name.to_owned(), json!({ "steps": steps, "values": values }))
    };
    Value::Object(curve.metrics().map(metric).collect::<Map<_, _>>())
}

/// Writes the curves of nodes as event files for TensorBoard, each into a folder of its own, which TensorBoard calls a run. Nodes
/// without a curve are passed over.
///
/// # Errors
/// None of them has a curve; a curve cannot be read, a file cannot be written.
pub(super) fn tensorboard(
    store: &Store,
    keys: impl IntoIterator<Item = Key>,
    folder: &Path,
    global: &Global,
) -> Result<()> {
    let (mut written, mut missing) = (Vec::new(), None);
    for key in keys {
        let object = store.object(&key)?;
        let Some(curve) = object.curve()? else {
            missing = Some(key);
            continue;
        };
        let events = report::tensorboard(&curve).ok_or_else(|| {
            Error::refused(format!("{} reported a step that is too large for TensorBoard", key.short()))
        })?;
        let path = folder.join(name(&object)?).join(report::EVENTS_FILE);
        write_atomic(&path, &events)?;
        written.push(path);
    }
    match (written.is_empty(), missing) {
        (true, Some(key)) => Err(none(&key)),
        (true, None) => Err(Error::refused("the run has no stored node, and so no curve")),
        _ if global.json => style::print_json(&json!({ "files": written })),
        _ => {
            let lines: Vec<String> = written.iter().map(|path| format!("{}\n", style::from_here(path))).collect();
            style::print(&lines.concat())?;
            style::note(&format!(
                "wrote {}; look at them with `tensorboard --logdir {}`",
                plural(written.len(), "curve"),
                style::from_here(folder)
            ));
            Ok(())
        }
    }
}

/// What a node is called among others: its kind, its method and the first digits of its key.
fn name(object: &Object) -> Result<String> {
    let identity = object.record()?.identity;
    let word = |name: &str| identity[name].as_str().unwrap_or_default().to_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' };
    let words = format!("{}-{}-{}", word("kind"), word("method"), object.key().short());
    Ok(words.chars().map(plain).collect())
}

fn none(key: &Key) -> Error {
    Error::refused(format!("{} has no curve: it reported nothing step by step", key.short()))
        .hint("trainings and learned rotations have one, unless they were made by a version that kept none")
}
