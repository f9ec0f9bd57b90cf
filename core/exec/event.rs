//! What happens in a run, as data.

use serde::{Deserialize, Serialize};

use crate::graph::Key;

/// What a node's process says on its standard output, one JSON object a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub enum NodeEvent {
    /// It is at work: nothing else to say.
    Beat,
    /// A plugin is at work. If there is a `timeout`, it is expected to call the host within so many seconds.
    Plugin { name: String, timeout: Option<u64> },
    /// The plugin's work is over for now.
    PluginEnded,
    /// So much of the work is done.
    Progress { done: u64, total: u64, unit: String },
    /// A number worth following, such as a training loss.
    Metric { step: u64, name: String, value: f64 },
    /// A line for people.
    Log { level: String, message: String },
    /// The result is in the store.
    Done {
        /// Whether another process had stored it first.
        existed: bool,
    },
    /// It was asked to stop and did, where it can be continued.
    Interrupted,
    /// The work failed.
    Failed { message: String, causes: Vec<String>, hints: Vec<String> },
}

/// How a node ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "snake_case")]
pub enum End {
    /// Its result is stored.
    Done,
    /// It failed; other nodes go on.
    Failed { message: String, causes: Vec<String>, hints: Vec<String> },
    /// A node that it needs failed.
    Skipped { because: String },
    /// It was asked to stop and did. The next run goes on from what it has kept.
    Interrupted,
    /// The run was interrupted before it began, or it was ended.
    Cancelled,
}

/// What happens in a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run begins.
    RunStarted { run: String, nodes: usize, cached: usize },
    /// A node's process begins.
    NodeStarted { key: Key, label: String, index: usize, of: usize },
    /// A node says something.
    Node { key: Key, said: NodeEvent },
    /// A node is over.
    NodeEnded { key: Key, label: String, seconds: f64, end: End, index: usize, of: usize },
    /// The user asked for an end; running nodes stop where they can be continued.
    Interrupting { running: usize },
    /// The run is over.
    RunEnded {
        done: usize,
        failed: usize,
        skipped: usize,
        cancelled: usize,
        /// Runs of older versions had none.
        #[serde(default)]
        interrupted: usize,
        seconds: f64,
    },
    /// The command is over, after everything that its script asked for.
    Closed { how: Close },
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "as", rename_all = "snake_case")]
pub enum Close {
    /// All nodes ended, well or not.
    Finished,
    /// By the user.
    Interrupted,
    /// By an error that is none of a node's.
    Error { message: String },
}
