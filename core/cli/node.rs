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
    error::{Error, ErrorKind, Result},
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

/// Exit code of a node that was asked to stop.
const STOPPED: u8 = 5;

pub(super) fn main(arguments: &NodeArguments) -> ExitCode {
    start_logging();
    let reporter = Arc::new(NodeReporter::new());
    let asked = Arc::clone(&reporter);
    let asked_to_stop = move || {
        if asked.cancel() {
            stop(&asked);
        }
    };
    if process::set_aside(SAID, asked_to_stop).is_err() {
        tracing::error!("the pipes to the driver cannot be set aside");
        return ExitCode::FAILURE;
    }
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
        Err(error) if error.kind == ErrorKind::Interrupted => stop(&reporter),
        Err(error) => {
            tracing::error!("{error}");
            reporter.send(&NodeEvent::Failed { message: error.message, causes: error.causes, hints: error.hints });
            process::leave(SAID)
        }
    }
}

/// Ends a process that was asked to stop and is at a point which can be continued from.
fn stop(reporter: &NodeReporter) -> ! {
    reporter.send(&NodeEvent::Interrupted);
    process::leave(STOPPED)
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
