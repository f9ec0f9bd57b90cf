//! What is checked before the first node runs: a run of hours must not fail at its end for want of something known at its
//! beginning.

use rustix::fs::statvfs;
use workbench_model::matmul;

use crate::{
    config::show_bytes,
    error::{Error, Result},
    exec::{Options, available_memory},
    graph::{Graph, Plan, State},
    store::Store,
};

/// What a plan is expected to need.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Bytes of memory of the largest node.
    pub memory: u64,
    /// Bytes of all new artifacts, and of what the node with the most needs beside its own.
    pub disk: u64,
}

/// The needs of the pending nodes, where one may use so much memory.
pub(super) fn needs(graph: &Graph, plan: &Plan, limit: u64) -> Needs {
    let pending = || plan.nodes.iter().filter(|n| n.state == State::Pending).map(|n| graph.node(n.id));
    Needs {
        memory: pending().map(|node| node.memory.within(limit)).max().unwrap_or(0),
        disk: pending().map(|node| node.disk).sum::<u64>() + pending().map(|node| node.scratch).max().unwrap_or(0),
    }
}

/// Refuses a plan that cannot end well here, and returns what looks doubtful.
pub(super) fn check(graph: &Graph, plan: &Plan, store: &Store, options: &Options) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    if plan.pending() == 0 {
        return Ok(warnings);
    }
    matmul::check_override().map_err(|e| Error::refused(e.to_string()))?;
    store.check_writable()?;
    let limit = options.memory.min(available_memory());
    let needs = needs(graph, plan, limit);
    if let Ok(disk) = statvfs(store.root()) {
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        if free < needs.disk {
            return Err(Error::refused(format!(
                "the run needs about {} of disk, and {} are free",
                show_bytes(needs.disk),
                show_bytes(free)
            ))
            .hint("free some space; `workbench gc` lists what the store could give up")
            .hint("or choose another folder with --results"));
        }
    }
    for node in plan.nodes.iter().filter(|n| n.state == State::Pending).map(|n| graph.node(n.id)) {
        if let Some(plugin) = node.plugin.as_ref().filter(|p| !p.file.path.is_file()) {
            return Err(Error::refused(format!(
                "plugin `{}` is gone: there is no `{}`",
                plugin.name,
                plugin.file.path.display()
            )));
        }
    }
    if needs.memory > limit {
        warnings.push(format!(
            "the largest node needs about {} of memory, and {} may be used",
            show_bytes(needs.memory),
            show_bytes(limit)
        ));
    }
    Ok(warnings)
}
