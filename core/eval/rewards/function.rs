//! Rewards that a function of a script says: pure ones, of what they are given and nothing else.

use rhai::{
    AST, Dynamic, Engine, EvalAltResult, INT, Scope,
    packages::{
        BasicArrayPackage, BasicBlobPackage, BasicMapPackage, BasicMathPackage, BitFieldPackage, CorePackage,
        LogicPackage, MoreStringPackage, Package,
    },
};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A function of three arguments: the prompt, what was written behind it, and the row of data that the prompt was made of.
pub struct Function {
    engine: Engine,
    ast: AST,
    name: String,
}

/// What a call may take: far more than looking at a completion does, and too little to hold up a training.
const OPERATIONS: u64 = 1_000_000;

/// How deep its calls may lie in one another.
const LEVELS: usize = 32;

impl Function {
    /// Reads the function of that name.
    ///
    /// # Errors
    /// The text is no script, or has no such function of three arguments.
    pub fn compile(source: &str, name: &str) -> Result<Self> {
        let engine = engine();
        let ast = engine.compile(source).map_err(|error| Error::refused(format!("its file is no script: {error}")))?;
        let arguments = |count: usize| if count == 1 { "1 argument".to_owned() } else { format!("{count} arguments") };
        let known: Vec<(String, usize)> =
            ast.iter_functions().map(|found| (found.name.to_owned(), found.params.len())).collect();
        if !known.iter().any(|(found, count)| found == name && *count == 3) {
            let message = match known.iter().find(|(found, _)| found == name) {
                Some((_, count)) => format!("the function `{name}` takes {}", arguments(*count)),
                None => format!("its file has no function `{name}`"),
            };
            return Err(Error::refused(message).hint(format!("a reward is fn {name}(prompt, completion, row) {{ … }}")));
        }
        Ok(Self { engine, ast, name: name.to_owned() })
    }

    /// What it says.
    ///
    /// # Errors
    /// It fails, takes too long, or returns no finite number.
    pub fn call(&self, prompt: &str, completion: &str, row: &Map<String, Value>) -> Result<f64> {
        let failed = |error: &EvalAltResult| {
            let error = Error::refused(format!("`{}` failed: {error}", self.name));
            error.cause(format!("it was asked about `{}`", shortened(completion)))
        };
        let row: Dynamic = rhai::serde::to_dynamic(row).map_err(|error| failed(&error))?;
        let arguments = (prompt.to_owned(), completion.to_owned(), row);
        let value: Dynamic =
            self.engine.call_fn(&mut Scope::new(), &self.ast, &self.name, arguments).map_err(|error| failed(&error))?;
        let number = value.as_float().or_else(|_| value.as_int().map(|whole: INT| whole as f64));
        let said = || match number {
            Ok(number) => number.to_string(),
            Err(_) => format!("a {}", value.type_name()),
        };
        number.ok().filter(|number| number.is_finite()).ok_or_else(|| {
            Error::refused(format!("`{}` returned {}, which is no finite number", self.name, said()))
                .cause(format!("it was asked about `{}`", shortened(completion)))
        })
    }
}

/// The beginning of a completion, for messages.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut short: String = text.chars().take(MOST).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// No files, no modules, no clock, nothing that a script of the workbench can call; and an end.
fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    CorePackage::new().register_into_engine(&mut engine);
    BitFieldPackage::new().register_into_engine(&mut engine);
    LogicPackage::new().register_into_engine(&mut engine);
    BasicMathPackage::new().register_into_engine(&mut engine);
    BasicArrayPackage::new().register_into_engine(&mut engine);
    BasicBlobPackage::new().register_into_engine(&mut engine);
    BasicMapPackage::new().register_into_engine(&mut engine);
    MoreStringPackage::new().register_into_engine(&mut engine);
    let waits = || Err("a reward does not wait".into());
    engine.register_fn("sleep", move |_: INT| -> std::result::Result<(), Box<EvalAltResult>> { waits() });
    engine.register_fn("sleep", move |_: f64| -> std::result::Result<(), Box<EvalAltResult>> { waits() });
    engine.set_strict_variables(true);
    engine.set_fail_on_invalid_map_property(true);
    engine.disable_symbol("eval");
    engine.set_max_operations(OPERATIONS);
    engine.set_max_call_levels(LEVELS);
    engine.set_max_expr_depths(64, 32);
    engine.set_max_string_size(1 << 20);
    engine.set_max_array_size(100_000);
    engine.set_max_map_size(10_000);
    engine
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn call(body: &str) -> Result<f64> {
        let source = format!("fn f(prompt, completion, row) {{ {body} }}");
        let row = json!({ "answer": "yes", "n": 3, "list": [1, 2] }).as_object().unwrap().clone();
        Function::compile(&source, "f")?.call("a prompt", "yes, it is", &row)
    }

    #[test]
    fn functions_see_prompt_completion_and_row() {
        assert_eq!(call("1").unwrap(), 1.0);
        assert_eq!(call("completion.len * 0.5").unwrap(), 5.0);
        assert_eq!(call("if completion.starts_with(row.answer) { row.n } else { 0 }").unwrap(), 3.0);
        assert_eq!(call("prompt.split(' ').len + row.list[1]").unwrap(), 4.0);
    }

    #[test]
    fn they_reach_nothing_else_and_end() {
        for (body, part) in [
            ("true", "returned a bool"),
            ("0.0 / 0.0", "returned NaN"),
            ("completion", "returned a string"),
            ("row.nothing", "failed"),
            ("let x = 0; loop { x += 1; }", "failed"),
            ("f(prompt, completion, row)", "failed"),
            ("sleep(3600)", "a reward does not wait"),
            ("sleep(3600.0)", "a reward does not wait"),
            ("timestamp(); 1", "failed"),
            ("model(\"demo\"); 1", "failed"),
            ("import \"x\" as x; 1", "failed"),
        ] {
            let error = call(body).unwrap_err();
            assert!(error.to_string().contains(part), "{body}: {error}");
        }
        for (source, name, part) in [
            ("fn f(prompt) { 1 }", "f", "takes 1 argument"),
            ("fn g(prompt, completion, row) { 1 }", "f", "no function `f`"),
            ("fn f(", "f", "is no script"),
            ("fn f(prompt, completion, row) { eval(\"1\") }", "f", "is no script"),
        ] {
            let error = Function::compile(source, name).map(drop).unwrap_err();
            assert!(error.to_string().contains(part), "{source}: {error}");
        }
    }
}
