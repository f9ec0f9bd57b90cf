//! Ctrl-C.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

use super::project::{Project, W8, kill};

/// A run whose events can be waited for.
pub(super) struct Followed {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
    seen: Vec<Value>,
}

impl Followed {
    pub(super) fn start(project: &Project, arguments: &[&str]) -> Self {
        let mut child =
            project.command(arguments).arg("--json").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, lines, seen: Vec::new() }
    }

    /// Reads events up to the first that is as wanted.
    pub(super) fn until(&mut self, wanted: impl Fn(&Value) -> bool) {
        loop {
            let line = self.lines.next().unwrap_or_else(|| panic!("it never came: {:#?}", self.seen)).unwrap();
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            self.seen.push(event);
            if self.seen.last().is_some_and(&wanted) {
                return;
            }
        }
    }

    fn signal(&self) {
        self.signal_with(Signal::INT);
    }

    pub(super) fn signal_with(&self, signal: Signal) {
        kill(self.child.id() as i32, signal);
    }

    /// The exit code and all events.
    pub(super) fn end(mut self) -> (Option<i32>, Vec<Value>) {
        let rest = self.lines.by_ref().map_while(Result::ok);
        self.seen.extend(rest.filter_map(|line| serde_json::from_str(&line).ok()));
        (self.child.wait().unwrap().code(), self.seen)
    }
}

#[test]
fn the_first_interrupt_lets_running_nodes_finish() {
    let project = Project::new();
    let script = r#"
let base = model("tiny");
let tokens = dataset("text.txt").tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let trained = base.train("sft", #{ data: tokens, max_steps: 40, batch_size: 2 });
let table = report("interrupted");
for length in [8, 16] {
    table.row(trained.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: length, blocks: 2 })), #{ length: length });
}
table.write();
"#;
    project.write("interrupted.rhai", script);
    let mut run = Followed::start(&project, &["run", "interrupted.rhai", "--jobs", "1"]);
    run.until(|e| e["said"]["event"] == "metric");
    run.signal();
    let (code, events) = run.end();
    assert_eq!(code, Some(5));
    let ends: Vec<&Value> = events.iter().filter(|e| e["event"] == "node_ended").map(|e| &e["end"]["end"]).collect();
    assert_eq!(ends, ["done", "cancelled", "cancelled"], "the running node finishes and nothing else begins");
    assert!(events.iter().any(|e| e["event"] == "interrupting" && e["running"] == 1));
    assert_eq!(events.last().unwrap()["kind"], "interrupted");

    let again = project.run(&["run", "interrupted.rhai"]).exits(0);
    assert!(again.err.contains("3 nodes, 1 cached, 2 to run"), "{}", again.err);
}

#[test]
fn the_second_interrupt_ends_running_nodes() {
    let project = Project::new();
    project.add_plugins(&["misbehave"]);
    let script = r#"
let model = model("tiny").quantize("misbehave", #{ scheme: SCHEME, targets: "*.o_proj", fault: "hang" });
let table = report("hung");
table.row(model.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 8, blocks: 1 })), #{ fault: "hang" });
table.write();
"#;
    project.write("hung.rhai", &script.replace("SCHEME", W8));
    let mut run = Followed::start(&project, &["run", "hung.rhai"]);
    run.until(|e| e["said"]["event"] == "plugin" && e["said"]["timeout"] == 600);
    run.signal();
    run.until(|e| e["event"] == "interrupting");
    let began = Instant::now();
    run.signal();
    let (code, events) = run.end();
    assert_eq!(code, Some(5));
    assert!(began.elapsed() < Duration::from_secs(20), "the plugin sleeps for an hour");
    let ends: Vec<&Value> = events.iter().filter(|e| e["event"] == "node_ended").map(|e| &e["end"]["end"]).collect();
    assert_eq!(ends, ["cancelled", "cancelled"]);
    project.assert_no_process_stays();
}
