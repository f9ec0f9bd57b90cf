//! Files that change while a run goes on: nothing is stored under a key that stands for something else.

use std::{
    fs,
    io::{BufRead, BufReader},
    process::Stdio,
};

use super::project::{Project, W8};

const SCRIPT: &str = r#"
let base = model("tiny");
let table = report("changed");
for length in 16..28 {
    let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: length, blocks: 24 })];
    table.row(base.quantize("rtn", #{ scheme: W8, targets: `*.${length % 2}.*` }).evaluate(suite), #{ length: length });
}
table.write();
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("changed.rhai", &SCRIPT.replace("scheme: W8", &format!("scheme: {W8}")));
    project
}

/// What a task file says is among the parameters, and the file is read again where it is scored.
#[test]
fn a_task_file_that_says_something_else_is_refused() {
    let quiz = r#"
name = "quiz"
summary = "SUMMARY"
kind = "choice"
data = "quiz.jsonl"
prompt = "PROMPT {question}"
choices = ["bread", "river"]
answer = "answer"
"#;
    let script = r#"
let base = model("tiny");
let table = report("changed");
for bits in [8, 4] {
    let scheme = #{ weights: #{ num_bits: bits, type: "int", symmetric: true, strategy: "channel" } };
    table.row(base.quantize("rtn", #{ scheme: scheme }).evaluate(task("quiz.toml")), #{ bits: bits });
}
table.write();
"#;
    let project = || {
        let project = Project::new();
        project.write("changed.rhai", script);
        project.write("quiz.toml", quiz);
        let item = |i: usize| format!("{{\"question\": \"What is {i}?\", \"answer\": {}}}\n", i % 2);
        project.write("quiz.jsonl", &(0..12).map(item).collect::<String>());
        project
    };
    let undisturbed = project();
    undisturbed.run(&ARGUMENTS).exits(0);
    let expected = undisturbed.artifacts("results");
    for (word, instead, harmful) in [("PROMPT", "Question:", true), ("SUMMARY", "For people", false)] {
        let project = project();
        let (code, said) = run_and(&project, || project.write("quiz.toml", &quiz.replace(word, instead)));
        assert_eq!(code, if harmful { 4 } else { 0 }, "{said}");
        assert_eq!(said.contains("quiz.toml` says something else than when the run began"), harmful, "{said}");
        for (stored, bytes) in project.artifacts("results") {
            let same = expected.get(&stored) == Some(&bytes);
            // The summary is for people: it stands in the record and in no key.
            assert!(
                same || !harmful && stored.ends_with("record.json") || !harmful && stored.ends_with("manifest.json")
            );
        }
        project.write("quiz.toml", quiz);
        project.run(&ARGUMENTS).exits(0);
        assert_eq!(project.artifacts("results").len(), expected.len());
    }
}

const ARGUMENTS: [&str; 6] = ["run", "changed.rhai", "--jobs", "1", "--threads", "1"];

/// Runs, and changes something as soon as the first node is done. Returns the exit code and what was said.
fn run_and(project: &Project, change: impl FnOnce()) -> (i32, String) {
    let mut driver = project.command(&ARGUMENTS).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut said, mut change) = (String::new(), Some(change));
    for line in BufReader::new(driver.stderr.take().unwrap()).lines().map_while(Result::ok) {
        if line.contains("done ")
            && let Some(change) = change.take()
        {
            change();
        }
        said.push_str(&line);
        said.push('\n');
    }
    (driver.wait().unwrap().code().unwrap(), said)
}

#[test]
fn what_changes_during_a_run_poisons_nothing() {
    let undisturbed = project();
    undisturbed.run(&ARGUMENTS).exits(0);
    let expected = undisturbed.artifacts("results");
    for name in ["text.txt", "tiny/model.safetensors", "tiny/tokenizer.json", "tiny/chat_template.jinja"] {
        let project = project();
        let path = project.path().join(name);
        let before = fs::read(&path).ok();
        let (code, said) = run_and(&project, || {
            // In place, of the same size and with the same time, as far as there was something.
            let mut bytes = before.clone().unwrap_or_else(|| b"{{ messages }}".to_vec());
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            let modified = fs::metadata(&path).ok().map(|meta| meta.modified().unwrap());
            fs::write(&path, bytes).unwrap();
            if let Some(modified) = modified {
                let file = fs::File::options().write(true).open(&path).unwrap();
                file.set_times(fs::FileTimes::new().set_modified(modified)).unwrap();
            }
        });
        assert_eq!(code, 4, "{name}: {said}");
        let told = if before.is_some() { "changed while the run went on" } else { "appeared while the run went on" };
        assert!(said.contains(told), "{name}: {said}");
        for (stored, bytes) in project.artifacts("results") {
            assert!(expected.get(&stored) == Some(&bytes), "{name}: {} is stored under a wrong key", stored.display());
        }
        match &before {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        project.run(&ARGUMENTS).exits(0);
        assert!(project.artifacts("results") == expected, "{name}");
    }
}
