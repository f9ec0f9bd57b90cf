//! `import`: modules of the project, and of nowhere else.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use rhai::{Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared as Rc};

use super::{Shared, files::read_text, lock};
use crate::error::Error;

/// How many imports may wait for one another.
const DEEPEST: usize = 32;

/// Finds `import "scripts/tasks"` as `scripts/tasks.rhai` under the project's root. A module is evaluated once, however often
/// it is imported.
pub(super) struct ProjectModules {
    root: PathBuf,
    shared: Shared,
    state: Mutex<State>,
}

struct State {
    /// The scripts that are being evaluated, each of which imports the next one, with the names that they are known by.
    open: Vec<(PathBuf, String)>,
    done: BTreeMap<PathBuf, Rc<Module>>,
}

impl ProjectModules {
    pub(super) fn new(script: &Path, root: PathBuf, shared: Shared) -> Self {
        let name = script.display().to_string();
        let path = script.canonicalize().unwrap_or_else(|_| script.to_owned());
        Self { root, shared, state: Mutex::new(State { open: vec![(path, name)], done: BTreeMap::new() }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &str) -> Result<PathBuf, String> {
        let root = self.root.canonicalize().map_err(|e| format!("{}: {e}", self.root.display()))?;
        let file = root.join(format!("{name}.rhai"));
        let path =
            file.canonicalize().map_err(|_| format!("there is no `{name}.rhai` under `{}`", self.root.display()))?;
        // Links and `..` are followed first: what counts is where the file really lies.
        if path.starts_with(&root) { Ok(path) } else { Err(format!("`{name}` lies outside the project")) }
    }

    /// Refuses an import that leads back to a script that waits for it, and one too deep.
    fn check(&self, path: &Path, name: &str) -> Result<(), String> {
        let state = self.state();
        if let Some(first) = state.open.iter().position(|(open, _)| open == path) {
            let circle: Vec<&str> = state.open[first..].iter().map(|(_, name)| name.as_str()).chain([name]).collect();
            return Err(match circle.len() {
                2 => "it would import itself".to_owned(),
                _ => format!("the imports go in a circle: {}", circle.join(" → ")),
            });
        }
        if state.open.len() > DEEPEST {
            return Err(format!("{DEEPEST} imports wait for one another already"));
        }
        Ok(())
    }

    fn evaluate(
        &self,
        engine: &Engine,
        path: &Path,
        name: &str,
        at: Position,
    ) -> Result<Rc<Module>, Box<EvalAltResult>> {
        let text = read_text(path).map_err(|e| failed(name, at, &e))?;
        lock(&self.shared).sources.insert(name.to_owned(), text.clone());
        let in_module = |e: Box<EvalAltResult>| Box::new(EvalAltResult::ErrorInModule(name.to_owned(), e, at));
        let mut ast = engine.compile(&text).map_err(|e| in_module(e.into()))?;
        ast.set_source(name);
        Module::eval_ast_as_new(Scope::new(), &ast, engine).map(Rc::new).map_err(in_module)
    }
}

fn failed(name: &str, at: Position, cause: &dyn ToString) -> Box<EvalAltResult> {
    let error = Error::usage(format!("module `{name}` cannot be imported")).cause(cause.to_string()).at(name);
    Box::new(EvalAltResult::ErrorRuntime(rhai::Dynamic::from(error), at))
}

impl ModuleResolver for ProjectModules {
    fn resolve(
        &self,
        engine: &Engine,
        _: Option<&str>,
        name: &str,
        at: Position,
    ) -> Result<Rc<Module>, Box<EvalAltResult>> {
        let path = self.find(name).map_err(|e| failed(name, at, &e))?;
        if let Some(done) = self.state().done.get(&path) {
            return Ok(Rc::clone(done));
        }
        self.check(&path, name).map_err(|e| failed(name, at, &e))?;
        self.state().open.push((path.clone(), name.to_owned()));
        let module = self.evaluate(engine, &path, name, at);
        let mut state = self.state();
        state.open.pop();
        let module = module?;
        state.done.insert(path, Rc::clone(&module));
        Ok(module)
    }
}
