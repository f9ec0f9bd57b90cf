//! How a node's process talks to its driver.

use std::{
    io::Write,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::NodeEvent;

/// Sends events to the driver. Shared by all threads of a node.
#[derive(Debug)]
pub struct NodeReporter {
    last_progress: Mutex<Option<Instant>>,
    cancelled: AtomicBool,
}

/// Progress lines closer together than this are dropped, except the last.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

impl NodeReporter {
    /// The reporter of this process.
    pub fn new() -> Self {
        Self { last_progress: Mutex::new(None), cancelled: AtomicBool::new(false) }
    }

    /// Sends an event. A driver that is gone cannot be told; the closed input ends the node.
    pub fn send(&self, event: &NodeEvent) {
        if let Ok(line) = serde_json::to_string(event) {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{line}").and_then(|()| out.flush());
        }
    }

    /// Reports progress, at most ten times a second.
    pub fn progress(&self, done: u64, total: u64, unit: &str) {
        if let Ok(mut last) = self.last_progress.lock() {
            let due = last.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
            if !due && done < total {
                return;
            }
            *last = Some(Instant::now());
        }
        self.send(&NodeEvent::Progress { done, total, unit: unit.to_owned() });
    }

    /// Reports a line for people.
    pub fn log(&self, level: &str, message: impl Into<String>) {
        self.send(&NodeEvent::Log { level: level.to_owned(), message: message.into() });
    }

    /// Whether the node should stop soon.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Asks the node to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

impl Default for NodeReporter {
    fn default() -> Self {
        Self::new()
    }
}
