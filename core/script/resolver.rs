//! `import`: modules of the project, and of nowhere else.

use std::{fs, path::PathBuf};

use rhai::{Engine, EvalAltResult, Module, ModuleResolver, Position, Scope, Shared as Rc};

use super::{Shared, lock};

/// Finds `import "scripts/tasks"` as `scripts/tasks.rhai` under the project's root.
pub(super) struct ProjectModules {
    root: PathBuf,
    shared: Shared,
}

impl ProjectModules {
    pub(super) fn new(root: PathBuf, shared: Shared) -> Self {
        Self { root, shared }
    }

    fn find(&self, name: &str) -> Result<PathBuf, String> {
        let root = self.root.canonicalize().map_err(|e| format!("{}: {e}", self.root.display()))?;
        let file = root.join(format!("{name}.rhai"));
        let path =
            file.canonicalize().map_err(|_| format!("there is no `{name}.rhai` under `{}`", self.root.display()))?;
        // Links and `..` are followed first: what counts is where the file really lies.
        if path.starts_with(&root) { Ok(path) } else { Err(format!("`{name}` lies outside the project")) }
    }
}

impl ModuleResolver for ProjectModules {
    fn resolve(
        &self,
        engine: &Engine,
        _: Option<&str>,
        name: &str,
        at: Position,
    ) -> Result<Rc<Module>, Box<EvalAltResult>> {
        let fail = |message: String| {
            let error =
                crate::error::Error::usage(format!("module `{name}` cannot be imported")).cause(message).at(name);
            Box::new(EvalAltResult::ErrorRuntime(rhai::Dynamic::from(error), at))
        };
        let path = self.find(name).map_err(fail)?;
        let text = fs::read_to_string(&path).map_err(|e| fail(e.to_string()))?;
        lock(&self.shared).sources.insert(name.to_owned(), text.clone());
        let in_module = |e: Box<EvalAltResult>| Box::new(EvalAltResult::ErrorInModule(name.to_owned(), e, at));
        let mut ast = engine.compile(&text).map_err(|e| in_module(e.into()))?;
        ast.set_source(name);
        Module::eval_ast_as_new(Scope::new(), &ast, engine).map(Rc::new).map_err(in_module)
    }
}
