//! How a run ended, or where it stands, from what it left behind.

use serde::Serialize;

use super::{End, Event, event::Close};
use crate::{
    graph::Key,
    store::{RunFolder, RunSummary},
    words::plural,
};

/// What became of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its driver is at work.
    Running,
    /// Everything is there.
    Finished,
    /// Some nodes failed.
    Failed,
    /// The user ended it.
    Interrupted,
    /// An error of the command ended it: a script that fails halfway, a disk that is full.
    Ended,
    /// Its driver is gone without a word.
    Killed,
}

/// A run at a glance.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    pub state: State,
    /// Nodes whose results were stored before it began.
    pub cached: usize,
    pub done: usize,
    pub failed: usize,
    pub skipped: usize,
    /// Nodes that were interrupted or stopped, or had not ended when the run did.
    pub left: usize,
    /// What ended it, where that was an error.
    pub error: Option<String>,
}

impl Standing {
    /// Reads what a run left behind.
    pub fn of(run: &RunFolder, summary: &RunSummary, events: &[Event]) -> Self {
        Self::from(summary, events, run.is_in_progress())
    }

    fn from(summary: &RunSummary, events: &[Event], in_progress: bool) -> Self {
        let end = |wanted: &Key| {
            events.iter().rev().find_map(|event| match event {
                Event::NodeEnded { key, end, .. } if key == wanted => Some(end),
                _ => None,
            })
        };
        let pending: Vec<&Key> = summary.nodes.iter().filter(|node| !node.cached).map(|node| &node.key).collect();
        let ends: Vec<Option<&End>> = pending.iter().map(|key| end(key)).collect();
        let count = |is: &dyn Fn(&End) -> bool| ends.iter().flatten().filter(|end| is(end)).count();
        let done = count(&|end| *end == End::Done);
        let failed = count(&|end| matches!(end, End::Failed { .. }));
        let skipped = count(&|end| matches!(end, End::Skipped { .. }));
        let left = pending.len() - done - failed - skipped;
        let closed = events.iter().rev().find_map(|event| match event {
            Event::Closed { how } => Some(how.clone()),
            _ => None,
        });
        let told = events.iter().any(|event| matches!(event, Event::RunEnded { .. }));
        let interrupted = events.iter().any(|event| matches!(event, Event::Interrupting { .. }));
        let (state, error) = match closed {
            None if in_progress => (State::Running, None),
            Some(Close::Interrupted) => (State::Interrupted, None),
            Some(Close::Error { message }) => (State::Ended, Some(message)),
            Some(Close::Finished) if failed + skipped > 0 => (State::Failed, None),
            Some(Close::Finished) => (State::Finished, None),
            // Runs of older versions said how their nodes ended, and nothing of their own end.
            None if told && interrupted => (State::Interrupted, None),
            None if told && failed + skipped > 0 => (State::Failed, None),
            None if told && left == 0 => (State::Finished, None),
            None => (State::Killed, None),
        };
        Self { state, cached: summary.nodes.len() - pending.len(), done, failed, skipped, left, error }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        for (count, what) in [(self.done, "done"), (self.failed, "failed"), (self.skipped, "skipped")] {
            if count > 0 {
                parts.push(format!("{count} {what}"));
            }
        }
        if self.left > 0 {
            parts.push(format!("{} not done", self.left));
        }
        if self.cached > 0 && !parts.is_empty() {
            parts.push(format!("{} stored before", self.cached));
        }
        let parts = parts.join(", ");
        let word = match self.state {
            State::Running => "running",
            State::Finished | State::Failed => "finished",
            State::Interrupted => "interrupted",
            State::Ended => "ended by an error",
            State::Killed => "killed",
        };
        match (self.state, parts.is_empty()) {
            (State::Finished, true) if self.cached == 0 => "finished: nothing to do".to_owned(),
            (State::Finished, true) => {
                format!("finished: nothing to do, {} stored before", plural(self.cached, "node"))
            }
            (_, true) => word.to_owned(),
            _ => format!("{word}: {parts}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{graph::node::Origin, store::RunNode};

    fn key(digit: char) -> Key {
        digit.to_string().repeat(64).parse().unwrap()
    }

    fn summary(nodes: &[(char, bool)]) -> RunSummary {
        let node = |(digit, cached): &(char, bool)| RunNode {
            key: key(*digit),
            kind: "evaluate".into(),
            method: "kl".into(),
            label: String::new(),
            origin: Origin::default(),
            cached: *cached,
        };
        let nodes = nodes.iter().map(node).collect();
        RunSummary { id: "r".into(), script: "s".into(), settings: vec![], started: 0, nodes }
    }

    fn ended(digit: char, end: End) -> Event {
        Event::NodeEnded { key: key(digit), label: String::new(), seconds: 1.0, end, index: 1, of: 2 }
    }

    #[test]
    fn what_is_said_of_a_run_is_what_became_of_it() {
        let failed = || End::Failed { message: "no".into(), causes: vec![], hints: vec![] };
        let closed = |how| Event::Closed { how };
        let all_cached = summary(&[('a', true), ('b', true)]);
        let two = summary(&[('a', false), ('b', false), ('c', true)]);
        let mixed = || vec![ended('a', End::Done), ended('b', failed())];
        for (summary, events, running, line) in [
            (&all_cached, vec![closed(Close::Finished)], false, "finished: nothing to do, 2 nodes stored before"),
            (&all_cached, vec![], false, "killed"),
            (&two, vec![ended('a', End::Done)], false, "killed: 1 done, 1 not done, 1 stored before"),
            (&two, vec![ended('a', End::Done)], true, "running: 1 done, 1 not done, 1 stored before"),
            (&two, vec![], false, "killed: 2 not done, 1 stored before"),
            (
                &two,
                [mixed(), vec![closed(Close::Finished)]].concat(),
                false,
                "finished: 1 done, 1 failed, 1 stored before",
            ),
            (
                &two,
                vec![ended('a', End::Done), ended('b', End::Cancelled), closed(Close::Interrupted)],
                false,
                "interrupted: 1 done, 1 not done, 1 stored before",
            ),
            (
                &two,
                vec![ended('a', End::Done), closed(Close::Error { message: "x".into() })],
                false,
                "ended by an error: 1 done, 1 not done, 1 stored before",
            ),
        ] {
            assert_eq!(Standing::from(summary, &events, running).line(), line);
        }
    }
}
