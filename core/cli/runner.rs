//! Executes plans for `run`: all at its end, and in between whatever a script forces.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use serde_json::{Value, json};

use super::{
    preflight,
    progress::Renderer,
    signals::{Ears, interrupted},
    style,
};
use crate::{
    error::{Error, ErrorKind, Result},
    exec::{self, Close, Context, End, Event, LocalExecutor, Options, Outcome},
    graph::{FileDigests, Graph, Input, Key, NodeId, Plan, State, node::DataSource},
    script::{Builder, Force},
    store::{CollectionLock, EventLog, RunFolder, RunNode, RunSummary, Store, check_place},
    words::plural,
};

/// The part of a run that outlives one plan.
pub(super) struct Runner {
    pub store: Store,
    pub options: Options,
    fail_fast: bool,
    script: String,
    settings: Vec<(String, String)>,
    json: bool,
    ears: Arc<Ears>,
    state: Mutex<Progress>,
}

struct Progress {
    digests: FileDigests,
    run: Option<OpenRun>,
    /// From the first plan until it is written down what the run needs.
    planning: Option<CollectionLock>,
    outcome: Outcome,
}

struct OpenRun {
    folder: RunFolder,
    summary: RunSummary,
    events: EventLog,
    /// Whether an event could not be written.
    unrecorded: bool,
}

impl Runner {
    pub(super) fn new(
        store: Store,
        options: Options,
        fail_fast: bool,
        script: &str,
        settings: Vec<(String, String)>,
        json: bool,
    ) -> Result<Self> {
        let ears = Ears::listen(json)?;
        let state =
            Mutex::new(Progress { digests: store.digests(), run: None, planning: None, outcome: Outcome::default() });
        Ok(Self { store, options, fail_fast, script: script.to_owned(), settings, json, ears, state })
    }

    fn state(&self) -> MutexGuard<'_, Progress> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Plans the wanted nodes.
    pub(super) fn plan(&self, graph: &Graph, wanted: &[NodeId]) -> Result<Plan> {
        let mut state = self.state();
        if state.planning.is_none() {
            state.planning = self.store.lock_planning()?;
        }
        let plan = Plan::new(graph, wanted, &self.store, &mut state.digests)?;
        self.store.remember(&state.digests);
        Ok(plan)
    }

    /// Runs what is pending. `after` hears every event, after it was recorded and drawn.
    pub(super) fn execute(&self, graph: &Graph, plan: &Plan, after: &mut dyn FnMut(&Event)) -> Result<()> {
        let mut state = self.state();
        self.open_run(&mut state, graph, plan)?;
        state.planning = None;
        if plan.pending() == 0 {
            return Ok(());
        }
        for warning in preflight::check(graph, plan, &self.store, &self.options)? {
            style::note(&format!("warning: {warning}"));
        }
        let program = std::env::current_exe().map_err(|e| Error::internal(format!("cannot find this program: {e}")))?;
        let mut executor = LocalExecutor::new(program, self.options.clone());
        let mut renderer = Renderer::new(self.json);
        let Some(OpenRun { folder, events, unrecorded, .. }) = &mut state.run else {
            return Err(Error::internal("the run has no folder"));
        };
        let mut listener = |event: &Event| {
            renderer.show(event);
            // Once an event is lost, later ones would tell half a story.
            if !*unrecorded && let Err(e) = events.append(event) {
                *unrecorded = true;
                renderer.line(&format!("warning: what happens in this run is not recorded any more: {e}"));
            }
            if self.json {
                let _ = serde_json::to_string(event).map(|line| style::note_json(&line));
            }
            after(event);
        };
        let context = Context {
            graph,
            store: &self.store,
            run: folder,
            fail_fast: self.fail_fast,
            interrupt: self.ears.interrupt(),
            listener: &mut listener,
        };
        let running = self.ears.while_running();
        let outcome = exec::run(plan, &mut executor, context)?;
        drop(running);
        state.outcome.merge(outcome);
        Ok(())
    }

