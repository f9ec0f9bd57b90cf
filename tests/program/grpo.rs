//! Training on what a model writes: rewards rise, and whatever interrupts it ends with the same bytes.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use workbench_model::Checkpoint;

use super::{
    interrupt::Followed,
    project::{Outcome, Project, csv, kill, sources},
};

const REWARDS: &str = r#"
// The share of vowels, and what the row says of it.
fn vowels(prompt, completion, row) {
    let found = 0;
    for letter in completion.chars() {
        if "aeiou".contains(letter) { found += 1; }
    }
    if completion.len == 0 { 0.0 } else { row.worth * found / completion.len }
}

fn short(prompt, completion, row) {
    if completion.len < 12 { 1 } else { 0 }
}

fn words(prompt, completion, row) {
    completion.split()
}

fn deep(prompt, completion, row) {
    row.nowhere
}
"#;

const ANSWERS: &str = r#"
name = "answers"
kind = "generate"
data = "answers.jsonl"
prompt = "{question}"
answer = "replies"
max_new_tokens = 8
stop = ["."]
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("rewards.rhai", REWARDS);
    project.write("answers.toml", ANSWERS);
    project.write("answers.jsonl", "{\"question\": \"Who?\", \"replies\": [\"the fox\"]}\n");
    let prompts = ["the fox ran", "over a hill", "and sang to", "old Mira who", "baked bread in"];
    let row = |prompt: &&str| json!({ "text": prompt, "worth": 1.0, "replies": ["a", "the"] }).to_string() + "\n";
    project.write("prompts.jsonl", &prompts.iter().map(row).collect::<String>());
    project
}

