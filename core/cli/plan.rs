//! `workbench plan`

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, Mutex},
};

use clap::Args;
use serde_json::{Value, json};

use super::{
    Global, preflight,
    run::{ScriptOptions, build},
    runner::OnlyStored,
    style,
};
use crate::{
    config::{Project, show_bytes},
    error::Result,
    exec::total_memory,
    graph::{
        Plan, PlanNode, State,
        plan::{describe, why},
    },
    script::{Builder, Force},
    store::Store,
    words::plural,
};

/// Show what a run would do, and why
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  workbench plan experiments/ablation_down_proj.rhai --why")]
pub(super) struct PlanArguments {
    /// The script
    script: PathBuf,
    #[command(flatten)]
    script_options: ScriptOptions,
    /// Say for each node that has to run what differs from the nearest one that is stored
    #[arg(long)]
    why: bool,
}

pub(super) fn main(arguments: &PlanArguments, global: &Global) -> Result<ExitCode> {
    let (project, store) = global.project(&arguments.script)?;
    show(&arguments.script, &arguments.script_options, arguments.why, &project, &store, global)
}

pub(super) fn show(
    script: &Path,
    options: &ScriptOptions,
    reasons: bool,
    project: &Project,
    store: &Store,
    global: &Global,
) -> Result<ExitCode> {
    let stored =
        Arc::new(OnlyStored { store: store.clone(), digests: Mutex::new(store.digests()), stopped: Mutex::new(None) });
    let (builder, built) = build(script, options, project, store, Arc::clone(&stored) as Arc<dyn Force>);
    let stopped = stored.stopped.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let wanted = match (built, &stopped) {
        (Ok(()), _) => builder.wanted(),
        // What was asked for before the forced value is what can be planned.
        (Err(_), Some(_)) => builder.graph.nodes().map(|(id, _)| id).collect(),
        (Err(e), None) => return Err(e),
    };
    let mut digests = store.digests();
    let plan = Plan::new(&builder.graph, &wanted, store, &mut digests)?;
    store.remember(&digests);
    let known = if reasons { store.identities()? } else { Vec::new() };
    let reason = |node: &PlanNode| (reasons && node.state == State::Pending).then(|| describe(&why(node, &known)));
    if global.json {
        style::print_json(&as_json(&builder, &plan, &stopped, &reason))?;
    } else {
        style::print(&format!("{}\n", headline(&script.display().to_string(), &builder, &plan)))?;
        let rows: Vec<Vec<String>> = plan.nodes.iter().map(|n| row(&builder, n, reason(n))).collect();
        style::print(&style::columns(&rows))?;
        builder.all_warnings().iter().for_each(|w| style::note(&format!("warning: {w}")));
        if let Some(message) = &stopped {
            style::print(&format!("{message}\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(builder: &Builder, planned: &PlanNode, reason: Option<String>) -> Vec<String> {
    let node = builder.graph.node(planned.id);
    let (mark, state) = match planned.state {
        State::Cached => ("  =", "cached".to_owned()),
        State::Pending => ("  >", reason.unwrap_or_default()),
    };
    vec![format!("{mark} {}", planned.key.short()), node.label.clone(), node.note.clone(), state]
}

/// `Plan ablation_down_proj: 29 nodes, 4 cached, 25 to run (about 1.9 GiB of memory, 12 MiB of disk)`
pub(super) fn headline(script: &str, builder: &Builder, plan: &Plan) -> String {
    let name = Path::new(script).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let pending = plan.pending();
    let needs = preflight::needs(&builder.graph, plan, total_memory());
    let mut line = format!(
        "Plan {name}: {}, {} cached, {pending} to run",
        plural(plan.nodes.len(), "node"),
        plan.nodes.len() - pending
    );
    if pending > 0 {
        line.push_str(&format!(
            " (up to {} of memory a node, {} of disk)",
            show_bytes(needs.memory),
            show_bytes(needs.disk)
        ));
    }
    line
}

fn as_json(
    builder: &Builder,
    plan: &Plan,
    stopped: &Option<String>,
    reason: &dyn Fn(&PlanNode) -> Option<String>,
) -> Value {
    let nodes: Vec<Value> = plan
        .nodes
        .iter()
        .map(|planned| {
            let node = builder.graph.node(planned.id);
            json!({
                "key": planned.key, "kind": node.kind, "method": node.method, "label": node.label, "note": node.note,
                "cached": planned.state == State::Cached, "why": reason(planned), "identity": planned.identity,
                "memory": node.memory.within(total_memory()), "disk": node.disk, "scratch": node.scratch,
                "origin": node.origin,
            })
        })
        .collect();
    json!({ "nodes": nodes, "stopped": stopped, "warnings": builder.all_warnings() })
}
