//! `workbench gc`

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Global, style};
use crate::{config::show_bytes, error::Result};

/// List what newer runs do not need, and remove it if told to
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench gc                       what could be removed\n  workbench gc --keep-last 3 --yes   remove it"
)]
pub(super) struct GcArguments {
    /// Keep the newest runs and everything that they used
    #[arg(long, default_value_t = 10, value_name = "N")]
    keep_last: usize,
    /// Really remove
    #[arg(long)]
    yes: bool,
}

pub(super) fn main(arguments: &GcArguments, global: &Global) -> Result<ExitCode> {
    let (_, store) = global.project(std::path::Path::new("."))?;
    let garbage = store.garbage(arguments.keep_last)?;
    if global.json {
        let items: Vec<_> =
            garbage.items.iter().map(|i| json!({ "what": i.what, "name": i.name, "bytes": i.bytes })).collect();
        style::print_json(&json!({ "items": items, "bytes": garbage.bytes(), "removed": arguments.yes }))?;
    } else {
        let rows: Vec<Vec<String>> =
            garbage.items.iter().map(|i| vec![format!("  {}", i.what), i.name.clone(), show_bytes(i.bytes)]).collect();
        style::print(&style::columns(&rows))?;
        let verb = if arguments.yes { "freed" } else { "would free" };
        style::print(&format!("{verb} {} in {} items\n", show_bytes(garbage.bytes()), garbage.items.len()))?;
        if !arguments.yes && !garbage.items.is_empty() {
            style::note("nothing was removed; --yes removes it");
        }
    }
    if arguments.yes {
        garbage.remove()?;
    }
    Ok(ExitCode::SUCCESS)
}