    /// From now on results are written, which one signal does not stop.
    pub(super) fn ending(&self) {
        self.ears.ending();
    }

    /// Makes the run's folder when it is first needed, and adds the plan's nodes to its summary. A store that cannot be
    /// written is no obstacle while nothing has to run.
    fn open_run(&self, state: &mut Progress, graph: &Graph, plan: &Plan) -> Result<()> {
        if state.run.is_none() {
            let opened = self.store.create_run(&self.script, &self.settings).and_then(|(folder, summary)| {
                let events = folder.open_events()?;
                Ok(OpenRun { folder, summary, events, unrecorded: false })
            });
            match opened {
                Ok(run) => state.run = Some(run),
                Err(_) if plan.pending() == 0 => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        let Some(run) = &mut state.run else { return Ok(()) };
        for planned in &plan.nodes {
            if run.summary.nodes.iter().all(|n| n.key != planned.key) {
                let node = graph.node(planned.id);
                run.summary.nodes.push(RunNode {
                    key: planned.key.clone(),
                    kind: node.kind.to_string(),
                    method: node.method.clone(),
                    label: node.label.clone(),
                    origin: node.origin.clone(),
                    cached: planned.state == State::Cached,
                });
            }
        }
        run.folder.write_summary(&run.summary)
    }

    /// Refuses, before anything runs, to save to folders where something would be lost.
    pub(super) fn check_saves(&self, builder: &Builder, project: &Path) -> Result<()> {
        let folders: Vec<PathBuf> = builder.saves.iter().map(|save| save.folder.clone()).collect();
        if folders.is_empty() {
            return Ok(());
        }
        let inputs = builder.graph.nodes().flat_map(|(_, node)| node.inputs.values());
        let models = inputs.filter_map(|input| match input {
            Input::Source(source) => Some(source.path.clone()),
            Input::Node(_) => None,
        });
        let data = builder.graph.nodes().flat_map(|(_, node)| node.data.values()).filter_map(|source| match source {
            DataSource::File(path) => Some(path.clone()),
            DataSource::Demo(_) | DataSource::Node(_) => None,
        });
        self.store.check_saves(&folders, project, &models.chain(data).collect::<Vec<_>>())?;
        let mut state = self.state();
        for folder in &folders {
            check_place(folder, Some(&mut |file| state.digests.file(file)))?;
        }
        self.store.remember(&state.digests);
        Ok(())
    }

    /// Copies artifacts out of the store, as far as they were made. One that cannot be saved keeps none of the others.
    pub(super) fn save(&self, builder: &Builder, keys: &[(Value, Key)]) -> Result<()> {
        let mut state = self.state();
        let mut failed = None;
        for save in &builder.saves {
            let folder = style::from_here(&save.folder);
            let Ok(object) = self.store.object(&keys[save.node.0].1) else {
                style::note(&format!("not saved: {folder} (it was not made)"));
                continue;
            };
            match self.store.export(&object, &save.folder, &mut |file| state.digests.file(file)) {
                Ok(true) => style::note(&format!("saved: {folder}")),
                Ok(false) => style::note(&format!("saved before: {folder}")),
                Err(error) => {
                    style::note(&format!("not saved: {folder}: {error}"));
                    failed.get_or_insert(error);
                }
            }
        }
        self.store.remember(&state.digests);
        failed.map_or(Ok(()), Err)
    }

    /// The name of the run, once it has one.
    pub(super) fn run_id(&self) -> Option<String> {
        self.state().run.as_ref().map(|r| r.folder.id())
    }

    /// How the nodes that had to run ended.
    pub(super) fn outcome(&self) -> Outcome {
        self.state().outcome.clone()
    }

    /// Writes down how the command ended. A run without a folder, or one that cannot be written any more, has nobody to tell.
    pub(super) fn close<T>(&self, result: &Result<T>) {
        let how = match result {
            Err(error) if error.kind == ErrorKind::Interrupted => Close::Interrupted,
            Err(error) if error.kind != ErrorKind::NodesFailed => Close::Error { message: error.message.clone() },
            _ => Close::Finished,
        };
        if let Some(run) = &mut self.state().run
            && let Err(e) = run.events.append(&Event::Closed { how })
            && !run.unrecorded
        {
            style::note(&format!("warning: how this run ended is not recorded: {e}"));
        }
    }

    /// The exit that a finished run deserves.
    pub(super) fn verdict(&self) -> Result<()> {
        let outcome = self.outcome();
        let failed = outcome.count(|e| matches!(e, End::Failed { .. }));
        let skipped = outcome.count(|e| matches!(e, End::Skipped { .. }));
        let run = self.run_id().unwrap_or_default();
        if outcome.interrupted {
            return Err(interrupted());
        }
        if failed + skipped > 0 {
            let them = if failed == 1 { "it" } else { "them" };
            let failed = format!("{} failed", plural(failed, "node"));
            let message = match skipped {
                0 => failed,
                1 => format!("{failed} and 1 was skipped because of {them}"),
                _ => format!("{failed} and {skipped} were skipped because of {them}"),
            };
            return Err(Error::new(ErrorKind::NodesFailed, message)
                .hint(format!("`workbench show {run}` lists them, `workbench log {run} KEY` shows what one wrote")));
        }
        Ok(())
    }
}

impl Force for Runner {
    fn value(&self, graph: &Graph, wanted: &[NodeId], name: &str) -> Result<f64> {
        let plan = self.plan(graph, wanted)?;
        self.execute(graph, &plan, &mut |_| {})?;
        if self.outcome().interrupted {
            self.verdict()?;
        }
        find_value(graph, &plan, &self.store, wanted, name).map_err(|e| match self.verdict() {
            Err(failed) => failed.cause(e.message),
            Ok(()) => e,
        })
    }
}

/// The named value of the first wanted node that has it.
pub(super) fn find_value(graph: &Graph, plan: &Plan, store: &Store, wanted: &[NodeId], name: &str) -> Result<f64> {
    let mut known = Vec::new();
    for id in wanted {
        let Some(planned) = plan.find(*id) else { continue };
        let values = store.object(&planned.key)?.record()?.values;
        if let Some(value) = values[name].as_f64() {
            return Ok(value);
        }
        known.extend(values.as_object().into_iter().flat_map(|m| m.keys().cloned()));
    }
    let labels: Vec<&str> = wanted.iter().map(|id| graph.node(*id).label.as_str()).collect();
    Err(Error::usage(format!("there is no value `{name}` of {}", labels.join(", ")))
        .at(name)
        .hint(format!("there are {}", known.join(", "))))
}

/// Stops a script at the first value that is not stored: for `plan`.
pub(super) struct OnlyStored {
    pub store: Store,
    pub digests: Mutex<FileDigests>,
    /// Why the script was stopped, if it was.
    pub stopped: Mutex<Option<String>>,
}

impl Force for OnlyStored {
    fn value(&self, graph: &Graph, wanted: &[NodeId], name: &str) -> Result<f64> {
        let mut digests = self.digests.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let plan = Plan::new(graph, wanted, &self.store, &mut digests)?;
        if plan.pending() == 0 {
            return find_value(graph, &plan, &self.store, wanted, name);
        }
        let label = wanted.first().map(|id| graph.node(*id).label.clone()).unwrap_or_default();
        let message = format!("the script needs `{name}` of {label}, which is not computed yet: the plan ends here");
        *self.stopped.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(message.clone());
        Err(Error::refused(message))
    }
}

/// A run as `--json` tells it.
pub(super) fn summary_json(outcome: &Outcome, run: Option<String>) -> Value {
    json!({
        "run": run,
        "done": outcome.count(|e| *e == End::Done),
        "failed": outcome.count(|e| matches!(e, End::Failed { .. })),
        "skipped": outcome.count(|e| matches!(e, End::Skipped { .. })),
        "cancelled": outcome.count(|e| *e == End::Cancelled),
        "interrupted": outcome.interrupted,
    })
}