/// A script that measures what some trainings make.
fn script(trainings: &[&str]) -> String {
    let row = |(index, options): (usize, &&str)| {
        format!(
            "table.row(base.train(\"grpo\", #{{ prompts: prompts, {options} }}).evaluate(task), #{{ model: {index} }});\n"
        )
    };
    let rows: String = trainings.iter().enumerate().map(row).collect();
    format!(
        r#"
let base = model("tiny");
let prompts = dataset("prompts.jsonl");
let task = perplexity(#{{ text: dataset("text.txt"), max_seq_length: 16, blocks: 1, add_bos: false }});
let vowels = reward("rewards.rhai", "vowels");
let short = reward("rewards.rhai", "short");
let table = report("grpo");
{rows}table.write();
"#
    )
}

fn run(project: &Project, trainings: &[&str]) -> Outcome {
    project.write("grpo.rhai", &script(trainings));
    project.run(&["run", "grpo.rhai"])
}

/// The one training, its record and its curve by column.
fn trained(project: &Project) -> (PathBuf, Value, BTreeMap<String, Vec<f64>>) {
    let mut stored = project.stored("results", "train", "grpo");
    assert_eq!(stored.len(), 1);
    let (folder, record) = stored.remove(0);
    let mut columns: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for row in csv(&fs::read_to_string(folder.join("curve.csv")).unwrap()) {
        for (name, cell) in row.into_iter().filter(|(_, cell)| !cell.is_empty()) {
            columns.entry(name).or_default().push(cell.parse().unwrap());
        }
    }
    (folder, record, columns)
}

const SETTINGS: &str = "num_generations: 8, max_completion_length: 12, prompts_per_step: 4, learning_rate: 0.01, \
                        schedule: \"constant\"";

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The demo's model: a random one has no text to begin with.
#[test]
fn rewards_rise_in_full_precision_and_on_grids() {
    const STEPS: usize = 25;
    for scheme in ["", "scheme: \"W4A16\","] {
        let project = project();
        fs::create_dir(project.path().join("small")).unwrap();
        for entry in fs::read_dir(sources().join("experiments/demo/model")).unwrap().map(|entry| entry.unwrap().path())
        {
            fs::copy(&entry, project.path().join("small").join(entry.file_name().unwrap())).unwrap();
        }
        let options = format!(
            "{scheme} rewards: [vowels], num_generations: 8, max_completion_length: 12, prompts_per_step: 4, batch_size: 32, \
             learning_rate: 0.001, schedule: \"constant\", max_steps: {STEPS}"
        );
        project.write("grpo.rhai", &script(&[&options]).replace("model(\"tiny\")", "model(\"small\")"));
        project.run(&["run", "grpo.rhai"]).exits(0);
        let (folder, record, curve) = trained(&project);
        let rewards = &curve["reward"];
        assert_eq!(rewards.len(), STEPS);
        let (before, after) = (mean(&rewards[..4]), mean(&rewards[STEPS - 4..]));
        assert!(after > before + 0.05, "{scheme}: {before} before, {after} after");
        assert_eq!(&curve["reward/vowels"], rewards);
        assert!(curve["largest_sampling_gap"].iter().all(|gap| *gap < 1e-3), "{scheme}: {curve:?}");
        for name in [
            "reward_std",
            "equal_groups",
            "completion_tokens",
            "truncated",
            "empty",
            "entropy_estimate",
            "sampling_gap",
        ] {
            assert_eq!(curve[name].len(), STEPS, "{name}");
        }
        assert!(!curve.contains_key("kl") && !curve.contains_key("clipped"));
        let told = &record["facts"]["plugin"];
        assert_eq!((&told["steps"], &told["prompts"]), (&json!(STEPS), &json!(5)));
        assert_eq!(record["facts"]["data"]["prompts"], 5);
        let opened = Checkpoint::open(&folder.join("model")).unwrap();
        assert_eq!(opened.quantization().is_some(), !scheme.is_empty());
        if scheme.is_empty() {
            assert!(!curve.contains_key("codes_changed") && told["codes"].is_null());
        } else {
            let linears = opened.config().linears();
            let all: usize = linears.iter().map(|linear| linear.in_features * linear.out_features).sum();
            assert_eq!(told["codes"]["all"], all);
            let changed = &curve["codes_changed"];
            assert_eq!(told["codes"]["changed"].as_f64(), changed.last().copied());
            assert!(changed.len() == STEPS && *changed.last().unwrap() > all as f64 / 100.0, "{changed:?}");
        }
    }
}

/// A task judges the answers of rows, and texts end completions; several rewards are weighed, and a reference holds the policy.
#[test]
fn tasks_reward_and_rewards_are_weighed() {
    let project = project();
    let options = format!(
        "rewards: [task(\"answers.toml\"), short], reward_weights: [2.0, 0.5], {SETTINGS}, max_steps: 3, num_iterations: 2, beta: 0.1"
    );
    run(&project, &[&options]).exits(0);
    let (_, record, curve) = trained(&project);
    // Two steps on what was written first, one on what was written then.
    assert_eq!((curve["loss"].len(), curve["reward"].len(), curve["kl"].len(), curve["clipped"].len()), (3, 2, 3, 3));
    assert!(curve["kl"][1] > curve["kl"][0] - 1e-9 && curve["kl"][0].abs() < 1e-6, "{:?}", curve["kl"]);
    for (at, reward) in curve["reward"].iter().enumerate() {
        let (answers, short) = (curve["reward/answers"][at], curve["reward/short"][at]);
        assert!((reward - 2.0 * answers - 0.5 * short).abs() < 1e-9, "{reward} of {answers} and {short}");
    }
    let named = &record["identity"]["params"]["rewards"];
    assert_eq!(
        (&named[0]["answer"], &named[0]["match"], &named[0]["stop"]),
        (&json!("replies"), &json!("exact"), &json!(["."]))
    );
    assert_eq!((&named[1]["function"], &named[1]["source"]), (&json!("short"), &json!(REWARDS)));
}

#[test]
fn whatever_kills_it_ends_with_the_same_bytes() {
    let options = format!(
        "scheme: \"W4A16\", group_size: 16, rewards: [vowels], {SETTINGS}, max_steps: 12, checkpoint_every: 2, num_iterations: 2"
    );
    let arguments = ["run", "grpo.rhai", "--jobs", "1", "--threads", "1"];
    let undisturbed = project();
    undisturbed.write("grpo.rhai", &script(&[&options]));
    undisturbed.run(&arguments).exits(0);
    let project = project();
    project.write("grpo.rhai", &script(&[&options]));
    let mut last = 0;
    for step in [3, 6, 9] {
        let mut run = Followed::start(&project, &arguments);
        run.until(|e| e["said"]["event"] == "metric" && e["said"]["name"] == "loss" && e["said"]["step"] == step);
        project.processes().into_iter().for_each(|process| kill(process, Signal::KILL));
        let (_, events) = run.end();
        let losses = events.iter().filter(|e| e["said"]["name"] == "loss");
        let steps: Vec<u64> = losses.filter_map(|e| e["said"]["step"].as_u64()).collect();
        // It goes on where all that was written is learned.
        assert!(steps[0] % 2 == 1 && steps[0] <= last + 1 && (last == 0) == (steps[0] == 1), "{steps:?} behind {last}");
        last = *steps.last().unwrap();
    }
    project.run(&arguments).exits(0);
    let (expected, found) = (undisturbed.artifacts("results"), project.artifacts("results"));
    assert!(expected.keys().any(|name| name.ends_with("curve.csv")));
    assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<&PathBuf>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{} differs", Path::display(name));
    }
}

