//! `workbench node`: the process of one node. Started by the executor, not by people.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    thread,
};

use clap::Args;

use crate::{
    error::{Error, Result},
    exec::{Job, NodeEvent, NodeReporter},
    graph::Key,
    process, steps,
    store::{Commit, RunFolder},
};

#[derive(Args, Debug)]
pub(super) struct NodeArguments {
    /// The run's folder
    run: PathBuf,
    /// The node's key
    key: Key,
}

/// Gradients are found by a walk that recurses as deep as the graph is.
const STACK: usize = 256 << 20;

/// Exit code of a node that said itself what went wrong.
const SAID: u8 = 4;

pub(super) fn main(arguments: &NodeArguments) -> ExitCode {
    start_logging();
    if process::set_aside(SAID).is_err() {
        tracing::error!("the pipes to the driver cannot be set aside");
        return ExitCode::FAILURE;
    }
    let reporter = Arc::new(NodeReporter::new());
    let (folder, key, speaker) = (arguments.run.clone(), arguments.key.clone(), Arc::clone(&reporter));
    let work =
        thread::Builder::new().name("node".into()).stack_size(STACK).spawn(move || guarded(folder, &key, &speaker));
    let outcome = work
        .map_err(|e| Error::internal(format!("cannot start a thread: {e}")))
        .and_then(|thread| thread.join().unwrap_or_else(|_| Err(Error::internal("the node's thread panicked"))));
    match outcome {
        Ok(commit) => {
            reporter.send(&NodeEvent::Done { existed: commit == Commit::Existed });
            process::leave(0)
        }
        Err(error) => {
            tracing::error!("{error}");
            reporter.send(&NodeEvent::Failed { message: error.message, causes: error.causes, hints: error.hints });
            process::leave(SAID)
        }
    }
}

/// A panic of ours is a defect, but it must not look like a crash of the machine.
fn guarded(folder: PathBuf, key: &Key, reporter: &NodeReporter) -> Result<Commit> {
    let run = || -> Result<Commit> {
        let run = RunFolder::at(folder);
        steps::run(&Job::read(&run, key)?, &run, reporter)
    };
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text =
            panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(Error::internal("the workbench itself failed")
            .cause(text.unwrap_or_else(|| "a panic without a message".to_owned())))
    })
}

/// JSON lines on standard error, which is the node's log.
fn start_logging() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("WORKBENCH_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = fmt().json().with_env_filter(filter).with_writer(std::io::stderr).log_internal_errors(false).try_init();
}
