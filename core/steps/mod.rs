//! What a node's process does: one folder per kind of node.
//!
//! A step reads its [`Job`], works in the scratch folder of its key, and commits a record together with whatever it made.

mod artifact;
mod common;
mod evaluate;
mod generate;
mod host;
mod quantize;
mod schemes;
mod train;
mod transform;

use std::time::{Instant, SystemTime};

use serde_json::json;

use self::common::{Reads, StepOutput, write_recipe};
use crate::{
    error::{ErrorKind, Result},
    exec::{self, Job, NodeReporter},
    graph::NodeKind,
    store::{Commit, Record, RunFolder, Scratch, Store},
};

/// Does the work of a job of a run, unless its result is there already.
///
/// # Errors
/// Whatever keeps the result from being made or stored: also that a file is not the one that the key stands for.
pub fn run(job: &Job, run: &RunFolder, reporter: &NodeReporter) -> Result<Commit> {
    let began = Instant::now();
    job.program.check()?;
    let store = Store::new(&job.results);
    let Some(scratch) = store.scratch(&job.key)? else { return Ok(Commit::Existed) };
    let reads = Reads::check(job, run)?;
    // What went wrong may have been that a file was not the one that was keyed: then that is what to say.
    let mut output = step(job, &scratch, reporter).map_err(|error| match error.kind {
        ErrorKind::Interrupted => error,
        _ => reads.check_again().err().unwrap_or(error),
    })?;
    write_recipe(job, &scratch)?;
    if let Some(said) = host::keep_curve(&scratch)? {
        output.facts["curve"] = said;
    }
    reads.check_again()?;
    let record =
        Record { version: Record::VERSION, identity: job.identity.clone(), values: output.values, facts: output.facts };
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

fn step(job: &Job, scratch: &Scratch, reporter: &NodeReporter) -> Result<StepOutput> {
    match job.kind {
        NodeKind::Evaluate => evaluate::run(job, scratch, reporter),
        NodeKind::Quantize => quantize::run(job, scratch, reporter),
        NodeKind::Transform => transform::run(job, scratch, reporter),
        NodeKind::Train => train::run(job, scratch, reporter),
        NodeKind::Generate => generate::run(job, scratch, reporter),
    }
}
