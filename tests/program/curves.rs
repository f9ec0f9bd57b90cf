//! What a training reports belongs to its result: it is there for who has it from the store, whatever interrupted the run.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::Value;

use super::{
    interrupt::Followed,
    project::{Project, kill},
};

const STEPS: usize = 12;

const SCRIPT: &str = r#"
let data = dataset("chat.jsonl").tokens(#{ num_calibration_samples: 8, max_seq_length: 32, text_column: "messages" });
let table = report("trained");
for rate in [0.001, 0.0001] {
    let trained = model("tiny").train("sft", #{ data: data, max_steps: 12, batch_size: 2, checkpoint_every: 4, learning_rate: rate });
    table.row(trained.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ rate: rate });
}
table.write();
"#;

const RUN: [&str; 6] = ["run", "trained.rhai", "--jobs", "1", "--threads", "1"];

fn project() -> Project {
    let project = Project::new();
    project.write("trained.rhai", SCRIPT);
    let turn = |i: usize| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "where is fox {i}?"}}, {{"role": "assistant", "content": "the fox sat by the river {i}."}}]}}"#
        )
    };
    project.write("chat.jsonl", &(0..60).map(|i| turn(i) + "\n").collect::<String>());
    let tokenizer: Value = serde_json::from_str(&project.read("tiny/tokenizer_config.json")).unwrap();
    if tokenizer["chat_template"].is_null() {
        let mut tokenizer = tokenizer;
        tokenizer["chat_template"] = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}".into();
        project.write("tiny/tokenizer_config.json", &tokenizer.to_string());
    }
    project
}

/// The trainings by their learning rate: folder and record.
fn trainings(project: &Project) -> BTreeMap<String, (PathBuf, Value)> {
    let stored = project.stored("results", "train", "sft").into_iter();
    let named = |(path, record): (PathBuf, Value)| {
        (record["identity"]["params"]["parameters"]["learning_rate"].to_string(), (path, record))
    };
    stored.map(named).collect()
}

/// The first training: its folder, and the digits that name it.
fn first(project: &Project) -> (PathBuf, String) {
    let path = trainings(project).remove("0.001").unwrap().0;
    let digits = path.file_name().unwrap().to_str().unwrap()[..12].to_owned();
    (path, digits)
}

/// The numbers of a CSV by column, then step.
fn columns(text: &str) -> BTreeMap<String, BTreeMap<u64, f64>> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    assert_eq!(names[0], "step");
    let mut found: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        for (name, cell) in names.iter().zip(&cells).skip(1).filter(|(_, cell)| !cell.is_empty()) {
            found.entry((*name).to_owned()).or_default().insert(cells[0].parse().unwrap(), cell.parse().unwrap());
        }
    }
    found
}

/// What a node told while it worked, of the events of all runs.
fn told(project: &Project, key: &str) -> BTreeMap<String, BTreeMap<u64, f64>> {
    let mut found: BTreeMap<String, BTreeMap<u64, f64>> = BTreeMap::new();
    for run in fs::read_dir(project.path().join("results/runs")).unwrap() {
        let text = fs::read_to_string(run.unwrap().path().join("events.jsonl")).unwrap();
        for event in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let said = &event["said"];
            if said["event"] == "metric" && event["key"].as_str().is_some_and(|found| found.starts_with(key)) {
                let values = found.entry(said["name"].as_str().unwrap().to_owned()).or_default();
                values.insert(said["step"].as_u64().unwrap(), said["value"].as_f64().unwrap());
            }
        }
    }
    found
}

