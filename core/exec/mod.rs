//! Running a plan: one process per node, started and watched by an [`Executor`].
//!
//! Only this module spawns. It prints nothing: whatever happens becomes an [`Event`], and the terminal, `--json` and
//! `events.jsonl` render those. A node's process tells its driver what it does through [`NodeEvent`]s, over a pipe that it
//! sets aside before it loads a plugin; what is printed there is log. It ends when its standard input closes, so no process
//! outlives its driver, and stops at the next point from which it can be continued when it is asked to over the same pipe
//! (`core/process`).

mod driver;
mod event;
mod follow;
mod interrupt;
mod job;
mod local;
mod log;
mod machine;
mod program;
mod reporter;
mod state;
mod stop;

pub use driver::{Context, Outcome, run};
pub use event::{Close, End, Event, NodeEvent};
pub use interrupt::Interrupt;
pub use job::Job;
pub use local::{LocalExecutor, Options};
pub use machine::{available_memory, cpu_model, peak_memory, return_freed_memory, total_memory};
pub use program::Program;
pub use reporter::NodeReporter;
pub use state::{Standing, State};
pub use stop::{Held, Stop, interrupted};

use std::time::Duration;

use crate::{
    error::Result,
    graph::{Key, MemoryNeed},
    store::RunFolder,
};

/// Something that runs jobs: processes on this machine, or a batch system. It alone knows what there is to run them with, how
/// they are heard and how they are stopped.
pub trait Executor {
    /// Whether a job that is expected to need so much memory could begin now, beside those that run. One that needs more
    /// than there is begins where nothing else runs.
    fn has_room(&self, memory: MemoryNeed) -> bool;

    /// Starts a job that is expected to need so much memory, with its share of what there is.
    ///
    /// # Errors
    /// It cannot be started.
    fn submit(&mut self, job: Job, memory: MemoryNeed, run: &RunFolder) -> Result<()>;

    /// What happened since the last call, waiting up to `patience` for something to happen.
    fn poll(&mut self, patience: Duration) -> Vec<JobUpdate>;

    /// Asks a job to stop at the next point from which it can be continued. Its end is reported by [`poll`](Self::poll).
    fn interrupt(&mut self, key: &Key);

    /// Ends a job at once. Its end is reported by [`poll`](Self::poll) like any other.
    fn cancel(&mut self, key: &Key);
}

/// News of one job.
#[derive(Debug)]
pub struct JobUpdate {
    pub key: Key,
    pub update: Update,
}

/// What the executor learned.
#[derive(Debug)]
pub enum Update {
    /// The node said something.
    Message(NodeEvent),
    /// The job is over. `None` means that its process ended as a finished node does.
    Ended(Option<String>),
}
