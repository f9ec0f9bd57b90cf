//! Data that a model writes: what it depends on, that it is read as a file would be, and that an interruption costs nothing.

use std::{fs, process::Stdio, thread, time::Duration};

use rustix::process::Signal;
use serde_json::Value;

use super::project::{Project, Random, W8, kill};

/// The rows of the only result of `generate`.
#[track_caller]
fn rows(project: &Project, results: &str, method: &str) -> Vec<Value> {
    let [(folder, _)] = &project.stored(results, "generate", method)[..] else { panic!("one result of {method}") };
    let text = fs::read_to_string(folder.join("data/data.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn bytes(project: &Project, results: &str, method: &str) -> Vec<u8> {
    let [(folder, _)] = &project.stored(results, "generate", method)[..] else { panic!("one result of {method}") };
    fs::read(folder.join("data/data.jsonl")).unwrap()
}

/// Conversations of one to three turns, some of which end with an answer, each with a number.
fn conversations(project: &Project, count: usize) {
    let mut random = Random(4);
    let words = ["who", "keeps", "the", "fox", "of", "Mira", "old", "river", "bread", "house"];
    let mut say = |most: usize| {
        (0..1 + random.below(most)).map(|_| words[random.below(words.len())]).collect::<Vec<_>>().join(" ")
    };
    let mut text = String::new();
    for id in 0..count {
        let mut turns = vec![serde_json::json!({ "role": "user", "content": say(20) })];
        if id % 3 > 0 {
            turns.push(serde_json::json!({ "role": "assistant", "content": say(4) }));
        }
        if id % 3 > 1 {
            turns.push(serde_json::json!({ "role": "user", "content": say(9) }));
        }
        text.push_str(&serde_json::json!({ "id": id, "messages": turns }).to_string());
        text.push('\n');
    }
    project.write("prompts.jsonl", &text);
}

const ANSWERS: &str = r#"
let answers = model("tiny").generate(#{
    prompts: dataset("prompts.jsonl"), n: param("n", 2), max_tokens: 12, temperature: param("temperature", 0.9), top_p: 0.95, top_k: 50,
    seed: param("seed", 3), batch_size: param("batch", 4),
});
answers.save_as("saved/answers");
"#;

fn project() -> Project {
    let project = Project::new();
    conversations(&project, 10);
    project.write("answers.rhai", ANSWERS);
    project
}

fn run(project: &Project, results: &str, more: &[&str]) {
    let arguments = ["run", "answers.rhai", "--results", results];
    project.run(&[&arguments[..], more].concat()).exits(0);
}

#[test]
fn answers_keep_their_prompts_and_say_how_they_ended() {
    let project = project();
    let told = project.run(&["run", "answers.rhai"]).exits(0);
    assert!(told.err.contains("saved: saved/answers"), "{}", told.err);
    let found = rows(&project, "results", "answers");
    assert_eq!(found.len(), 20);
    for (index, row) in found.iter().enumerate() {
        let turns = row["messages"].as_array().unwrap();
        let asked = [1, 1, 3][index / 2 % 3];
        assert_eq!((row["id"].as_u64(), turns.len()), (Some(index as u64 / 2), asked + 1), "{row}");
        assert_eq!(turns[asked]["role"], "assistant");
        let tokens = row["completion_tokens"].as_u64().unwrap();
        match row["finish_reason"].as_str().unwrap() {
            "length" => assert_eq!(tokens, 12),
            reason => assert!(reason == "stop" && tokens <= 12, "{row}"),
        }
        assert!(row["prompt_tokens"].as_u64().unwrap() > 4);
    }
    assert!(found[0]["messages"] != found[1]["messages"], "both answers are the same");
    let (folder, record) = project.stored("results", "generate", "answers").remove(0);
    assert_eq!(record["values"]["rows"], 20);
    let tokens: u64 = found.iter().map(|row| row["completion_tokens"].as_u64().unwrap()).sum();
    assert_eq!(record["values"]["completion_tokens"], tokens);
    let stopped = found.iter().filter(|row| row["finish_reason"] == "stop").count();
    assert_eq!(
        (&record["values"]["stopped"], &record["facts"]["rows"]["length"]),
        (&stopped.into(), &(20 - stopped).into())
    );
    for name in ["data.jsonl", "record.json", "recipe.json", "manifest.json"] {
        assert!(project.path().join("saved/answers").join(name).is_file(), "{name}");
    }
    assert_eq!(
        fs::read(project.path().join("saved/answers/data.jsonl")).unwrap(),
        bytes(&project, "results", "answers")
    );
    // A saved copy that somebody changed is not replaced.
    project.write("saved/answers/data.jsonl", "{}\n");
    let told = project.run(&["run", "answers.rhai", "--set", "seed=4"]);
    assert!([2, 3].contains(&told.code) && told.err.contains("data.jsonl` has 3 bytes"), "{}", told.err);
    fs::remove_dir_all(project.path().join("saved")).unwrap();

    let shown = project.run(&["show", &folder.file_name().unwrap().to_str().unwrap()[..12]]).exits(0).out;
    assert!(shown.contains("mean_completion_tokens") && shown.contains("read_as_the_same_tokens"), "{shown}");
    let plan = project.run(&["plan", "answers.rhai", "--set", "seed=5", "--json"]).exits(0).json();
    let node = &plan["nodes"][0];
    assert_eq!((&node["kind"], &node["note"]), (&"generate".into(), &"20 texts".into()));
    assert!(node["label"].as_str().unwrap().contains("answers to prompts.jsonl by tiny"), "{node}");
}

/// Whatever is written beside a text, with how many threads, it is the same: and more answers begin as fewer do.
#[test]
fn an_answer_depends_on_seed_prompt_and_number_alone() {
    let project = project();
    run(&project, "a", &["--threads", "1"]);
    let expected = bytes(&project, "a", "answers");
    for (results, more) in [
        ("b", &["--set", "batch=1"][..]),
        ("c", &["--set", "batch=7", "--threads", "2"]),
        ("d", &["--set", "batch=64", "--threads", "3"]),
    ] {
        fs::remove_dir_all(project.path().join("saved")).unwrap();
        run(&project, results, more);
        assert!(bytes(&project, results, "answers") == expected, "{more:?}");
    }
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    run(&project, "e", &["--set", "n=1"]);
    let (two, one) = (rows(&project, "a", "answers"), rows(&project, "e", "answers"));
    assert!(one.iter().enumerate().all(|(index, row)| *row == two[2 * index]));
    // Fewer prompts give the same answers to those that are left.
    let text = project.read("prompts.jsonl");
    project.write("prompts.jsonl", &text.lines().take(3).map(|line| format!("{line}\n")).collect::<String>());
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    run(&project, "f", &[]);
    assert_eq!(rows(&project, "f", "answers"), two[..6]);
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    run(&project, "g", &["--set", "seed=4"]);
    assert_ne!(rows(&project, "g", "answers"), two[..6]);
}

const USED: &str = r#"
let base = model("tiny");
let texts = base.generate(#{ starts: #{ count: 24 }, max_tokens: 40, temperature: 1.0 });
let answers = base.generate(#{ prompts: dataset("prompts.jsonl"), max_tokens: 8, seed: 1 });
let tokens = SOURCE.tokens(#{ max_seq_length: 24, num_calibration_samples: 8 });
let chats = CHATS.tokens(#{ max_seq_length: 96, concatenate: false COLUMN });
let options = #{ text: SOURCE, max_seq_length: 24, blocks: 4 };
let table = report("used");
table.baseline(base.evaluate([perplexity(options), kl(base, options)]), #{ model: "base" });
let trained = base.train("sft", #{ data: chats, max_steps: 3, batch_size: 2, learning_rate: 0.001 });
table.row(trained.evaluate(perplexity(options)), #{ model: "sft" });
table.row(base.quantize("gptq", #{ scheme: "W4A16", group_size: 16, calibration: tokens }).evaluate(perplexity(options)), #{ model: "gptq" });
table.row(base.transform("smoothquant", #{ calibration: tokens }).evaluate(perplexity(options)), #{ model: "smooth" });
table.write();
SAVE
"#;

/// Every consumer reads what a node made as it reads the same file of a user's, to the same numbers.
#[test]
fn what_was_written_is_read_like_a_file() {
    let project = project();
    let script = |source: &str, chats: &str, column: &str, save: &str| {
        USED.replace("SOURCE", source).replace("CHATS", chats).replace("COLUMN", column).replace("SAVE", save)
    };
    project.write(
        "made.rhai",
        &script("texts", "answers", "", "texts.save_as(\"out/texts\"); answers.save_as(\"out/answers\");"),
    );
    let files = script(r#"dataset("texts.jsonl")"#, r#"dataset("answers.jsonl")"#, r#", text_column: "messages""#, "");
    project.write("files.rhai", &files);
    let made = project.run(&["run", "made.rhai", "--results", "made"]).exits(0);
    assert!(made.err.contains("measured on `texts from the vocabulary by tiny`"), "{}", made.err);
    for name in ["texts", "answers"] {
        project.write(&format!("{name}.jsonl"), &project.read(&format!("out/{name}/data.jsonl")));
    }
    let read = project.run(&["run", "files.rhai", "--results", "read"]).exits(0);
    let numbers = |text: &str| text.lines().filter(|line| line.contains("base") || line.contains("sft")).count();
    assert!(numbers(&made.out) >= 2 && numbers(&read.out) >= 2, "{}\n{}", made.out, read.out);
    for (kind, method) in [("quantize", "gptq"), ("transform", "smoothquant"), ("train", "sft"), ("evaluate", "kl")] {
        let values = |results: &str| {
            let (folder, record) = project.stored(results, kind, method).remove(0);
            let shards = fs::read_dir(folder.join("model")).into_iter().flatten().map(|e| e.unwrap().file_name());
            let mut shards: Vec<_> = shards.filter(|name| name.to_str().unwrap().ends_with(".safetensors")).collect();
            shards.sort();
            (record["values"].clone(), shards)
        };
        assert_eq!(values("made"), values("read"), "{method}");
    }
    // The recipe of what was trained tells how its data came about.
    let (folder, record) = project.stored("made", "train", "sft").remove(0);
    let recipe: Value = serde_json::from_str(&fs::read_to_string(folder.join("model/recipe.json")).unwrap()).unwrap();
    let stages = recipe["stages"][0]["made_data"]["data"]["stages"].as_array().unwrap();
    assert_eq!((&stages[0]["kind"], &stages[0]["method"]), (&"generate".into(), &"answers".into()), "{recipe}");
    let key = record["identity"]["data"]["data"]["node"].as_str().unwrap();
    assert_eq!(stages[0]["key"], key);
    // What is learned is the answer.
    let pieces = record["facts"]["data"]["first_sequence"]["pieces"].as_array().unwrap();
    assert!(pieces.len() > 1 && pieces[0]["learned"] == false, "{pieces:?}");

    // The last run needs all of it.
    let garbage = project.run(&["gc", "--results", "made", "--json"]).exits(0).json();
    let items = garbage["items"].as_array().unwrap();
    assert!(items.iter().all(|item| item["what"] != "result"), "{garbage}");
    let again = project.run(&["run", "made.rhai", "--results", "made", "--json"]).exits(0).json();
    assert_eq!(again["summary"]["done"], 0);
    // A row that a disk changed is noticed by whoever counts on it.
    let (folder, _) = project.stored("made", "generate", "answers").remove(0);
    let file = folder.join("data/data.jsonl");
    let mut bytes = fs::read(&file).unwrap();
    bytes[10] ^= 1;
    fs::write(&file, bytes).unwrap();
    let told = project.run(&["run", "made.rhai", "--results", "made"]);
    assert!(told.code != 0 && told.err.contains("damaged"), "{}", told.err);
}

#[test]
fn starts_are_drawn_and_special_tokens_start_nothing() {
    let project = Project::new();
    let script =
        r#"model("tiny").generate(#{ starts: #{ count: 40 }, n: 2, max_tokens: 20, seed: 7 }).save_as("out");"#;
    project.write("starts.rhai", script);
    project.run(&["run", "starts.rhai"]).exits(0);
    let found = rows(&project, "results", "vocabulary");
    let starts: Vec<u64> = found.iter().map(|row| row["start_token"].as_u64().unwrap()).collect();
    assert_eq!(found.len(), 80);
    assert!(starts.chunks(2).all(|pair| pair[0] == pair[1]));
    let tokenizer: Value = serde_json::from_str(&project.read("tiny/tokenizer.json")).unwrap();
    let special: Vec<u64> =
        tokenizer["added_tokens"].as_array().unwrap().iter().map(|token| token["id"].as_u64().unwrap()).collect();
    assert!(special.len() > 1 && starts.iter().all(|start| !special.contains(start)), "{special:?}");
    let mut distinct = starts.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), 40);
    // The first tokens behind a start are the most probable ones, whoever draws.
    project.write(
        "greedy.rhai",
        &script.replace("n: 2, ", "").replace("seed: 7", "seed: 7, temperature: 0").replace("out", "greedy"),
    );
    project.run(&["run", "greedy.rhai", "--results", "greedy-results"]).exits(0);
    let greedy = rows(&project, "greedy-results", "vocabulary");
    let text = |row: &Value| row["text"].as_str().unwrap().to_owned();
    let differ = found.chunks(2).zip(&greedy).filter(|(pair, greedy)| text(&pair[0]) != text(greedy)).count();
    assert!(differ > 30, "{differ}");
    for (pair, greedy) in found.chunks(2).zip(&greedy) {
        let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
        assert!(common(&text(&pair[0]), &text(greedy)) >= 3, "{} {}", text(&pair[0]), text(greedy));
    }
}

#[test]
fn what_cannot_be_written_is_refused() {
    let project = project();
    project.write("empty.jsonl", "");
    project.write("no_answer.jsonl", r#"{"messages": [{"role": "assistant", "content": "x"}]}"#);
    let long = "word ".repeat(400);
    project.write("long.txt", &long);
    for (line, code, message) in [
        (r#"base.generate(#{ max_tokens: 4 })"#, 2, "needs something to begin with"),
        (r#"base.generate(#{ prompts: data, starts: #{}, max_tokens: 4 })"#, 2, "two things to begin with"),
        (r#"base.generate(#{ prompts: data.tokens(#{}), max_tokens: 4 })"#, 2, "read as they are"),
        (r#"base.generate(#{ prompts: data, max_tokens: 256 })"#, 2, "do not fit into the 256 positions"),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, temperature: 0, n: 3 })"#, 2, "all 3 texts"),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, top_p: 0 })"#, 2, "`top_p` of `generate` must be"),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, n: 0 })"#, 2, "`n` of `generate` must be"),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, temprature: 1 })"#, 2, "did you mean `temperature`?"),
        (r#"base.generate(#{ starts: #{ min_greedy_tokens: 9 }, max_tokens: 4 })"#, 2, "between 9 and 5"),
        (r#"base.generate(#{ starts: #{}, limit: 4, max_tokens: 4 })"#, 2, "`limit` is about prompts"),
        (r#"base.generate(#{ prompts: dataset("empty.jsonl"), max_tokens: 4 })"#, 2, "hold no prompt"),
        (
            r#"base.generate(#{ prompts: dataset("no_answer.jsonl"), max_tokens: 4, text_column: "messages" })"#,
            2,
            "no turn that could be answered",
        ),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, text_column: "q" })"#, 2, "no column `q`"),
        (r#"base.generate(#{ prompts: data, max_tokens: 4, chat_template: false })"#, 2, "it is a conversation"),
        (r#"architecture("tiny").generate(#{ prompts: data, max_tokens: 4 })"#, 2, "has no weights"),
        (r#"base.generate(#{ prompts: dataset("long.txt"), max_tokens: 4 })"#, 1, "none of 1 prompts leaves room"),
    ] {
        let script =
            format!("let base = model(\"tiny\");\nlet data = dataset(\"prompts.jsonl\");\n{line}.save_as(\"o\");\n");
        project.write("wrong.rhai", &script);
        let outcome = project.run(&["run", "wrong.rhai"]);
        let told = outcome.err.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(told.contains(message), "{line}\n{}", outcome.err);
        assert!(
            if code == 2 { outcome.code == 2 } else { outcome.code != 0 },
            "{line}: {}\n{}",
            outcome.code,
            outcome.err
        );
        assert!(!project.path().join("o").exists());
    }
    let told = project.run(&["run", "answers.rhai", "--set", "temperature=0.0", "--set", "n=1"]).exits(0);
    assert!(told.err.contains("`top_p` and `top_k` say nothing"), "{}", told.err);
    project.write("file.rhai", "dataset(\"prompts.jsonl\").save_as(\"o\");\n");
    assert!(project.run(&["run", "file.rhai"]).exits(2).err.contains("nothing to save"));
    // Some that do not fit are left out, and counted.
    project.write("mixed.txt", &format!("a fox\n\n{long}\n\nthe river\n"));
    project.write("mixed.rhai", r#"model("tiny").generate(#{ prompts: dataset("mixed.txt"), max_tokens: 4, chat_template: false, seed: 2 }).save_as("o");"#);
    let told = project.run(&["run", "mixed.rhai", "--results", "mixed"]).exits(0);
    assert!(told.err.contains("1 of 3 prompts leave no room for 4 tokens"), "{}", told.err);
    let found = rows(&project, "mixed", "answers");
    assert_eq!(found.len(), 2);
    assert!(found[1]["text"].as_str().unwrap().starts_with("the river"), "{found:?}");
    assert_eq!(project.stored("mixed", "generate", "answers")[0].1["facts"]["beginnings"]["left_out"], 1);
}

/// A scale of all that stands side by side would make a text depend on its neighbours.
#[test]
fn a_model_that_rounds_by_the_whole_tensor_writes_one_text_at_a_time() {
    let project = project();
    let tensor = r#"#{ weights: W8.weights, input_activations: #{ num_bits: 8, type: "int", symmetric: true, strategy: "tensor", dynamic: true } }"#;
    let tensor = tensor.replace("W8.weights", r#"#{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" }"#);
    let script =
        ANSWERS.replace("model(\"tiny\")", &format!("model(\"tiny\").quantize(\"rtn\", #{{ scheme: {tensor} }})"));
    project.write("answers.rhai", &script);
    run(&project, "a", &["--set", "batch=1"]);
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    run(&project, "b", &["--set", "batch=8"]);
    assert!(bytes(&project, "a", "answers") == bytes(&project, "b", "answers"));
    // One that rounds token by token writes many, the same too.
    let token = ANSWERS.replace("model(\"tiny\")", "model(\"tiny\").quantize(\"rtn\", #{ scheme: \"INT8\" })");
    project.write("answers.rhai", &token);
    for (results, batch) in [("c", "batch=1"), ("d", "batch=8")] {
        fs::remove_dir_all(project.path().join("saved")).unwrap();
        run(&project, results, &["--set", batch]);
    }
    assert!(bytes(&project, "c", "answers") == bytes(&project, "d", "answers"));
    let weights_only =
        ANSWERS.replace("model(\"tiny\")", &format!("model(\"tiny\").quantize(\"rtn\", #{{ scheme: {W8} }})"));
    project.write("answers.rhai", &weights_only);
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    run(&project, "e", &[]);
    assert_eq!(rows(&project, "e", "answers").len(), 20);
}

/// Killed at any moment and started again it ends with the same bytes, and goes on from what was noted.
#[test]
fn a_killed_generation_goes_on_with_the_same_bytes() {
    let project = Project::new();
    conversations(&project, 60);
    project.write_model("larger", 128, 4);
    project.write("answers.rhai", &ANSWERS.replace("tiny", "larger").replace("max_tokens: 12", "max_tokens: 60"));
    let arguments = ["run", "answers.rhai", "--threads", "1", "--results"];
    let began = std::time::Instant::now();
    project.run(&[&arguments[..], &["undisturbed"]].concat()).exits(0);
    let duration = began.elapsed();
    let expected = project.artifacts("undisturbed");
    fs::remove_dir_all(project.path().join("saved")).unwrap();
    let mut random = Random(9);
    let (mut kills, mut noted) = (0, 0);
    let note = |project: &Project| {
        let scratch = project.path().join("killed/store/v1/scratch");
        let keys = fs::read_dir(scratch).into_iter().flatten().map(|entry| entry.unwrap().path());
        keys.filter_map(|key| fs::metadata(key.join("work/texts.notes")).ok()).map(|meta| meta.len()).sum::<u64>()
    };
    let mut longest = 0;
    loop {
        let mut command = project.command(&[&arguments[..], &["killed"]].concat());
        let mut driver = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        thread::sleep(Duration::from_millis(150) + duration.mul_f64(0.35 * random.unit()));
        if driver.try_wait().unwrap().is_some_and(|status| status.success()) {
            break;
        }
        let victims = if kills % 2 == 0 { vec![driver.id() as i32] } else { project.processes() };
        victims.into_iter().for_each(|process| kill(process, Signal::KILL));
        kill(driver.id() as i32, Signal::KILL);
        driver.wait().unwrap();
        project.assert_no_process_stays();
        kills += 1;
        let now = note(&project);
        let stored = !project.stored("killed", "generate", "answers").is_empty();
        assert!(stored || now >= longest, "notes were lost: {now} of {longest}");
        noted += usize::from(now > longest);
        longest = now;
        assert!(kills < 60, "it does not go on: {longest} bytes noted");
    }
    assert!(project.artifacts("killed") == expected, "the bytes differ");
    assert!(kills > 2 && noted > 1, "{kills} kills, {noted} of them found more than the one before");
    project.assert_no_process_stays();
}