#[test]
fn a_stored_training_shows_its_curve() {
    let project = project();
    project.run(&RUN).exits(0);
    let (path, key) = first(&project);
    let told = told(&project, &key);
    assert_eq!(told.keys().collect::<Vec<_>>(), ["gradient_norm", "learning_rate", "loss"]);
    assert!(told.values().all(|values| values.keys().copied().eq(1..=STEPS as u64)));

    // Nothing but the store says it from here on.
    fs::remove_dir_all(project.path().join("results/runs")).unwrap();
    let page = project.read("results/reports/trained/index.html");
    fs::remove_dir_all(project.path().join("results/reports")).unwrap();
    assert!(project.run(&RUN).exits(0).err.contains("2 cached, 0 to run"));
    let shown = project.run(&["show", &key]).exits(0).out;
    assert!(shown.contains(&format!("\ncurve of {STEPS} steps\n  metric ")) && shown.contains("  loss\n"), "{shown}");
    let loss = &told["loss"];
    let least = loss.iter().min_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    let line: Vec<&str> = shown.lines().find(|line| line.starts_with("  loss ")).unwrap().split_whitespace().collect();
    let about = |text: &str, value: f64| (text.parse::<f64>().unwrap() - value).abs() < 1e-3;
    assert!(about(line[1], loss[&1]) && about(line[2], loss[&(STEPS as u64)]) && about(line[3], *least.1), "{line:?}");
    assert_eq!(line[4..7], ["at", "step", &least.0.to_string()]);
    assert!(shown.lines().all(|line| !line.starts_with("  ") || line.chars().count() <= 82 || !line.contains('⠤')));

    // As CSV, to the last bit.
    let text = project.run(&["show", &key, "--csv"]).exits(0).out;
    assert_eq!(columns(&text), told);
    assert_eq!(text, fs::read_to_string(path.join("curve.csv")).unwrap());
    assert_eq!(project.run(&["show", &key, "--csv", "--output", "made/curve.csv"]).exits(0).out, "");
    assert_eq!(project.read("made/curve.csv"), text);
    // As JSON.
    let curve = &project.run(&["show", &key, "--json"]).exits(0).json()["curve"];
    for (name, values) in &told {
        let steps: Vec<u64> = curve[name]["steps"].as_array().unwrap().iter().map(|s| s.as_u64().unwrap()).collect();
        let found: Vec<f64> = curve[name]["values"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
        assert!(steps.iter().eq(values.keys()) && found.iter().eq(values.values()), "{name}: {curve}");
    }
    // In the report, which is made anew of the store.
    let again = project.read("results/reports/trained/index.html");
    let panels =
        |page: &str| page.split("<h2>Curves</h2>").nth(1).unwrap().split("</section>").next().unwrap().to_owned();
    assert_eq!(panels(&again), panels(&page));
    assert_eq!(panels(&page).matches("<figure").count(), 3);
    assert!(panels(&page).contains("learning_rate 0.001)") && panels(&page).contains("learning_rate 0.0001)"));
}

#[test]
fn a_training_shows_what_it_begins_with() {
    let project = project();
    project.run(&RUN).exits(0);
    let (path, key) = first(&project);
    let record: Value = serde_json::from_str(&fs::read_to_string(path.join("record.json")).unwrap()).unwrap();
    let first = &record["facts"]["data"]["first_sequence"];
    assert_eq!((&first["tokens"], &first["shown"]), (&32.into(), &32.into()));
    let pieces = first["pieces"].as_array().unwrap();
    let learned: String = pieces.iter().filter(|p| p["learned"] == true).map(|p| p["text"].as_str().unwrap()).collect();
    let given: String = pieces.iter().filter(|p| p["learned"] == false).map(|p| p["text"].as_str().unwrap()).collect();
    assert!(given.contains("where is fox 0?") && !given.contains("river"), "{first}");
    assert!(learned.contains("the fox sat") && !learned.contains("where is"), "{first}");
    let shown = project.run(&["show", &key]).exits(0).out;
    let (_, text) = shown.split_once("first training sequence, 32 tokens; learned is what stands in ⟦ ⟧\n").unwrap();
    let text = text.split("\n\n").next().unwrap();
    assert!(text.contains('⟦') && text.replace(['⟦', '⟧'], "").contains("the fox sat"), "{shown}");
    assert!(!shown.contains("first_sequence"), "{shown}");
}

#[test]
fn a_training_that_is_killed_between_checkpoints_keeps_every_step_once() {
    let whole = project();
    whole.run(&RUN).exits(0);
    let artifacts = whole.artifacts("results");
    let curves = artifacts.iter().filter(|(name, _)| name.ends_with("curve.csv"));
    for (_, bytes) in curves.clone() {
        let columns = columns(std::str::from_utf8(bytes).unwrap());
        assert!(columns.len() == 3 && columns.values().all(|values| values.keys().copied().eq(1..=STEPS as u64)));
    }
    assert_eq!(curves.count(), 2);

    let project = project();
    let mut last = 0;
    // Behind the first checkpoint, before the second, and behind the last.
    for step in [6, 7, 11] {
        let mut run = Followed::start(&project, &RUN);
        run.until(|e| e["said"]["event"] == "metric" && e["said"]["step"] == step);
        project.processes().into_iter().for_each(|process| kill(process, Signal::KILL));
        let (_, events) = run.end();
        let steps: Vec<u64> = events.iter().filter_map(|e| e["said"]["step"].as_u64()).collect();
        // A step that was told before is taken again.
        assert!(steps[0] <= last + 1 && (last == 0) == (steps[0] == 1), "{steps:?} behind {last}");
        last = *steps.last().unwrap();
        project.assert_no_process_stays();
    }
    project.run(&RUN).exits(0);
    let found = project.artifacts("results");
    assert!(found.keys().eq(artifacts.keys()));
    for (name, bytes) in &artifacts {
        assert!(found[name] == *bytes, "{} differs", name.display());
    }
}

/// CRC-32C by a table, as the program does not compute it.
fn checksum(bytes: &[u8]) -> u32 {
    let table: Vec<u32> =
        (0..256).map(|i| (0..8).fold(i, |c: u32, _| if c & 1 == 1 { c >> 1 ^ 0x82f6_3b78 } else { c >> 1 })).collect();
    !bytes.iter().fold(!0, |c: u32, byte| table[((c ^ u32::from(*byte)) & 0xff) as usize] ^ c >> 8)
}

/// Data of the records of a TFRecord file, held against their checksums.
fn records(mut file: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let masked = |bytes: &[u8]| ((checksum(bytes) >> 15) | (checksum(bytes) << 17)).wrapping_add(0xa282_ead8);
    while !file.is_empty() {
        let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        assert_eq!(u32::from_le_bytes(file[8..12].try_into().unwrap()), masked(&file[..8]));
        let data = &file[12..12 + length];
        assert_eq!(u32::from_le_bytes(file[12 + length..16 + length].try_into().unwrap()), masked(data));
        found.push(data.to_vec());
        file = &file[16 + length..];
    }
    found
}

/// The fields of a protobuf message: number, and the bytes that it holds.
fn fields(mut message: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut found = BTreeMap::new();
    fn varint(message: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = message[0];
            *message = &message[1..];
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 {
                return value;
            }
        }
    }
    while !message.is_empty() {
        let tag = varint(&mut message);
        let length = match tag & 7 {
            0 => {
                let value = varint(&mut message);
                assert!(found.insert((tag >> 3) as u8, value.to_le_bytes().to_vec()).is_none());
                continue;
            }
            1 => 8,
            2 => varint(&mut message) as usize,
            5 => 4,
            other => panic!("wire type {other}"),
        };
        assert!(found.insert((tag >> 3) as u8, message[..length].to_vec()).is_none());
        message = &message[length..];
    }
    found
}

