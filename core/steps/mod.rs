//! What a node's process does: one file per kind of node.
//!
//! A step reads its [`Job`], works in the scratch folder of its key, and commits a record together with whatever it made.

mod artifact;
mod contract;
mod equivalence;
mod evaluate;
mod global_scales;
mod kv_cache;
mod quantize;
mod reads;
mod recipe;
mod services;
mod streams;
mod train;
mod transform;

use std::time::{Instant, SystemTime};

use serde_json::{Value, json};

use workbench_model::Precision;

use crate::{
    calib::Room,
    error::{Error, ErrorKind, Result},
    exec::{self, Job, NodeReporter},
    graph::{NodeKind, params},
    store::{Commit, Record, RunFolder, Scratch, Store},
};

/// What a step found out.
struct Finding {
    values: Value,
    facts: Value,
}

/// Does the work of a job of a run, unless its result is there already.
///
/// # Errors
/// Whatever keeps the result from being made or stored: also that a file is not the one that the key stands for.
pub fn run(job: &Job, run: &RunFolder, reporter: &NodeReporter) -> Result<Commit> {
    let began = Instant::now();
    job.program.check()?;
    let store = Store::new(&job.results);
    let Some(scratch) = store.scratch(&job.key)? else { return Ok(Commit::Existed) };
    let reads = reads::Reads::check(job, run)?;
    // What went wrong may have been that a file was not the one that was keyed: then that is what to say.
    let finding = step(job, &scratch, reporter).map_err(|error| match error.kind {
        ErrorKind::Interrupted => error,
        _ => reads.check_again().err().unwrap_or(error),
    })?;
    recipe::write(job, &scratch)?;
    reads.check_again()?;
    let record = Record {
        version: Record::VERSION,
        identity: job.identity.clone(),
        values: finding.values,
        facts: finding.facts,
    };
    let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let provenance = json!({
        "workbench": env!("CARGO_PKG_VERSION"),
        "host": rustix::system::uname().nodename().to_string_lossy(),
        "cpu": exec::cpu_model(),
        "threads": job.threads,
        "finished": time,
        "seconds": began.elapsed().as_secs_f64(),
        "peak_memory": exec::peak_memory(),
        "models": job.models,
        "data": job.data,
        "plugin": job.plugin,
    });
    // A result that is nearly there is stored: its checkpoints go first.
    let _held = reporter.hold()?;
    scratch.commit(&record, &provenance)
}

fn step(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<Finding> {
    match job.kind {
        NodeKind::Evaluate => evaluate::run(job, scratch, reporter),
        NodeKind::Quantize => quantize::run(job, scratch, reporter),
        NodeKind::Transform => transform::run(job, scratch, reporter),
        NodeKind::Train => train::run(job, scratch, reporter),
    }
}

/// Where activations of a calibration set may lie: half of the node's memory, then files.
fn room(job: &Job, scratch: &Scratch, precision: Precision, compute_dtype: Precision) -> Result<Room> {
    Ok(Room { precision, compute_dtype, memory: job.memory_limit / 2, folder: scratch.work_folder()? })
}

impl Job {
    fn model(&self, role: &str) -> Result<&std::path::Path> {
        self.models
            .get(role)
            .map(std::path::PathBuf::as_path)
            .ok_or_else(|| Error::internal(format!("the job names no {role}")))
    }

    fn source(&self, role: &str) -> Result<&crate::graph::node::DataSource> {
        self.data.get(role).ok_or_else(|| Error::internal(format!("the job names no {role}")))
    }

    /// The parameters as their type.
    fn typed<T: serde::de::DeserializeOwned>(&self) -> Result<T> {
        params::read(self.params())
    }
}
