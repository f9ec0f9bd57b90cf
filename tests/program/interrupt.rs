//! Ctrl-C: the first one stops a node where it can be continued, the second one ends it.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use workbench_model::ModelConfig;

use super::{
    calibration::blocks,
    project::{Project, W8, kill},
};

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

/// How the nodes of a run ended, in their order.
fn ends(events: &[Value]) -> Vec<&str> {
    let ended = events.iter().filter(|e| e["event"] == "node_ended");
    ended.map(|e| e["end"]["end"].as_str().unwrap()).collect()
}

/// Steps with the bits of their losses, as they were reported.
fn losses(events: &[Value]) -> BTreeMap<u64, u64> {
    let metrics = events.iter().map(|e| &e["said"]).filter(|said| said["event"] == "metric" && said["name"] == "loss");
    metrics.map(|m| (m["step"].as_u64().unwrap(), m["value"].as_f64().unwrap().to_bits())).collect()
}

/// Runs a script of a fresh project to its end.
fn undisturbed(project: &Project) -> (BTreeMap<PathBuf, Vec<u8>>, Vec<Value>) {
    let (code, events) = Followed::start(project, &ARGUMENTS).end();
    assert_eq!(code, Some(0), "{events:#?}");
    (project.artifacts("results"), events)
}

const ARGUMENTS: [&str; 6] = ["run", "stopped.rhai", "--jobs", "1", "--threads", "1"];

/// Stops a run with one Ctrl-C at an event, and returns what was said. The node at work says that it was interrupted, and
/// nothing else is begun.
fn stopped_at(project: &Project, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let events = stopped_or_done(project, wanted);
    let ends = ends(&events);
    assert!(ends.contains(&"interrupted"), "{ends:?}");
    events
}

/// The same, where the node may be done before the signal has reached it: on a machine with much to do, events are read late.
fn stopped_or_done(project: &Project, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut run = Followed::start(project, &ARGUMENTS);
    run.until(wanted);
    let since = Instant::now();
    run.signal();
    let (code, events) = run.end();
    assert!(since.elapsed() < Duration::from_secs(30), "it took {:?} to stop", since.elapsed());
    assert_eq!(code, Some(5), "{events:#?}");
    assert!(events.iter().any(|e| e["event"] == "interrupting"));
    assert_eq!(events.last().unwrap()["kind"], "interrupted");
    let ends = ends(&events);
    let order: Vec<&str> = ["done", "interrupted", "cancelled"].into_iter().filter(|end| ends.contains(end)).collect();
    assert!(ends.chunk_by(|a, b| a == b).map(|some| some[0]).eq(order), "{ends:?}");
    project.assert_no_process_stays();
    events
}

const TRAINING: &str = r#"
let tokens = dataset("text.txt").tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let trained = model("tiny").train("sft", #{ data: tokens, max_steps: 60, batch_size: 2, learning_rate: 0.001 });
let table = report("stopped");
for length in [8, 16] {
    table.row(trained.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: length, blocks: 2 })), #{ length: length });
}
table.write();
"#;

#[test]
fn a_training_stops_at_its_next_step_and_continues_to_the_same_bits() {
    let whole = Project::new();
    whole.write("stopped.rhai", TRAINING);
    let (artifacts, events) = undisturbed(&whole);
    let expected = losses(&events);
    assert_eq!(expected.len(), 60);

    let project = Project::new();
    project.write("stopped.rhai", TRAINING);
    let mut found = BTreeMap::new();
    // There is no checkpoint before step 100 but the one that stopping leaves.
    for step in [3, 20] {
        let events = stopped_at(&project, |e| e["said"]["event"] == "metric" && e["said"]["step"] == step);
        let steps = losses(&events);
        let (first, last) = (*steps.first_key_value().unwrap().0, *steps.last_key_value().unwrap().0);
        assert_eq!(first, found.last_key_value().map_or(1, |(step, _)| step + 1), "no step is taken twice");
        assert!((step..60).contains(&last), "{last}");
        found.extend(steps);
    }
    let shown = project.run(&["show", "last"]).exits(0).out;
    assert!(shown.contains("  interrupted\n") && shown.contains("interrupted: 3 not done"), "{shown}");
    let (code, events) = Followed::start(&project, &ARGUMENTS).end();
    assert_eq!(code, Some(0));
    found.extend(losses(&events));
    assert_eq!(found, expected, "the bits of the losses differ");
    assert!(project.artifacts("results") == artifacts, "weights or records differ");
}