/// The numbers of an event file by tag and step.
fn events(file: &Path) -> BTreeMap<String, BTreeMap<u64, f32>> {
    let records = records(&fs::read(file).unwrap());
    let version = fields(&records[0]);
    assert_eq!(version[&3], b"brain.Event:2");
    let mut found: BTreeMap<String, BTreeMap<u64, f32>> = BTreeMap::new();
    for record in &records[1..] {
        let event = fields(record);
        assert_eq!(event[&1], 0_f64.to_le_bytes());
        let step = u64::from_le_bytes(event[&2][..].try_into().unwrap());
        let value = fields(&fields(&event[&5])[&1]);
        let number = f32::from_le_bytes(value[&2][..].try_into().unwrap());
        let tag = String::from_utf8(value[&1].clone()).unwrap();
        assert!(found.entry(tag).or_default().insert(step, number).is_none());
    }
    found
}

#[test]
fn tensorboard_reads_the_same_numbers() {
    let project = project();
    project.run(&RUN).exits(0);
    let outcome = project.run(&["show", "last", "--tensorboard", "board"]).exits(0);
    assert_eq!(outcome.out.lines().count(), 2, "{}", outcome.out);
    assert!(outcome.err.contains("tensorboard --logdir board"), "{}", outcome.err);
    // A run that finds everything in the store lists its evaluations alone.
    project.run(&RUN).exits(0);
    let again = project.run(&["show", "last", "--tensorboard", "board"]).exits(0).out;
    let sorted = |out: &str| out.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(sorted(&again), sorted(&outcome.out));
    for (folder, _) in trainings(&project).into_values() {
        let key = folder.file_name().unwrap().to_str().unwrap();
        let name = fs::read_dir(project.path().join("board")).unwrap().map(|e| e.unwrap().path());
        let name = name.into_iter().find(|p| key.starts_with(p.to_str().unwrap().rsplit('-').next().unwrap())).unwrap();
        let file = name.join("events.out.tfevents.0.workbench");
        assert!(outcome.out.contains(file.strip_prefix(project.path()).unwrap().to_str().unwrap()));
        let expected = columns(&fs::read_to_string(folder.join("curve.csv")).unwrap());
        let found = events(&file);
        assert_eq!(found.len(), 3);
        for (name, values) in expected {
            let rounded: BTreeMap<u64, f32> = values.into_iter().map(|(step, value)| (step, value as f32)).collect();
            assert_eq!(found[&name], rounded, "{name}");
        }
        // One node alone: the same bytes.
        let outcome = project.run(&["show", &key[..12], "--tensorboard", "alone", "--json"]).exits(0).json();
        let alone = project.path().join(outcome["files"][0].as_str().unwrap());
        assert_eq!(fs::read(alone).unwrap(), fs::read(file).unwrap());
    }
}

