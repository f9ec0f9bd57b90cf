//! `workbench doctor`

use std::process::ExitCode;

use clap::Args;
use rustix::fs::statvfs;
use serde_json::{Value, json};

use super::{Global, plugins, style};
use crate::{
    config::show_bytes,
    error::{Error, ErrorKind, Result},
    exec::{available_memory, cpu_model, total_memory},
};

/// Check this machine, the results folder and the plugins
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  workbench doctor --json")]
pub(super) struct DoctorArguments {}

struct Finding {
    what: &'static str,
    good: bool,
    text: String,
}

pub(super) fn main(_: &DoctorArguments, global: &Global) -> Result<ExitCode> {
    let (project, store) = global.project(std::path::Path::new("."))?;
    let mut findings = Vec::new();
    let mut add = |what, good, text: String| findings.push(Finding { what, good, text });
    add(
        "version",
        true,
        format!(
            "{} (grid {}, store {})",
            env!("CARGO_PKG_VERSION"),
            workbench_quant::GRID_VERSION,
            crate::store::Store::VERSION
        ),
    );
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    add("processor", true, format!("{}, {cores} cores", cpu_model()));
    add("memory", true, format!("{} of {} available", show_bytes(available_memory()), show_bytes(total_memory())));
    add("project", true, project.root.display().to_string());
    match store.check_writable() {
        Ok(()) => add("results", true, format!("{} can be written, renames are atomic", store.root().display())),
        Err(e) => add("results", false, e.to_string()),
    }
    if let Ok(disk) = statvfs(store.root()) {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        add("disk", free > 1 << 30, format!("{} free", show_bytes(free)));
    }
    match plugins::discover(&project, &store) {
        Ok(registry) => {
            let names: Vec<String> =
                registry.plugins().map(|p| format!("{} {}", p.descriptor.kind.name(), p.descriptor.name)).collect();
            add(
                "plugins",
                !names.is_empty(),
                if names.is_empty() { "none found: build the workspace first".into() } else { names.join(", ") },
            );
            for problem in registry.problems() {
                add("plugins", false, problem.to_string());
            }
        }
        Err(e) => add("plugins", false, e.to_string()),
    }
    let demo = project.root.join("experiments/demo/model/model.safetensors.index.json");
    add(
        "demo",
        demo.is_file(),
        if demo.is_file() { "the demo model is there".into() } else { format!("there is no {}", demo.display()) },
    );

    let good = findings.iter().all(|f| f.good);
    if global.json {
        let list: Vec<Value> =
            findings.iter().map(|f| json!({ "what": f.what, "good": f.good, "text": f.text })).collect();
        style::print_json(&json!({ "good": good, "findings": list }))?;
    } else {
        let mark = |f: &Finding| if f.good { "ok" } else { "PROBLEM" }.to_owned();
        let rows: Vec<Vec<String>> =
            findings.iter().map(|f| vec![mark(f), f.what.to_owned(), f.text.clone()]).collect();
        style::print(&style::columns(&rows))?;
    }
    if good {
        Ok(ExitCode::SUCCESS)
    } else {
        Err(Error::new(ErrorKind::Refused, "something here would get in the way of a run"))
    }
}
