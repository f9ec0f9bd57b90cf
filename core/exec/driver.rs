//! The loop that runs a plan to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::{End, Event, Executor, Interrupt, Job, JobUpdate, NodeEvent, Update};
use crate::{
    error::Result,
    graph::{Graph, Key, NodeId, Plan, PlanNode, State},
    store::{RunFolder, Store},
};

/// How the nodes of a run ended.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The end of every node that had to run.
    pub ends: BTreeMap<NodeId, End>,
    /// Whether the user ended the run.
    pub interrupted: bool,
}

impl Outcome {
    /// Adds the outcome of a later part of the same run.
    pub fn merge(&mut self, later: Self) {
        self.ends.extend(later.ends);
        self.interrupted |= later.interrupted;
    }

    /// How many nodes ended in a way.
    pub fn count(&self, is: impl Fn(&End) -> bool) -> usize {
        self.ends.values().filter(|e| is(e)).count()
    }
}

/// What a run needs to know and to tell.
pub struct Context<'a> {
    pub graph: &'a Graph,
    pub store: &'a Store,
    pub run: &'a RunFolder,
    /// Start nothing more after the first failure.
    pub fail_fast: bool,
    /// What the user asks by signals.
    pub interrupt: Arc<Interrupt>,
    /// Hears every event.
    pub listener: &'a mut dyn FnMut(&Event),
}

/// Runs the pending nodes of a plan, each as soon as its inputs are stored, and returns how they ended. A failure costs
/// the nodes that need the failed one and nothing else, unless `fail_fast` is set.
pub fn run<'a>(plan: &'a Plan, executor: &mut dyn Executor, context: Context<'a>) -> Result<Outcome> {
    let mut driver = Driver::new(plan, context);
    driver.start();
    while driver.open() {
        driver.submit_ready(executor)?;
        if driver.running.is_empty() {
            break;
        }
        for update in executor.poll(Duration::from_millis(200)) {
            driver.take(update);
        }
        driver.heed_interrupt(executor);
    }
    Ok(driver.finish())
}

struct Driver<'a> {
    context: Context<'a>,
    pending: Vec<&'a PlanNode>,
    plan: &'a Plan,
    index: BTreeMap<Key, usize>,
    running: BTreeMap<Key, Running<'a>>,
    outcome: Outcome,
    stopping: bool,
    /// How many of the user's requests to end were heeded.
    heeded: usize,
    began: Instant,
    of: usize,
    cached: usize,
}

