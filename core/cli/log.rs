//! `workbench log`

use std::{fs, process::ExitCode};

use clap::Args;
use serde_json::json;

use super::{Global, style};
use crate::error::{Error, Result};

/// Print what a node's process wrote
#[derive(Args, Debug)]
#[command(
    after_help = "Example:\n  workbench log last          what the nodes of the newest run wrote; with the first digits of a key, one of them"
)]
pub(super) struct LogArguments {
    /// A run, or `last`
    run: String,
    /// The first digits of the node's key; without it, every log that is not empty
    key: Option<String>,
}

pub(super) fn main(arguments: &LogArguments, global: &Global) -> Result<ExitCode> {
    let (_, store) = global.project(std::path::Path::new("."))?;
    let run = store.run(&arguments.run)?;
    let prefix = arguments.key.as_deref().unwrap_or_default();
    let nodes: Vec<_> = run.summary()?.nodes.into_iter().filter(|n| n.key.as_str().starts_with(prefix)).collect();
    if nodes.is_empty() {
        return Err(Error::usage(format!("run {} has no node `{prefix}`", run.id()))
            .hint(format!("`workbench show {}` lists them", run.id())));
    }
    let mut logs = Vec::new();
    for node in nodes {
        // A plugin prints in whatever encoding.
        let text = String::from_utf8_lossy(&fs::read(run.log(&node.key)).unwrap_or_default()).into_owned();
        if !text.is_empty() {
            logs.push((node, text));
        }
    }
    if global.json {
        let list: Vec<_> =
            logs.iter().map(|(n, text)| json!({ "key": n.key, "label": n.label, "log": text })).collect();
        style::print_json(&list)?;
    } else if logs.is_empty() {
        style::print("nothing was written\n")?;
    } else {
        for (node, text) in logs {
            style::print(&format!("== {} {}\n{text}", node.key.short(), node.label))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
