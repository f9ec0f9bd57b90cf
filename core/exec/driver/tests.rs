//! The driver with an executor that is none: what it asks for, and what it makes of the answers.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use crate::{
    exec::{JobUpdate, NodeEvent},
    graph::{
        FileDigests, Graph, MemoryNeed, Node, NodeKind,
        node::Origin,
        params::{Evaluate, Items, Params},
    },
    store::Store,
};

/// Holds jobs until they are stopped, or ends them at once.
#[derive(Default)]
struct Held {
    /// Bytes for all jobs.
    room: u64,
    /// Whether a job ends by itself.
    ends: bool,
    running: BTreeMap<Key, u64>,
    most: u64,
    submitted: usize,
    interrupted: Vec<Key>,
    cancelled: Vec<Key>,
    /// Asked for at a poll, as signals come.
    asks: Option<Arc<Interrupt>>,
}

impl Executor for Held {
    fn has_room(&self, memory: MemoryNeed) -> bool {
        self.running.is_empty() || self.running.values().sum::<u64>() + memory.within(self.room) <= self.room
    }

    fn submit(&mut self, job: Job, memory: MemoryNeed, _: &RunFolder) -> Result<()> {
        assert!(self.has_room(memory), "nobody asked whether there is room");
        self.running.insert(job.key, memory.within(self.room));
        self.submitted += 1;
        self.most = self.most.max(self.running.values().sum());
        Ok(())
    }

    fn poll(&mut self, _: Duration) -> Vec<JobUpdate> {
        if let Some(interrupt) = &self.asks {
            interrupt.ask();
        }
        let update = |key: &Key, update| JobUpdate { key: key.clone(), update };
        let stopped: Vec<Key> = self.interrupted.drain(..).collect();
        let said = stopped.iter().map(|key| update(key, Update::Message(NodeEvent::Interrupted)));
        let mut updates: Vec<JobUpdate> = said.collect();
        let over: Vec<Key> = if self.ends { self.running.keys().cloned().collect() } else { stopped };
        updates.extend(over.iter().chain(&self.cancelled).map(|key| update(key, Update::Ended(Some("over".into())))));
        for key in over.iter().chain(&self.cancelled) {
            self.running.remove(key);
        }
        updates
    }

    fn interrupt(&mut self, key: &Key) {
        self.interrupted.push(key.clone());
    }

    fn cancel(&mut self, key: &Key) {
        self.cancelled.push(key.clone());
    }
}

/// Runs evaluations that are expected to need so much memory each, and returns their ends.
fn run_with(executor: &mut Held, memory: &[u64]) -> Vec<End> {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let mut graph = Graph::default();
    let add = |(index, memory): (usize, &u64)| {
        let items = Items { file: index.into(), limit: None, batch_size: 1, task: "t".into() };
        graph.add(Node {
            kind: NodeKind::Evaluate,
            method: "choice".into(),
            label: format!("node {index}"),
            params: Params::Evaluate(Evaluate::Items(items)),
            inputs: BTreeMap::new(),
            data: BTreeMap::new(),
            plugin: None,
            origin: Origin::default(),
            memory: MemoryNeed::from(*memory),
            disk: 0,
            scratch: 0,
            note: String::new(),
        })
    };
    let wanted: Vec<NodeId> = memory.iter().enumerate().map(add).collect();
    let plan = Plan::new(&graph, &wanted, &store, &mut FileDigests::default()).unwrap();
    let (folder, _) = store.create_run("x.rhai", &[]).unwrap();
    let interrupt = executor.asks.clone().unwrap_or_default();
    let mut events = Vec::new();
    let listener = &mut |event: &Event| events.push(event.clone());
    let context = Context { graph: &graph, store: &store, run: &folder, fail_fast: false, interrupt, listener };
    let outcome = run(&plan, executor, context).unwrap();
    assert!(matches!(events.last(), Some(Event::RunEnded { .. })));
    wanted.iter().map(|id| outcome.ends[id].clone()).collect()
}

#[test]
fn nothing_is_submitted_that_the_executor_has_no_room_for() {
    let mut executor = Held { room: 10, ends: true, ..Held::default() };
    let ends = run_with(&mut executor, &[4, 40, 4, 4, 1]);
    assert_eq!((executor.submitted, ends.len()), (5, 5));
    // One that needs more than there is runs alone.
    assert_eq!(executor.most, 40);
    assert!(ends.iter().all(|end| matches!(end, End::Failed { message, .. } if message == "over")), "{ends:?}");
    let mut executor = Held { room: 10, ends: true, ..Held::default() };
    run_with(&mut executor, &[4, 4, 4, 1]);
    assert_eq!(executor.most, 9, "4, 4 and 1 go side by side");
}

#[test]
fn the_first_request_asks_what_runs_to_stop_and_begins_nothing_more() {
    let mut executor = Held { room: 2, asks: Some(Arc::default()), ..Held::default() };
    let ends = run_with(&mut executor, &[1, 1, 1]);
    assert_eq!(ends, [End::Interrupted, End::Interrupted, End::Cancelled]);
    assert_eq!((executor.submitted, executor.cancelled.len()), (2, 0));
}