struct Running<'a> {
    node: &'a PlanNode,
    since: Instant,
    said: Option<End>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan, context: Context<'a>) -> Self {
        let pending: Vec<&PlanNode> = plan.nodes.iter().filter(|n| n.state == State::Pending).collect();
        let of = pending.len();
        Self {
            plan,
            index: pending.iter().enumerate().map(|(i, n)| (n.key.clone(), i + 1)).collect(),
            cached: plan.nodes.len() - of,
            pending,
            context,
            running: BTreeMap::new(),
            outcome: Outcome::default(),
            stopping: false,
            heeded: 0,
            began: Instant::now(),
            of,
        }
    }

    fn emit(&mut self, event: &Event) {
        (self.context.listener)(event);
    }

    fn start(&mut self) {
        let event = Event::RunStarted { run: self.context.run.id(), nodes: self.of + self.cached, cached: self.cached };
        self.emit(&event);
    }

    fn open(&self) -> bool {
        !self.running.is_empty() || (!self.pending.is_empty() && !self.stopping)
    }

    /// Starts every node whose inputs are stored, as far as the executor has room.
    fn submit_ready(&mut self, executor: &mut dyn Executor) -> Result<()> {
        self.skip_orphans();
        while !self.stopping {
            let waiting: BTreeSet<NodeId> =
                self.pending.iter().map(|n| n.id).chain(self.running.values().map(|r| r.node.id)).collect();
            let needed = |node: &PlanNode| self.context.graph.node(node.id).memory;
            let ready = |node: &PlanNode| self.context.graph.parents(node.id).all(|p| !waiting.contains(&p));
            let Some(position) = self.pending.iter().position(|n| ready(n) && executor.has_room(needed(n))) else {
                break;
            };
            let node = self.pending.remove(position);
            let label = self.label(node);
            let started =
                Event::NodeStarted { key: node.key.clone(), label, index: self.index[&node.key], of: self.of };
            self.emit(&started);
            let memory = self.context.graph.node(node.id).memory;
            let submitted = Job::new(self.context.graph, node, self.plan, self.context.store)
                .and_then(|job| executor.submit(job, memory, self.context.run));
            let running = Running { node, since: Instant::now(), said: None };
            match submitted {
                Ok(()) => {
                    self.running.insert(node.key.clone(), running);
                }
                Err(e) => self.end(running, End::Failed { message: e.message, causes: e.causes, hints: e.hints }),
            }
            self.skip_orphans();
        }
        Ok(())
    }

    /// Gives up the nodes whose inputs will never be there.
    fn skip_orphans(&mut self) {
        loop {
            let lost = |node: &&PlanNode| {
                self.context.graph.parents(node.id).find(|p| self.outcome.ends.get(p).is_some_and(|e| *e != End::Done))
            };
            let Some((position, parent)) = self.pending.iter().enumerate().find_map(|(i, n)| lost(n).map(|p| (i, p)))
            else {
                return;
            };
            let node = self.pending.remove(position);
            let because = format!("{} failed", self.context.graph.node(parent).label);
            let end = match self.outcome.ends.get(&parent) {
                Some(End::Cancelled | End::Interrupted) => End::Cancelled,
                _ => End::Skipped { because },
            };
            self.end(Running { node, since: Instant::now(), said: None }, end);
        }
    }

    fn take(&mut self, update: JobUpdate) {
        match update.update {
            Update::Message(said) => {
                if let Some(running) = self.running.get_mut(&update.key) {
                    match &said {
                        NodeEvent::Done { .. } => running.said = Some(End::Done),
                        NodeEvent::Interrupted => running.said = Some(End::Interrupted),
                        NodeEvent::Failed { message, causes, hints } => {
                            running.said = Some(End::Failed {
                                message: message.clone(),
                                causes: causes.clone(),
                                hints: hints.clone(),
                            });
                        }
                        _ => {}
                    }
                    self.emit(&Event::Node { key: update.key, said });
                }
            }
            Update::Ended(reason) => {
                if let Some(running) = self.running.remove(&update.key) {
                    let end = self.judge(&running, reason);
                    self.end(running, end);
                }
            }
        }
    }

    /// What is stored is done, whatever was said; else what the node said of its end counts, and the executor's reason for
    /// one that said nothing, or nothing true.
    fn judge(&self, running: &Running<'_>, reason: Option<String>) -> End {
        if self.context.store.holds(&running.node.key) {
            return End::Done;
        }
        if let Some(said @ (End::Failed { .. } | End::Interrupted)) = &running.said {
            return said.clone();
        }
        if self.outcome.interrupted {
            return End::Cancelled;
        }
        let message = reason.unwrap_or_else(|| "its process ended without a result".to_owned());
        let hint =
            format!("`workbench log {} {}` shows what it wrote", self.context.run.id(), running.node.key.short());
        End::Failed { message, causes: Vec::new(), hints: vec![hint] }
    }

    fn end(&mut self, running: Running<'a>, end: End) {
        if matches!(end, End::Failed { .. }) && self.context.fail_fast {
            self.stopping = true;
        }
        let node = running.node;
        self.outcome.ends.insert(node.id, end.clone());
        let event = Event::NodeEnded {
            key: node.key.clone(),
            label: self.label(node),
            seconds: running.since.elapsed().as_secs_f64(),
            end,
            index: self.index[&node.key],
            of: self.of,
        };
        self.emit(&event);
    }

    /// The first Ctrl-C starts nothing more and asks what runs to stop where it can be continued, the second one ends it, the
    /// third one does not wait for that.
    fn heed_interrupt(&mut self, executor: &mut dyn Executor) {
        let asked = self.context.interrupt.asked();
        let before = std::mem::replace(&mut self.heeded, asked);
        if asked == before {
            return;
        }
        self.outcome.interrupted = true;
        self.stopping = true;
        let keys: Vec<Key> = self.running.keys().cloned().collect();
        if asked == 1 {
            self.emit(&Event::Interrupting { running: keys.len() });
            keys.iter().for_each(|key| executor.interrupt(key));
        } else if before < 2 {
            keys.iter().for_each(|key| executor.cancel(key));
        }
        if asked > 2 {
            let running = std::mem::take(&mut self.running);
            running.into_values().for_each(|running| self.end(running, End::Cancelled));
        }
    }

    fn finish(mut self) -> Outcome {
        for node in std::mem::take(&mut self.pending) {
            self.end(Running { node, since: Instant::now(), said: None }, End::Cancelled);
        }
        let event = Event::RunEnded {
            done: self.outcome.count(|e| *e == End::Done),
            failed: self.outcome.count(|e| matches!(e, End::Failed { .. })),
            skipped: self.outcome.count(|e| matches!(e, End::Skipped { .. })),
            cancelled: self.outcome.count(|e| *e == End::Cancelled),
            interrupted: self.outcome.count(|e| *e == End::Interrupted),
            seconds: self.began.elapsed().as_secs_f64(),
        };
        self.emit(&event);
        self.outcome
    }

    fn label(&self, node: &PlanNode) -> String {
        self.context.graph.node(node.id).label.clone()
    }
}

#[cfg(test)]
mod tests;
