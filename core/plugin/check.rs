//! `workbench plugins check`: does a file load, and does its example give what it promises?

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use workbench_api::descriptor::Descriptor;
use workbench_api::error::Error;
use workbench_api::example::Example;
use workbench_api::host::Heartbeat;
use workbench_api::testing::{MemoryHost, Outcome, differences};

use super::child::{ChildCommand, answering, ask};
use super::load::Loaded;
use super::problem::Problem;

/// How long loading a file and running its examples may take: examples are small.
const PATIENCE: Duration = Duration::from_secs(120);

/// Address space of the child. An example that needs more is none; a plugin that eats memory ends here.
const MEMORY: u64 = 8 << 30;

/// What was looked at, and what was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CheckReport {
    /// The file.
    pub file: PathBuf,
    /// What the plugin says about itself, if it could be loaded.
    pub descriptor: Option<Descriptor>,
    /// One step after the other.
    pub steps: Vec<Step>,
}

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// For example `load`, `example: a weight that is exact in 4 bits`.
    pub name: String,
    /// What is wrong; empty if nothing.
    pub found: Vec<String>,
    /// What the user can do.
    pub hint: Option<String>,
    /// Seconds it took.
    pub seconds: f64,
}

impl CheckReport {
    /// Whether nothing is wrong.
    pub fn passed(&self) -> bool {
        self.steps.iter().all(|step| step.found.is_empty())
    }
}

/// Checks a file in a child process (see [`check_main`]), whose end, however sudden, is part of the report.
pub fn check(file: &Path, child: &ChildCommand<'_>) -> CheckReport {
    ask(child, file, PATIENCE, "running it").unwrap_or_else(|problem| failed(file, problem))
}

fn failed(file: &Path, problem: Problem) -> CheckReport {
    let step = Step { name: "load".to_owned(), found: vec![problem.message], hint: problem.hint, seconds: 0.0 };
    CheckReport { file: file.to_path_buf(), descriptor: None, steps: vec![step] }
}

/// Body of the hidden subcommand `workbench __check FILE`: loads the file, runs its examples and answers.
pub fn check_main(file: &Path) -> ExitCode {
    use rustix::process::{Resource, Rlimit, setrlimit};
    // Where the limit cannot be set, the check goes without it.
    let _ = setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) });
    answering(|| check_here(file))
}

fn check_here(file: &Path) -> CheckReport {
    let start = std::time::Instant::now();
    let loaded = match Loaded::open(file) {
        Ok(loaded) => loaded,
        Err(problem) => return failed(file, problem),
    };
    let descriptor = loaded.descriptor();
    let mut steps = vec![Step {
        name: "load".to_owned(),
        found: faults(descriptor),
        hint: None,
        seconds: start.elapsed().as_secs_f64(),
    }];
    for example in &descriptor.examples {
        let start = std::time::Instant::now();
        let (found, hint) = match run_example(&loaded, example) {
            Ok(found) => (found, None),
            Err(error) => (vec![error.to_string()], error.hint),
        };
        let name = format!("example: {}", example.name);
        steps.push(Step { name, found, hint, seconds: start.elapsed().as_secs_f64() });
    }
    CheckReport { file: file.to_path_buf(), descriptor: Some(descriptor.clone()), steps }
}

/// What is wrong with what a plugin says about itself.
fn faults(descriptor: &Descriptor) -> Vec<String> {
    let mut found = Vec::new();
    if descriptor.examples.is_empty() {
        found.push("it has no example".to_owned());
    }
    if let Err(error) = super::validate(descriptor, &Value::Null) {
        found.push(format!("its defaults do not fit its own schema: {error}"));
    }
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    if descriptor.name.is_empty() || !descriptor.name.chars().all(allowed) {
        found.push(format!("its name `{}` is not made of a-z, 0-9, `_` and `-`", descriptor.name));
    }
    found
}

fn run_example(loaded: &Loaded, example: &Example) -> Result<Vec<String>, Error> {
    let host = MemoryHost::new(example)?;
    let running = loaded.create(&Value::Object(example.parameters.clone()))?;
    running.needs(&example.job)?;
    let report = running.run(&example.job, &host, &Heartbeat::default())?;
    let outcome = Outcome { report, ..host.into_outcome() };
    Ok(differences(&example.expected, &outcome))
}
