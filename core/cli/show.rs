//! `workbench show`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Global, progress::duration, style};
use crate::{
    config::show_bytes,
    error::Result,
    exec::{End, Event, Standing, State},
    store::{RunFolder, Store},
};

/// Show runs, one run, or one stored node
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench show              the runs\n  workbench show last         the newest run, node by node\n\n\
The first digits of a key, as that lists them, show a stored node: its meaning, values and facts."
)]
pub(super) struct ShowArguments {
    /// A run, `last`, or the first digits of a key
    name: Option<String>,
}

pub(super) fn main(arguments: &ShowArguments, global: &Global) -> Result<ExitCode> {
    let (_, store) = global.project(std::path::Path::new("."))?;
    match &arguments.name {
        None => runs(&store, global)?,
        Some(name) => match store.run(name) {
            Ok(run) => one_run(&run, global)?,
            Err(not_a_run) => match store.find(name) {
                Ok(key) => node(&store, &key, global)?,
                Err(not_a_key) if name.chars().all(|c| c.is_ascii_hexdigit()) => return Err(not_a_key),
                Err(_) => return Err(not_a_run),
            },
        },
    }
    Ok(ExitCode::SUCCESS)
}

fn runs(store: &Store, global: &Global) -> Result<()> {
    let mut rows = vec![["run", "script", "nodes", "ended"].map(str::to_owned).to_vec()];
    let mut list = Vec::new();
    for run in store.runs()? {
        let Ok(summary) = run.summary() else {
            rows.push(vec![run.id(), String::new(), String::new(), "its list is damaged".to_owned()]);
            list.push(json!({ "run": run.id(), "damaged": true }));
            continue;
        };
        let standing = Standing::of(&run, &summary, &events(&run));
        rows.push(vec![run.id(), summary.script.clone(), summary.nodes.len().to_string(), standing.line()]);
        list.push(json!({
            "run": run.id(), "script": summary.script, "nodes": summary.nodes.len(), "ended": standing.line(), "standing": standing,
        }));
    }
    if global.json {
        style::print_json(&list)
    } else if list.is_empty() {
        style::print(&format!("there is no run yet in `{}`\n", style::from_here(store.root())))
    } else {
        style::print(&style::columns(&rows))
    }
}

fn events(run: &RunFolder) -> Vec<Event> {
    run.events().unwrap_or_default().into_iter().filter_map(|e| serde_json::from_value(e).ok()).collect()
}

fn one_run(run: &RunFolder, global: &Global) -> Result<()> {
    let summary = run.summary()?;
    let events = events(run);
    let standing = Standing::of(run, &summary, &events);
    let ends: Vec<&Event> = events.iter().filter(|e| matches!(e, Event::NodeEnded { .. })).collect();
    let began = |wanted: &crate::graph::Key| {
        events.iter().any(|e| matches!(e, Event::NodeStarted { key, .. } if key == wanted))
    };
    let end_of = |wanted: &crate::graph::Key| {
        ends.iter().rev().find_map(|event| match event {
            Event::NodeEnded { key, seconds, end, .. } if key == wanted => Some((*seconds, end.clone())),
            _ => None,
        })
    };
    if global.json {
        let nodes: Vec<Value> = summary
            .nodes
            .iter()
            .map(|n| json!({ "node": n, "end": end_of(&n.key).map(|e| json!({ "seconds": e.0, "end": e.1 })) }))
            .collect();
        return style::print_json(&json!({ "run": summary, "standing": standing, "nodes": nodes }));
    }
    style::print(&format!("run {} of {}\n{}\n", summary.id, summary.script, standing.line()))?;
    if let Some(error) = &standing.error {
        style::print(&format!("  {error}\n"))?;
    }
    let rows: Vec<Vec<String>> = summary
        .nodes
        .iter()
        .map(|node| {
            let (state, time) = match end_of(&node.key) {
                Some((seconds, End::Done)) => ("done".to_owned(), duration(seconds)),
                Some((seconds, End::Failed { message, .. })) => (format!("failed: {message}"), duration(seconds)),
                Some((_, End::Skipped { because })) => (format!("skipped: {because}"), String::new()),
                Some((seconds, End::Interrupted)) => ("interrupted".to_owned(), duration(seconds)),
                Some((_, End::Cancelled)) => ("stopped".to_owned(), String::new()),
                None if node.cached => ("cached".to_owned(), String::new()),
                None => (unended(&standing, began(&node.key)).to_owned(), String::new()),
            };
            vec![format!("  {}", node.key.short()), node.label.clone(), time, state]
        })
        .collect();
    style::print(&style::columns(&rows))
}

/// What is known of a node without an end.
fn unended(standing: &Standing, began: bool) -> &'static str {
    match (standing.state, began) {
        (State::Running, true) => "running",
        (State::Running, false) => "waiting",
        (_, true) => "was at work when the run ended",
        (_, false) => "not begun",
    }
}

fn node(store: &Store, key: &crate::graph::Key, global: &Global) -> Result<()> {
    let object = store.object(key)?;
    let (record, provenance) = (object.record()?, object.provenance().unwrap_or_default());
    if global.json {
        return style::print_json(
            &json!({ "key": key, "folder": object.path(), "record": record, "provenance": provenance }),
        );
    }
    let mut text = format!("{key}\n{}  {}\n", object.path().display(), show_bytes(object.size()));
    for (name, value) in
        [("values", &record.values), ("facts", &record.facts), ("meaning", &record.identity), ("made", &provenance)]
    {
        text.push_str(&format!("\n{name}\n"));
        outline(value, 1, &mut text);
    }
    style::print(&text)
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