#[test]
fn what_has_no_curve_says_so() {
    let project = project();
    project.run(&RUN).exits(0);
    let (path, key) = first(&project);
    let evaluation = project.stored("results", "evaluate", "perplexity").remove(0).0;
    let evaluation = &evaluation.file_name().unwrap().to_str().unwrap()[..12];
    for more in [&["--csv"][..], &["--tensorboard", "board"]] {
        let outcome = project.run(&[&["show", evaluation], more].concat()).exits(3);
        assert!(outcome.err.contains("has no curve"), "{}", outcome.err);
    }
    assert!(!project.run(&["show", evaluation]).exits(0).out.contains("curve of"));
    assert!(project.run(&["show", evaluation, "--json"]).exits(0).json()["curve"].is_null());
    let several = project.run(&["show", "last", "--csv"]).exits(2).err;
    assert!(several.contains("several nodes of the run have a curve") && several.contains(&key[..8]), "{several}");
    assert!(project.run(&["show", &key, "--csv", "--json"]).exits(2).err.contains("leave one out"));
    project.run(&["show", "--csv"]).exits(2);
    project.run(&["show", &key, "--output", "x.csv"]).exits(2);

    // One digit that somebody changed.
    let file = path.join("curve.csv");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("1,", "7,", 1)).unwrap();
    let refused = project.run(&["show", &key, "--csv"]).exits(3).err;
    let refused = refused.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(refused.contains("is damaged") && refused.contains("does not hold what was written"), "{refused}");
    fs::remove_file(&file).unwrap();
    assert!(project.run(&["show", &key]).exits(3).err.contains("curve.csv"));

    // A result of a version that kept no curves is as good as ever.
    let manifest = path.join("manifest.json");
    let mut listed: Value = serde_json::from_str(&fs::read_to_string(&manifest).unwrap()).unwrap();
    assert!(listed["files"].as_object_mut().unwrap().remove("curve.csv").is_some());
    fs::write(&manifest, listed.to_string()).unwrap();
    assert!(!project.run(&["show", &key]).exits(0).out.contains("curve of"));
    assert!(project.run(&["show", &key, "--csv"]).exits(3).err.contains("has no curve"));
    fs::remove_dir_all(project.path().join("results/reports")).unwrap();
    assert!(project.run(&RUN).exits(0).err.contains("2 cached, 0 to run"));
    let page = project.read("results/reports/trained/index.html");
    assert_eq!(page.split("<h2>Curves</h2>").nth(1).unwrap().matches("<path class=\"line ").count(), 3);
}
