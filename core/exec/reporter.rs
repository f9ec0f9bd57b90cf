//! How a node's process talks to its driver.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{Held, NodeEvent, Stop};
use crate::{error::Result, process, progress::Progress};

/// Sends events to the driver. Shared by all threads of a node.
#[derive(Debug)]
pub struct NodeReporter {
    last_progress: Mutex<Option<Instant>>,
    stop: Stop,
    logged: AtomicU64,
    measured: AtomicU64,
}

/// Progress lines closer together than this are dropped, except the last.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Bytes of one text in an event. What a plugin says has no bounds of its own, and an event reaches the terminal and
/// `events.jsonl`; its log has the whole.
const LONGEST: usize = 16 << 10;

/// Lines for people, and numbers worth following, that one node may send. Further ones are dropped; the log has the lines.
const MOST_LINES: u64 = 2_000;
const MOST_NUMBERS: u64 = 200_000;

impl NodeReporter {
    /// The reporter of this process.
    pub fn new() -> Self {
        Self {
            last_progress: Mutex::new(None),
            stop: Stop::default(),
            logged: AtomicU64::new(0),
            measured: AtomicU64::new(0),
        }
    }

    /// Sends an event. A driver that is gone cannot be told; the closed input ends the node.
    pub fn send(&self, event: &NodeEvent) {
        if let Ok(line) = serde_json::to_string(&bounded(event)) {
            let _ = process::report(&line);
        }
    }

    /// Reports a line for people.
    pub fn log(&self, level: &str, message: impl Into<String>) {
        let event = |message| NodeEvent::Log { level: level.to_owned(), message };
        match self.logged.fetch_add(1, Ordering::Relaxed) {
            before if before < MOST_LINES => self.send(&event(message.into())),
            MOST_LINES => self.send(&event(format!("{MOST_LINES} lines were shown; the node's log has the others"))),
            _ => {}
        }
    }

    /// Reports a number worth following.
    pub fn metric(&self, step: u64, name: &str, value: f64) {
        if self.measured.fetch_add(1, Ordering::Relaxed) < MOST_NUMBERS {
            self.send(&NodeEvent::Metric { step, name: name.to_owned(), value });
        }
    }

    /// Whether the node was asked to stop.
    pub fn cancelled(&self) -> bool {
        self.stop.asked()
    }

    /// Asks the node to stop. `true` says that nothing keeps it from ending now.
    pub fn cancel(&self) -> bool {
        self.stop.ask()
    }

    /// Keeps the process from ending in the middle of something: see [`Stop`].
    ///
    /// # Errors
    /// The process is ending.
    pub fn hold(&self) -> Result<Held<'_>> {
        self.stop.hold()
    }
}

impl Progress for NodeReporter {
    /// Reports it, at most ten times a second.
    fn progress(&self, done: u64, total: u64, unit: &str) {
        if let Ok(mut last) = self.last_progress.lock() {
            let due = last.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
            if !due && done < total {
                return;
            }
            *last = Some(Instant::now());
        }
        self.send(&NodeEvent::Progress { done, total, unit: unit.to_owned() });
    }
}

impl Default for NodeReporter {
    fn default() -> Self {
        Self::new()
    }
}

/// The event with its texts cut to what an event may hold.
fn bounded(event: &NodeEvent) -> NodeEvent {
    let mut event = event.clone();
    match &mut event {
        NodeEvent::Log { message: text, .. } | NodeEvent::Metric { name: text, .. } => cut(text),
        NodeEvent::Failed { message, causes, hints } => {
            causes.truncate(64);
            hints.truncate(64);
            std::iter::once(message).chain(causes).chain(hints).for_each(cut);
        }
        _ => {}
    }
    event
}

/// Cuts a text at the end of a character, and says so.
fn cut(text: &mut String) {
    if text.len() > LONGEST {
        let end = text.floor_char_boundary(LONGEST);
        let left_out = text.len() - end;
        text.truncate(end);
        text.push_str(&format!("… ({left_out} more bytes)"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_events_are_cut_between_characters() {
        let message = "ä".repeat(LONGEST);
        let event = NodeEvent::Failed { message, causes: vec!["short".into(); 100], hints: Vec::new() };
        let NodeEvent::Failed { message, causes, .. } = bounded(&event) else { panic!("another event") };
        assert_eq!(message, format!("{}… ({LONGEST} more bytes)", "ä".repeat(LONGEST / 2)));
        assert_eq!((causes.len(), causes[0].as_str()), (64, "short"));
    }
}
