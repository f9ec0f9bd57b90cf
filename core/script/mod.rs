//! Scripts: Rhai text in, a graph and the tables to draw from it out.
//!
//! A script computes nothing. What it calls returns lazy handles that carry a static signature (architecture, layer names
//! and shapes), so selectors, schemes and plugin parameters are checked while the script runs, with the place in the
//! script at hand, before a weight is read. A script may force a value to decide what comes next; who runs the script says
//! what forcing means ([`Force`]).

mod api;
mod builder;
mod calls;
mod cautions;
mod files;
mod handle;
mod options;
mod place;
mod reference;
mod resolver;
mod root;
mod seeds;
mod settings;
mod stages;
mod yaml;

pub use builder::{Builder, Labels, ReportSpec, RowSpec, SaveSpec};
pub use calls::Tokens;
pub use cautions::{Caution, Cautions};
pub use handle::{DatasetHandle, EvaluationHandle, Measured, ModelHandle, RewardHandle, Signature, TaskHandle};
pub use reference::{Reference, definitions};
pub use root::Root;
pub use settings::Settings;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use rhai::{Dynamic, Engine, EvalAltResult};

use crate::{
    error::{Error, Result},
    graph::{Graph, NodeId},
    plugin::Registry,
    printable,
};

/// Obtains the results of nodes while a script runs.
pub trait Force: Send + Sync {
    /// Makes sure that the results of the wanted nodes are stored, and returns the named value of the first that has it.
    fn value(&self, graph: &Graph, wanted: &[NodeId], name: &str) -> Result<f64>;
}

/// What a script may know of its surroundings.
pub struct ScriptEnv {
    /// The project: imports and the demo are found under it, and imports may not leave it.
    pub root: PathBuf,
    pub registry: Arc<Registry>,
    pub force: Arc<dyn Force>,
    pub settings: Settings,
    /// The seed of nodes whose script names none.
    pub seed: u64,
    /// Whether rows carry the seed as a label, because the script runs for several.
    pub label_seed: bool,
}

/// State shared between the functions of one script run.
pub(crate) type Shared = Arc<Mutex<Builder>>;

/// A builder whose lock was poisoned by a panic elsewhere is still whole: it only ever grows.
pub(crate) fn lock(shared: &Shared) -> MutexGuard<'_, Builder> {
    shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Time that a script may think, forced values aside.
const PATIENCE: Duration = Duration::from_secs(60);

/// Scripts are walked by functions that call themselves. The limits on nesting keep a script within this, and not within what
/// a main thread has.
const STACK: usize = 512 << 20;

/// Runs a script and adds what it asks for to `builder`, which comes back even when the script fails.
pub fn run(path: &Path, builder: Builder, env: &ScriptEnv) -> (Builder, Result<()>) {
    let shared = Arc::new(Mutex::new(builder));
    let result = thread::scope(|scope| {
        let script = thread::Builder::new().name("script".into()).stack_size(STACK);
        let running = script.spawn_scoped(scope, || evaluate(path, &shared, env));
        let running = running.map_err(|e| Error::internal(format!("cannot start a thread: {e}")))?;
        running.join().unwrap_or_else(|_| Err(Error::internal("the script's thread panicked")))
    });
    let builder = std::mem::take(&mut *lock(&shared));
    (builder, result)
}

fn evaluate(path: &Path, shared: &Shared, env: &ScriptEnv) -> Result<()> {
    let source = files::read_text(path).map_err(|e| {
        let error = Error::io("read the script", path, &e);
        Error { kind: crate::error::ErrorKind::Usage, ..error }
    })?;
    let name = path.display().to_string();
    {
        let mut builder = lock(shared);
        builder.enter(&name, &source, env);
    }
    let engine = engine(path, shared, env);
    let outcome = engine.compile(&source).map_err(Box::<EvalAltResult>::from).and_then(|mut ast| {
        ast.set_source(name.as_str());
        engine.run_ast(&ast)
    });
    outcome.map_err(|error| place::locate(*error, &name, &lock(shared).sources, &engine))
}

/// The engine with everything that a script can call, and with limits against scripts that never end.
fn engine(path: &Path, shared: &Shared, env: &ScriptEnv) -> Engine {
    let mut engine = Engine::new();
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    engine.disable_symbol("eval");
    engine.set_max_operations(20_000_000);
    engine.set_max_call_levels(64);
    engine.set_max_expr_depths(128, 64);
    engine.set_max_string_size(1 << 20);
    engine.set_max_array_size(100_000);
    engine.set_max_map_size(10_000);
    let clock = Arc::clone(&lock(shared).clock);
    engine.on_progress(move |_| {
        let spent = clock.lock().map(|c| c.elapsed()).unwrap_or_default();
        (spent > PATIENCE).then(|| Dynamic::from("the script took longer than 60 s to build its graph"))
    });
    engine.on_print(|text| tracing::info!(target: "script", "{}", printable::lines(text)));
    engine.on_debug(|text, source, position| {
        let source = source.unwrap_or("script");
        tracing::info!(target: "script", "{source}:{position:?}: {}", printable::lines(text));
    });
    engine.set_module_resolver(resolver::ProjectModules::new(path, env.root.clone(), Arc::clone(shared)));
    api::register(&mut engine, shared, env);
    engine
}

/// Time that a script has spent thinking: stands still while values are forced.
#[derive(Debug)]
pub struct Clock {
    running_since: Instant,
    spent: Duration,
}

impl Default for Clock {
    fn default() -> Self {
        Self { running_since: Instant::now(), spent: Duration::ZERO }
    }
}

impl Clock {
    fn elapsed(&self) -> Duration {
        self.spent + self.running_since.elapsed()
    }

    /// Leaves a stretch of time out of the count.
    fn forgive(&mut self, since: Instant) {
        self.spent += since.duration_since(self.running_since);
        self.running_since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    struct Nothing;

    impl Force for Nothing {
        fn value(&self, _: &Graph, _: &[NodeId], _: &str) -> Result<f64> {
            Err(Error::internal("nothing is run here"))
        }
    }

    /// Names with the number of their arguments, of lines such as `fn row(report: Report, …) -> Report;`.
    fn calls<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<(String, usize)> {
        let call = |line: &str| {
            let (name, rest) = line.trim().strip_prefix("fn ").unwrap_or(line.trim()).split_once('(')?;
            let arguments = rest.split_once(')')?.0;
            Some((name.to_owned(), arguments.split(',').filter(|a| !a.trim().is_empty()).count()))
        };
        lines.filter_map(call).collect()
    }

    #[test]
    fn the_definitions_name_every_function_and_no_other() {
        let env = ScriptEnv {
            root: PathBuf::new(),
            registry: Arc::default(),
            force: Arc::new(Nothing),
            settings: Settings::default(),
            seed: 0,
            label_seed: false,
        };
        let plain: BTreeSet<String> = Engine::new().gen_fn_signatures(false).into_iter().collect();
        let ours = engine(Path::new(""), &Arc::default(), &env).gen_fn_signatures(false);
        let ours = calls(ours.iter().filter(|line| !plain.contains(*line)).map(String::as_str));
        assert_eq!(ours, calls(definitions().lines().filter(|line| line.starts_with("fn "))));
    }

    #[test]
    fn the_definitions_in_the_sources_are_these() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/workbench.d.rhai");
        let kept = std::fs::read_to_string(&path).unwrap();
        assert_eq!(kept, definitions(), "workbench script definitions --output scripts/workbench.d.rhai");
    }
}