#[test]
fn what_cannot_be_trained_is_told() {
    let project = project();
    project.write("long.jsonl", &format!("{{\"text\": \"{}\", \"worth\": 1}}\n", "the fox ran ".repeat(200)));
    project.write("bare.jsonl", "{\"text\": \"the fox\", \"worth\": 1}\n{\"text\": \"a hill\", \"worth\": 1}\n");
    project.write("choice.toml", "name = \"c\"\nkind = \"choice\"\ndata = \"c.jsonl\"\nprompt = \"{q}\"\nchoices = [\"a\", \"b\"]\nanswer = \"a\"\n");
    project.write("c.jsonl", "{\"q\": \"x\", \"a\": 0}\n");
    for (options, parts) in [
        ("max_steps: 1", &["`grpo` needs rewards", "reward(\"file.rhai\""][..]),
        ("rewards: [vowels], data: prompts", &["learns from what the model writes, and reads no data"]),
        ("rewards: [vowels, reward(\"rewards.rhai\", \"vowels\")]", &["two rewards are called `vowels`"]),
        ("rewards: [task(\"choice.toml\")]", &["a task of kind `choice`", "\"generate\""]),
        ("rewards: [1]", &["must be a reward"]),
        (
            "rewards: [reward(\"rewards.rhai\", \"vowel\")]",
            &["has no function `vowel`", "fn vowel(prompt, completion, row)"],
        ),
        ("rewards: [reward(\"text.txt\", \"f\")]", &["is no script"]),
        ("rewards: [vowels], ignore: [\"*\"]", &["needs a scheme"]),
        ("rewards: [vowels], num_generations: 1", &["num_generations"]),
        ("rewards: [vowels], epsilon: 0.1", &["`epsilon` is about ratios"]),
        (
            "rewards: [vowels], reward_weights: [1.0, 2.0], max_completion_length: 8, max_steps: 1",
            &["`reward_weights` are 2, and there are 1"],
        ),
        (
            "rewards: [reward(\"rewards.rhai\", \"words\")], max_steps: 1",
            &["the reward `words`", "no finite number", "prompt 0"],
        ),
        ("rewards: [reward(\"rewards.rhai\", \"deep\")], max_steps: 1", &["the reward `deep`", "nowhere"]),
        ("rewards: [vowels], prompts: dataset(\"long.jsonl\"), max_steps: 1", &["no prompt fits into 256 tokens"]),
        ("rewards: [vowels], max_completion_length: 256, max_steps: 1", &["none of 5 prompts fits into 256 positions"]),
        (
            "rewards: [task(\"answers.toml\")], prompts: dataset(\"bare.jsonl\"), max_steps: 1",
            &["the reward `answers`", "no field `replies`", "prompt 0"],
        ),
    ] {
        let text = script(&[options]);
        // The one that the case brings takes the place of the usual one.
        let text = if options.contains("prompts:") { text.replace("prompts: prompts, ", "") } else { text };
        project.write("grpo.rhai", &text);
        let outcome = project.run(&["run", "grpo.rhai"]);
        assert!(outcome.code != 0, "{options}: {}", outcome.err);
        for part in parts {
            assert!(outcome.err.contains(part), "{options}: `{part}` is not in\n{}", outcome.err);
        }
    }
    project.write(
        "sft.rhai",
        "let p = dataset(\"text.txt\"); let m = model(\"tiny\").train(\"sft\", #{ data: p, prompts: p });",
    );
    let outcome = project.run(&["run", "sft.rhai"]);
    assert!(
        outcome.code != 0 && outcome.err.contains("`sft` learns from data, and reads no prompts"),
        "{}",
        outcome.err
    );
}
