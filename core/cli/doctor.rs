//! `workbench doctor`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use rustix::fs::statvfs;
use serde_json::{Value, json};
use workbench_model::{
    Precision,
    matmul::{Kernel, check_override, rate},
};

use super::{Global, gc, plugins, style};
use crate::{
    config::show_bytes,
    error::{Error, ErrorKind, Result},
    exec::{available_memory, cpu_model, total_memory},
};

/// How long each kernel of matrix products is timed.
const PATIENCE: Duration = Duration::from_millis(150);

/// How much faster another kernel has to be before the choice is called wrong: machines are noisy.
const MUCH_FASTER: f64 = 1.25;

/// The kernels of matrix products with their rates, and whether those that were asked for can be had. That another one is faster is said,
/// but is no defect: a busy machine tells little.
fn products() -> (bool, String) {
    let overridden = check_override().err().map(|e| e.to_string());
    let (good, mut parts) = (overridden.is_none(), Vec::from_iter(overridden));
    for (precision, name) in [(Precision::F32, "f32"), (Precision::Bf16, "bfloat16")] {
        let used = Kernel::of(precision);
        let others = Kernel::ALL.into_iter().filter(|kernel| kernel.available() && kernel.multiplies(precision));
        let rates: Vec<(Kernel, f64)> =
            others.map(|kernel| (kernel, rate(kernel, precision, PATIENCE) / 1e9)).collect();
        let best = rates.iter().map(|(_, rate)| *rate).fold(0.0, f64::max);
        let right = rates.iter().any(|(kernel, rate)| *kernel == used && rate * MUCH_FASTER >= best);
        let shown: Vec<String> = rates.iter().map(|(kernel, rate)| format!("{kernel} {rate:.0}")).collect();
        let verdict = if right { "" } else { ", which is not the fastest here" };
        parts.push(format!("{name} by {used}{verdict} (GFLOP/s: {})", shown.join(", ")));
    }
    (good, parts.join("; "))
}

/// Check this machine, the results folder with all that is stored in it, and the plugins
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  workbench doctor --json\n  workbench doctor --remove-damaged   what is damaged is made anew by the next run"
)]
pub(super) struct DoctorArguments {
    /// Remove results that are not as they were written, and runs whose list cannot be read
    #[arg(long)]
    remove_damaged: bool,
}

struct Finding {
    what: &'static str,
    good: bool,
    text: String,
}

pub(super) fn main(arguments: &DoctorArguments, global: &Global) -> Result<ExitCode> {
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
    let (good, rates) = products();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    add("processor", true, format!("{}, {cores} cores", cpu_model()));
    add("products", good, rates);
    add("memory", true, format!("{} of {} available", show_bytes(available_memory()), show_bytes(total_memory())));
    add("project", true, project.root.display().to_string());
    match store.check_writable() {
        Ok(()) => add("results", true, format!("{} can be written, renames are atomic", store.root().display())),
        Err(e) => add("results", false, e.to_string()),
    }
    let damaged = gc::check(&store)?;
    if damaged.is_empty() {
        let objects = store.objects_sorted()?;
        add("store", true, format!("{} results, all of them as they were written", objects.len()));
    } else if arguments.remove_damaged {
        let freed = show_bytes(store.remove_damaged(&damaged)?);
        add("store", true, format!("{} damaged items were removed, which freed {freed}", damaged.len()));
    }
    for found in damaged.iter().filter(|_| !arguments.remove_damaged) {
        for line in &found.findings {
            add("store", false, format!("{} {} is damaged: {line}", found.what, found.name));
        }
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
        return Ok(ExitCode::SUCCESS);
    }
    let error = Error::new(ErrorKind::Refused, "something here would get in the way of a run");
    Err(if damaged.is_empty() { error } else { error.hint("--remove-damaged removes what is damaged") })
}
