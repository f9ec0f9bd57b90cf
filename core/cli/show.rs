//! `workbench show`

mod curves;
mod node;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use serde_json::{Value, json};

use super::{Global, progress::duration, style};
use crate::{
    error::{Error, Result},
    exec::{End, Event, Standing, State},
    store::{RunFolder, Store},
};

/// Show runs, one run, or one stored node
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench show                            the runs\n  workbench show last                       the newest run, node by node\n  \
workbench show last --csv                 the curve of its training, step by step\n  \
workbench show last --tensorboard tb      all curves of a run, for `tensorboard --logdir tb`\n\n\
The first digits of a key, as `show last` lists them, show a stored node: its meaning, values and facts, and of what reports \
numbers while it works (training, learned rotations) their curve."
)]
pub(super) struct ShowArguments {
    /// A run, `last`, or the first digits of a key
    name: Option<String>,
    /// Print the curve of a stored node, or that of the only node of a run that has one, as CSV and nothing else: a line for each
    /// step, a column for each metric
    #[arg(long, requires = "name", conflicts_with = "tensorboard")]
    csv: bool,
    /// Write the CSV to a file instead
    #[arg(long, value_name = "FILE", requires = "csv")]
    output: Option<PathBuf>,
    /// Write the curve of a stored node, or those of all nodes of a run, as event files for TensorBoard: a folder for each node
    #[arg(long, value_name = "FOLDER", requires = "name")]
    tensorboard: Option<PathBuf>,
}

pub(super) fn main(arguments: &ShowArguments, global: &Global) -> Result<ExitCode> {
    let (_, store) = global.project(std::path::Path::new("."))?;
    let Some(name) = &arguments.name else {
        runs(&store, global)?;
        return Ok(ExitCode::SUCCESS);
    };
    if arguments.csv && global.json {
        return Err(Error::usage("`--csv` and `--json` are two ways to print the same curve").hint("leave one out"));
    }
    match (store.run(name), &arguments.tensorboard) {
        (Ok(run), None) if arguments.csv => {
            curves::csv(&curves::only(&store, &run.summary()?)?, arguments.output.as_deref())?;
        }
        (Ok(run), Some(folder)) => curves::tensorboard(&store, curves::keys(&store, &run.summary()?), folder, global)?,
        (Ok(run), None) => one_run(&run, global)?,
        (Err(not_a_run), folder) => {
            let key = match store.find(name) {
                Ok(key) => key,
                Err(not_a_key) if name.chars().all(|c| c.is_ascii_hexdigit()) => return Err(not_a_key),
                Err(_) => return Err(not_a_run),
            };
            match folder {
                Some(folder) => curves::tensorboard(&store, [key], folder, global)?,
                None if arguments.csv => curves::csv(&store.object(&key)?, arguments.output.as_deref())?,
                None => node::show(&store.object(&key)?, global)?,
            }
        }
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
        let reports: serde_json::Map<String, Value> =
            run.reports()?.into_iter().map(|(name, folder)| (name, json!(folder))).collect();
        return style::print_json(&json!({ "run": summary, "standing": standing, "nodes": nodes, "reports": reports }));
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
    style::print(&style::columns(&rows))?;
    for (name, folder) in run.reports()? {
        style::print(&format!("report {name}: {}\n", style::from_here(&folder.join("index.html"))))?;
    }
    Ok(())
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