/// With calibration data, block by block and without any.
#[test]
fn a_quantization_stops_behind_a_block_and_continues_to_the_same_bytes() {
    let w4 = r#"#{ weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" } }"#;
    let w4a8 = r#"#{ weights: #{ num_bits: 4, type: "int", symmetric: true, strategy: "channel" },
        input_activations: #{ num_bits: 8, type: "int", symmetric: true, strategy: "tensor", dynamic: false } }"#;
    let mut stopped = 0;
    for (method, scheme, data) in
        [("gptq", w4a8, ", calibration: data"), ("sign_block", w4, ", calibration: data"), ("rtn", w4, "")]
    {
        let start = || {
            let project = Project::new();
            project.add_plugins(&["sign_block"]);
            project.write_model("deep", 64, 24);
            let script = format!(
                r#"
let data = dataset("text.txt").tokens(#{{ num_calibration_samples: 6, max_seq_length: 48 }});
let made = model("deep").quantize("{method}", #{{ scheme: {scheme}{data} }});
let table = report("stopped");
table.row(made.evaluate(perplexity(#{{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 }})), #{{ model: "made" }});
table.write();
"#
            );
            project.write("stopped.rhai", &script);
            project
        };
        let (expected, _) = undisturbed(&start());
        let project = start();
        let (mut before, mut stops) = (0, 0);
        while stops < 3 {
            let behind = |e: &Value| e["said"]["unit"] == "blocks" && e["said"]["done"].as_u64() > Some(before);
            let events = stopped_or_done(&project, behind);
            if !ends(&events).contains(&"interrupted") {
                break;
            }
            let done = events.iter().filter(|e| e["said"]["unit"] == "blocks").map(|e| e["said"]["done"].as_u64());
            let kept = blocks(&project).unwrap();
            assert!(Some(kept) >= done.max().unwrap(), "{method}: {kept} blocks were kept");
            assert!(kept > before && kept <= 24, "{method}: {kept} of 24 blocks, {before} before");
            (before, stops) = (kept, stops + 1);
            if kept > 20 {
                break;
            }
        }
        stopped += stops;
        let (found, events) = undisturbed(&project);
        let again = events.iter().find(|e| e["said"]["unit"] == "blocks").map(|e| e["said"]["done"].as_u64().unwrap());
        assert!(again.is_none_or(|first| first > before), "{method}: block {again:?} was made again");
        assert!(found == expected, "{method}: other bytes after {stops} stops");
    }
    assert!(stopped > 0, "every run was done before the signal reached it");
}

#[test]
fn a_transform_that_learns_stops_at_its_next_step_and_continues_to_the_same_bytes() {
    let script = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let learn = #{ steps: 24, batch_size: 3, scheme: #{ scheme: "W4A4", group_size: 8 }, checkpoint_every: 0 };
let made = model("tiny").transform("rotate", #{ rotations: ["R1", "R2"], learn: learn, calibration: data });
let table = report("stopped");
table.row(made.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "made" });
table.write();
"#;
    let start = || {
        let project = Project::new();
        project.write("stopped.rhai", script);
        project
    };
    let (artifacts, events) = undisturbed(&start());
    let expected = losses(&events);
    let project = start();
    let mut found = losses(&stopped_at(&project, |e| e["said"]["event"] == "metric" && e["said"]["step"] == 4));
    let (again, events) = undisturbed(&project);
    let rest = losses(&events);
    assert!(*rest.first_key_value().unwrap().0 > *found.last_key_value().unwrap().0, "a step is taken twice");
    found.extend(rest);
    assert_eq!(found, expected);
    assert!(again == artifacts);
}

/// AWQ searches block by block; what SmoothQuant goes by is gathered block by block.
#[test]
fn a_transform_goes_on_behind_its_last_block_to_the_same_bytes() {
    let mut stopped = 0;
    for (method, unit, options) in
        [("awq", "tensors", r#"scheme: #{ num_bits: 4, group_size: 16 }, "#), ("smoothquant", "blocks", "")]
    {
        let start = || {
            let project = Project::new();
            project.write_model("deep", 64, 24);
            let script = format!(
                r#"
let data = dataset("text.txt").tokens(#{{ num_calibration_samples: 6, max_seq_length: 48 }});
let made = model("deep").transform("{method}", #{{ {options}calibration: data }});
let table = report("stopped");
table.row(made.evaluate(perplexity(#{{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 }})), #{{ model: "made" }});
table.write();
"#
            );
            project.write("stopped.rhai", &script);
            project
        };
        let blocks = |events: &[Value]| -> Vec<u64> {
            let of_node = events.iter().filter(|e| e["said"]["unit"] == unit && e["said"]["total"] == 24);
            of_node.filter_map(|e| e["said"]["done"].as_u64()).collect()
        };
        let (expected, _) = undisturbed(&start());
        let project = start();
        let events = stopped_or_done(&project, |e| e["said"]["unit"] == unit && e["said"]["done"].as_u64() > Some(0));
        stopped += usize::from(ends(&events).contains(&"interrupted"));
        let before = blocks(&events).into_iter().max().unwrap();
        let (found, events) = undisturbed(&project);
        let again = blocks(&events).into_iter().next();
        assert!(again.is_none_or(|first| first > before), "{method}: block {again:?} was made again, {before} before");
        assert!(found == expected, "{method}: other bytes");
    }
    assert!(stopped > 0, "every run was done before the signal reached it");
}

#[test]
fn an_evaluation_stops_at_once_and_gives_the_same_items_later() {
    let script = r#"
let table = report("stopped");
let text = dataset("text.txt");
table.row(model("wide").evaluate(perplexity(#{ text: text, max_seq_length: 64, blocks: 40 })), #{ model: "wide" });
table.write();
"#;
    let start = || {
        let project = Project::new();
        project.write_model("wide", 256, 12);
        project.write("stopped.rhai", script);
        project
    };
    let (expected, _) = undisturbed(&start());
    let project = start();
    let events = stopped_at(&project, |e| e["said"]["unit"] == "passes");
    assert_eq!(ends(&events), ["interrupted"]);
    assert!(undisturbed(&project).0 == expected);
}

#[test]
fn answers_that_were_written_are_not_written_again() {
    let script = r#"
let table = report("stopped");
table.row(model("wide").evaluate(task("quiz.toml", #{ batch_size: 1 })), #{ model: "wide" });
table.write();
"#;
    let task = r#"
name = "quiz"
kind = "generate"
data = "quiz.jsonl"
prompt = "What is {question}?"
answer = "answer"
max_new_tokens = 12
"#;
    let start = || {
        let project = Project::new();
        project.write_model("wide", 256, 8);
        project.write("stopped.rhai", script);
        project.write("quiz.toml", task);
        let item = |i: usize| format!("{{\"question\": \"{i}\", \"answer\": \"{i}\"}}\n");
        project.write("quiz.jsonl", &(0..40).map(item).collect::<String>());
        project
    };
    let answers = |events: &[Value]| -> Vec<u64> {
        let said = events.iter().map(|e| &e["said"]).filter(|said| said["unit"] == "answers");
        said.map(|said| said["done"].as_u64().unwrap()).collect()
    };
    let (expected, events) = undisturbed(&start());
    assert_eq!(answers(&events).last(), Some(&40));
    let project = start();
    let mut before = 0;
    for _ in 0..2 {
        let events =
            stopped_at(&project, |e| e["said"]["unit"] == "answers" && e["said"]["done"].as_u64() > Some(before));
        let told = answers(&events);
        assert!(before == 0 || told[0] > before, "{told:?} behind {before}");
        before = *told.last().unwrap();
    }
    let (found, events) = undisturbed(&project);
    assert!(answers(&events)[0] > before && found == expected, "{:?} behind {before}", answers(&events));
}

/// A model whose weights, all zero, take `width` times 384 bytes that no disk holds.
fn write_sparse_model(project: &Project, name: &str, width: usize) {
    let mut config: Value = serde_json::from_str(&project.read("tiny/config.json")).unwrap();
    config["intermediate_size"] = width.into();
    config["num_hidden_layers"] = 1.into();
    project.write(&format!("{name}/config.json"), &config.to_string());
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        project.write(&format!("{name}/{file}"), &project.read(&format!("tiny/{file}")));
    }
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for spec in ModelConfig::from_json(&config, "config.json".as_ref()).unwrap().tensors() {
        let begin = end;
        end += 4 * spec.shape.iter().product::<usize>();
        header.insert(spec.name, json!({ "dtype": "F32", "shape": spec.shape, "data_offsets": [begin, end] }));
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = fs::File::create(project.path().join(name).join("model.safetensors")).unwrap();
    file.write_all(&[&(header.len() as u64).to_le_bytes()[..], &header].concat()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

#[test]
fn a_node_that_opens_a_model_is_interrupted() {
    let project = Project::new();
    write_sparse_model(&project, "large", 4 << 20);
    let script = r#"
let table = report("stopped");
table.row(model("large").evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "large" });
table.write();
"#;
    project.write("stopped.rhai", script);
    let mut run = Followed::start(&project, &ARGUMENTS);
    run.until(|e| e["event"] == "node_started");
    // The process begins, takes its lock, looks at the stamps, and then it opens the model: for half a second at least.
    std::thread::sleep(Duration::from_millis(250));
    run.signal();
    let since = Instant::now();
    let (code, events) = run.end();
    assert_eq!((code, ends(&events)), (Some(5), vec!["interrupted"]), "{events:#?}");
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
    project.assert_no_process_stays();
}

#[test]
fn a_node_that_hashes_a_model_is_interrupted_and_ends_with_its_driver() {
    let script = r#"
let table = report("stopped");
let text = dataset("text.txt");
table.row(model("wide").evaluate(perplexity(#{ text: text, max_seq_length: 32, blocks: 20 })), #{ model: "base" });
let made = model("tiny").quantize("rtn", #{ scheme: W8 });
table.row(made.evaluate(perplexity(#{ text: text, max_seq_length: LENGTH, blocks: 2 })), #{ model: "made" });
table.write();
"#;
    let project = Project::new();
    project.write_model("wide", 128, 8);
    let write = |length: &str| {
        let script = script.replace("W8", W8).replace("LENGTH", length);
        project.write("stopped.rhai", &script);
    };
    write("16");
    undisturbed(&project);
    let [(made, _)] = &project.stored("results", "quantize", "rtn")[..] else { panic!("one model") };
    let shards = fs::read_dir(made.join("model")).unwrap().map(|entry| entry.unwrap().path());
    let shard = shards.into_iter().find(|path| path.extension().is_some_and(|e| e == "safetensors")).unwrap();
    let (whole, aside) = (fs::read(&shard).unwrap(), shard.with_extension("aside"));
    for (length, killed) in [("20", false), ("24", true)] {
        write(length);
        // The other evaluation is to be done first, so that there is time for the change behind the plan.
        for (folder, _) in project.stored("results", "evaluate", "perplexity") {
            fs::remove_dir_all(folder).unwrap();
        }
        let mut run = Followed::start(&project, &ARGUMENTS);
        run.until(|e| e["event"] == "node_started");
        // More than any machine hashes while this test waits, on a disk that needs to hold none of it.
        fs::File::create(&aside).unwrap().set_len(1 << 40).unwrap();
        fs::rename(&aside, &shard).unwrap();
        run.until(|e| e["event"] == "node_started");
        std::thread::sleep(Duration::from_millis(500));
        let since = Instant::now();
        if killed {
            run.signal_with(Signal::KILL);
        } else {
            run.signal();
        }
        let (code, events) = run.end();
        if !killed {
            assert_eq!((code, ends(&events)), (Some(5), vec!["done", "interrupted"]), "{events:#?}");
        }
        project.assert_no_process_stays();
        assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
        fs::write(&aside, &whole).unwrap();
        fs::rename(&aside, &shard).unwrap();
    }
    undisturbed(&project);
}

/// Another run works on the same node: who waits for it stops, and who works goes on.
#[test]
fn a_node_that_waits_for_another_run_is_interrupted() {
    let project = Project::new();
    project.write("stopped.rhai", &TRAINING.replace("max_steps: 60", "max_steps: 400"));
    let mut first = Followed::start(&project, &ARGUMENTS);
    first.until(|e| e["said"]["event"] == "metric");
    let mut second = Followed::start(&project, &ARGUMENTS);
    second.until(|e| e["event"] == "node_started");
    std::thread::sleep(Duration::from_millis(300));
    second.signal();
    let (code, events) = second.end();
    assert_eq!((code, ends(&events)[0]), (Some(5), "interrupted"), "{events:#?}");
    first.until(|e| e["said"]["event"] == "metric");
    first.signal();
    let (_, events) = first.end();
    assert!(losses(&events).len() < 400 && ends(&events)[0] == "interrupted", "it was at work all the time");
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
