//! `workbench gc`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, diagnostic, style};
use crate::{
    config::show_bytes,
    error::Result,
    store::{Damaged, Garbage, Store},
    words::plural,
};

/// List what newer runs do not need and what is damaged, and remove it if told to
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench gc                       what could be removed\n  workbench gc --keep-last 3 --yes   remove it"
)]
pub(super) struct GcArguments {
    /// Keep the newest runs and everything that they used
    #[arg(long, default_value_t = 10, value_name = "N")]
    keep_last: usize,
    /// Do not read what is stored to find out whether it is damaged
    #[arg(long)]
    no_check: bool,
    /// Really remove
    #[arg(long)]
    yes: bool,
}

pub(super) fn main(arguments: &GcArguments, global: &Global) -> Result<ExitCode> {
    let (_, store) = global.project(std::path::Path::new("."))?;
    let damaged = if arguments.no_check { Vec::new() } else { check(&store)? };
    let garbage = store.garbage(arguments.keep_last, &damaged)?;
    for run in &garbage.unreadable {
        style::note(&format!(
            "warning: what run {run} needs cannot be read; until it is removed, all results are kept"
        ));
    }
    let (bytes, count) = (garbage.bytes(), garbage.items.len());
    let items: Vec<_> = garbage
        .items
        .iter()
        .map(|i| json!({ "what": i.what, "name": i.name, "bytes": i.bytes, "findings": i.findings }))
        .collect();
    if !global.json {
        style::print(&listing(&garbage))?;
    }
    if !arguments.yes {
        if global.json {
            return style::print_json(&json!({ "items": items, "bytes": bytes, "removed": false }))
                .map(|()| ExitCode::SUCCESS);
        }
        style::print(&format!("would free {} in {}\n", show_bytes(bytes), plural(count, "item")))?;
        if count > 0 {
            style::note("nothing was removed; --yes removes it");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let removal = garbage.remove();
    if global.json {
        let failed: Vec<_> = removal.failed.iter().map(diagnostic::to_json).collect();
        style::print_json(&json!({
            "items": items, "bytes": removal.freed, "removed": removal.failed.is_empty(), "removed_items": removal.items,
            "failed": failed,
        }))?;
    } else {
        style::print(&format!("freed {} in {}\n", show_bytes(removal.freed), plural(removal.items, "item")))?;
    }
    match removal.failed.into_iter().reduce(|first, other| first.cause(other.to_string())) {
        Some(error) => Err(error.context("not everything could be removed")),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// What is damaged; says that it looks, where that takes a while.
pub(super) fn check(store: &Store) -> Result<Vec<Damaged>> {
    const LONG: u64 = 4 << 30;
    let (mut read, mut said) = (0, 0);
    store.damaged(&mut |bytes| {
        read += bytes;
        if read - said >= LONG {
            said = read;
            style::note(&format!("looking for damage: {} read", show_bytes(read)));
        }
    })
}

fn listing(garbage: &Garbage) -> String {
    let rows: Vec<Vec<String>> =
        garbage.items.iter().map(|i| vec![format!("  {}", i.what), i.name.clone(), show_bytes(i.bytes)]).collect();
    let mut text = style::columns(&rows);
    for item in garbage.items.iter().filter(|item| !item.findings.is_empty()) {
        text.push_str(&format!("{} {}:\n", item.what, item.name));
        item.findings.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}
