//! A user's day: where paths begin, what runs say of themselves, what a table warns of, and that the commands of the documents work.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::project::{Outcome, PROGRAM, Project, sources};

const SCRIPT: &str = r#"
let base = model("tiny");
let options = #{ text: dataset("text.txt"), max_seq_length: 32, blocks: 4 };
let q = base.quantize("rtn", #{ scheme: "W8A16", group_size: 16 });
let table = report("small");
table.baseline(base.evaluate(perplexity(options)));
table.row(q.evaluate(perplexity(options)), #{ bits: 8 });
table.write();
q.save_as("saved/q");
"#;

#[test]
fn nothing_runs_with_no_thread_or_no_job() {
    let project = Project::new();
    project.write("a.rhai", "");
    for (option, name) in [("--threads", "threads"), ("--jobs", "jobs")] {
        let outcome = project.run(&["run", "a.rhai", option, "0"]).exits(2);
        assert!(outcome.err.contains(&format!("with 0 {name} nothing would run")), "{}", outcome.err);
    }
}

#[test]
fn paths_begin_at_the_project_and_results_lie_under_it() {
    let project = Project::new();
    project.write("exp/small.rhai", SCRIPT);
    // A folder elsewhere has files of the same names, which are none of the script's.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::write(elsewhere.path().join("text.txt"), "other words ".repeat(400)).unwrap();
    let script = project.path().join("exp/small.rhai");
    let arguments = ["run", script.to_str().unwrap()];
    let away: Outcome = project.command(&arguments).current_dir(elsewhere.path()).output().unwrap().into();
    let away = away.exits(0);
    for there in ["results/store", "results/reports/small/index.html", "saved/q/config.json"] {
        assert!(project.path().join(there).exists(), "{there}\n{}", away.err);
    }
    let left: Vec<PathBuf> = fs::read_dir(elsewhere.path()).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(left, [elsewhere.path().join("text.txt")]);
    // From the project, and from a folder of it, all of that is the same.
    for (folder, name) in [("", "exp/small.rhai"), ("exp", "small.rhai")] {
        let mut command = project.command(&["run", name]);
        let again: Outcome = command.current_dir(project.path().join(folder)).output().unwrap().into();
        let again = again.exits(0);
        assert!(again.err.contains("3 nodes, 3 cached, 0 to run") || again.err.contains("3 cached"), "{}", again.err);
        assert_eq!(again.out, away.out);
    }
    // A path of the command line begins where the command is given.
    let given = SCRIPT.replace("dataset(\"text.txt\")", "dataset(param(\"text\", \"text.txt\"))");
    project.write("exp/given.rhai", &given);
    let script = project.path().join("exp/given.rhai");
    let planned = |folder: &Path, set: &str| {
        let mut command = project.command(&["plan", script.to_str().unwrap(), "--set", set, "--json"]);
        let outcome: Outcome = command.current_dir(folder).output().unwrap().into();
        outcome.exits(0).json()["nodes"].as_array().unwrap().iter().filter(|n| n["cached"] == true).count()
    };
    assert_eq!((planned(elsewhere.path(), "text=text.txt"), planned(project.path(), "text=text.txt")), (1, 3));
    // What lies nowhere above a script is no project; its own folder is.
    let alone = tempfile::tempdir().unwrap();
    fs::write(alone.path().join("small.rhai"), SCRIPT).unwrap();
    let mut command = project.command(&["plan", alone.path().join("small.rhai").to_str().unwrap()]);
    let outcome: Outcome = command.current_dir(elsewhere.path()).output().unwrap().into();
    let outcome = outcome.exits(2);
    assert!(outcome.err.contains(alone.path().canonicalize().unwrap().to_str().unwrap()), "{}", outcome.err);
}

#[test]
fn runs_say_how_they_ended() {
    let project = Project::new();
    project.write("a.rhai", SCRIPT);
    assert!(project.run(&["show"]).exits(0).out.contains("there is no run yet in `results`"));
    project.run(&["run", "a.rhai"]).exits(0);
    project.run(&["run", "a.rhai"]).exits(0);
    let forcing = SCRIPT.replace("table.write();", "base.evaluate(perplexity(options)).value(\"nothing\");");
    project.write("b.rhai", &forcing);
    project.run(&["run", "b.rhai"]).exits(2);
    let shown = project.run(&["show"]).exits(0).out;
    let ends: Vec<&str> = shown.lines().skip(1).collect();
    assert!(ends[0].contains("finished: 3 done"), "{shown}");
    assert!(ends[1].contains("finished: nothing to do, 3 nodes stored before"), "{shown}");
    assert!(ends[2].contains("ended by an error"), "{shown}");
    let last = project.run(&["show", "last"]).exits(0).out;
    assert!(last.contains("there is no value `nothing`"), "{last}");
    // A run of which nothing but its plan is left was killed.
    let runs = project.path().join("results/runs");
    let mut folders: Vec<PathBuf> = fs::read_dir(&runs).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    fs::write(folders[0].join("events.jsonl"), "").unwrap();
    let shown = project.run(&["show"]).exits(0).out;
    assert!(shown.lines().nth(1).unwrap().contains("killed: 3 not done"), "{shown}");
    let first = project.run(&["show", folders[0].file_name().unwrap().to_str().unwrap()]).exits(0).out;
    assert!(first.contains("not begun"), "{first}");
}

#[test]
fn seeds_that_draw_nothing_say_so() {
    let project = Project::new();
    project.write("small.rhai", &SCRIPT.replace("q.save_as(\"saved/q\");", ""));
    let several = project.run(&["run", "small.rhai", "--seed", "0..2"]).exits(0);
    assert!(several.err.contains("no step of the script draws numbers"), "{}", several.err);
    assert!(several.err.contains("3 nodes"), "{}", several.err);
    assert!(!several.out.to_lowercase().contains("over seeds") && !several.out.contains("seed"), "{}", several.out);
    let one = project.run(&["run", "small.rhai", "--seed", "7"]).exits(0);
    assert!(one.err.contains("`--seed 7` has no effect"), "{}", one.err);
    assert_eq!(one.out, several.out);
    // A rotation by a plain Hadamard matrix has a seed and draws nothing from it; a random one does.
    let rotated = SCRIPT
        .replace("q.save_as(\"saved/q\");", "")
        .replace("table.write", "for kind in [\"hadamard\", \"random-hadamard\"] {\n    let r = base.transform(\"rotate\", #{ rotations: [\"R1\"], kind: kind });\n    let w3 = r.quantize(\"rtn\", #{ scheme: \"W3A16\", group_size: 16 });\n    table.row(w3.evaluate(perplexity(options)), #{ bits: 3, kind: kind });\n}\ntable.write");
    project.write("rotated.rhai", &rotated);
    let drawn = project.run(&["run", "rotated.rhai", "--seed", "0..1"]).exits(0);
    assert!(drawn.err.contains("are the same with every seed, and shown once"), "{}", drawn.err);
    let out = &drawn.out;
    assert!(
        out.contains("Nothing that matters was drawn for bits=3 kind=hadamard: every seed gave the same values."),
        "{out}"
    );
    assert!(out.contains("Over seeds"), "{out}");
}

#[test]
fn texts_of_the_demo_are_for_the_demo() {
    let project = Project::new();
    project.add_source("experiments/weight_bits.rhai");
    // A script of one's own may do as it likes, and is told what it does.
    let script = SCRIPT
        .replace("dataset(\"text.txt\")", "dataset(\"demo:stories/test\")")
        .replace("q.save_as(\"saved/q\");", "");
    project.write("own.rhai", &script);
    let same_words = project.run(&["plan", "own.rhai"]).exits(0);
    assert!(!same_words.err.contains("warning"), "{}", same_words.err);
    project.write("tiny/tokenizer.json", &format!("{}\n ", project.read("tiny/tokenizer.json")));
    let refused = project.run(&["plan", "experiments/weight_bits.rhai", "--set", "model=tiny"]).exits(2);
    assert!(refused.err.contains("tiny is not the demo"), "{}", refused.err);
    let other_words = project.run(&["run", "own.rhai"]).exits(0);
    let warning = "`tiny` reads `demo:stories/test`, texts about the demo's made-up world";
    assert_eq!(other_words.err.matches(warning).count(), 1, "{}", other_words.err);
    assert!(other_words.out.contains(&format!("Warning: {warning}")), "{}", other_words.out);
    assert!(project.read("results/reports/small/index.html").contains("made-up world"));
}

#[test]
fn nodes_are_told_apart_and_leaks_told_once() {
    let project = Project::new();
    let script = r#"
let base = model("tiny");
let text = dataset("text.txt");
let options = #{ text: dataset("./text.txt"), max_seq_length: 32, blocks: 4 };
let suite = [perplexity(options), kl(base, options)];
let table = report("labels");
table.baseline(base.evaluate(suite));
for damp in [0.01, 0.5] {
    for samples in [4, 6] {
        let data = text.tokens(#{ num_calibration_samples: samples, max_seq_length: 32 });
        let q = base.quantize("gptq", #{ scheme: "W3A16", group_size: 16, dampening_fraction: damp, calibration: data });
        table.row(q.evaluate(suite), #{ damp: damp, samples: samples });
    }
}
table.write();
"#;
    project.write("labels.rhai", script);
    let planned = project.run(&["plan", "labels.rhai", "--json"]).exits(0).json();
    let mut labels: Vec<&str> =
        planned["nodes"].as_array().unwrap().iter().map(|n| n["label"].as_str().unwrap()).collect();
    assert!(
        labels.iter().any(|label| label.ends_with("(dampening_fraction 0.5, num_calibration_samples 4)")
            || label.ends_with("(num_calibration_samples 4, dampening_fraction 0.5)")),
        "{labels:?}"
    );
    let count = labels.len();
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), count, "{labels:?}");
    let ran = project.run(&["run", "labels.rhai"]).exits(0);
    let leak = "perplexity and kl are measured on `";
    assert_eq!(ran.err.matches("seen in calibration").count(), 1, "{}", ran.err);
    assert!(ran.err.contains(leak) && ran.out.contains(leak), "{}{}", ran.err, ran.out);
    // Which rows each line about calibration is of.
    assert!(ran.out.contains("calibration (samples=4): ") && ran.out.contains(" in 4 sequences"), "{}", ran.out);
    assert!(ran.out.contains("calibration (samples=6): ") && ran.out.contains(" in 6 sequences"), "{}", ran.out);
    let page = project.read("results/reports/labels/index.html");
    let nodes = page.split("<g class=\"node").skip(1);
    let shown: Vec<&str> =
        nodes.map(|node| node.split("class=\"label\"").nth(1).unwrap().split(['<', '>']).nth(1).unwrap()).collect();
    let mut distinct = shown.clone();
    distinct.sort_unstable();
    distinct.dedup();
    assert_eq!(distinct.len(), shown.len(), "{shown:?}");
}

#[test]
fn wrong_commands_and_values_are_explained() {
    let project = Project::new();
    project.write("small.rhai", SCRIPT);
    project.write("text.txt.gz", "");
    let split = project.run(&["run", "small.rhai", "--set", "samples", "3"]).exits(2);
    assert!(split.err.contains("write --set samples=3"), "{}", split.err);
    for (from, to, told) in [
        ("group_size: 16", "group_size: \"16\"", "write `group_size: 16`, without quotes"),
        ("\"W8A16\"", "\"W${bits}A16\"", "${…} is filled in only between backticks"),
        ("\"text.txt\"", "\"text.txt.gz\"", "unpack it first"),
        ("\"saved/q\"", "\"saved/${q}\"", "${…} is filled in only between backticks: `saved/${q}`"),
    ] {
        project.write("wrong.rhai", &SCRIPT.replace(from, to));
        let outcome = project.run(&["plan", "wrong.rhai"]);
        assert!(outcome.err.contains(told), "{}", outcome.err);
    }
    project.write("plain.rhai", &SCRIPT.replace("#{ bits: 8 }", "#{ bits: \"W${bits}\" }"));
    let labelled = project.run(&["plan", "plain.rhai"]).exits(2);
    assert!(labelled.err.contains("between backticks"), "{}", labelled.err);
}

#[test]
fn a_recipe_of_llm_compressor_is_a_stage() {
    let project = Project::new();
    let recipe = "quant_stage:\n  quant_modifiers:\n    GPTQModifier:\n      ignore: [\"lm_head\"]\n      dampening_frac: 1e-2\n      config_groups:\n        group_0:\n          targets: [Linear]\n          weights: {num_bits: 4, type: int, symmetric: yes, strategy: group, group_size: 16}\n";
    project.write("recipes/gptq-w4.yaml", recipe);
    project.write(
        "recipe.rhai",
        "let base = model(\"tiny\");\nlet data = dataset(\"text.txt\").tokens(#{ num_calibration_samples: 4, max_seq_length: 32 });\nfor stage in stages(\"recipes/*\") {\n    base.apply(stage, #{ calibration: data }).save_as(`saved/tiny${stage.suffix()}`);\n}\n",
    );
    project.run(&["run", "recipe.rhai"]).exits(0);
    let written = project.read("saved/tiny-gptq-w4/recipe.json");
    assert!(written.contains("dampening_fraction"), "{written}");
    project.write("recipes/gptq-w4.yaml", &recipe.replace("GPTQModifier", "SparseGPTModifier"));
    let refused = project.run(&["plan", "recipe.rhai"]).exits(2);
    assert!(refused.err.contains("gptq-w4.yaml:3") && refused.err.contains("it prunes weights"), "{}", refused.err);
    // A comment and other spaces are no part of its meaning.
    project.write(
        "recipes/gptq-w4.yaml",
        &format!("# as before\n{}", recipe.replace("{num_bits: 4,", "{ num_bits:   4,")),
    );
    let again = project.run(&["run", "recipe.rhai"]).exits(0);
    assert!(again.err.contains("1 node, 1 cached, 0 to run"), "{}", again.err);
}

#[test]
fn a_comment_in_a_task_file_runs_nothing_again() {
    let project = Project::new();
    let task = "name = \"colours\"\nkind = \"choice\"\ndata = \"colours.jsonl\"\nprompt = \"{q}\"\nchoices = [\"red\", \"blue\"]\nanswer = \"a\"\n";
    project.write("colours.toml", task);
    project.write("colours.jsonl", "{\"q\": \"the house is\", \"a\": 0}\n{\"q\": \"the sky is\", \"a\": 1}\n");
    project.write(
        "task.rhai",
        "let table = report(\"task\");\ntable.row(model(\"tiny\").evaluate(task(\"colours.toml\")), #{ model: \"tiny\" });\ntable.write();\n",
    );
    let planned = |text: &str| {
        project.write("colours.toml", text);
        project.run(&["run", "task.rhai"]).exits(0).err
    };
    assert!(planned(task).contains("1 node, 0 cached"));
    let told = format!("# for people\nsummary = \"Colours\"   # of things\n{}few_shot = 0\n", task.replace(" = ", "="));
    assert!(planned(&told).contains("1 node, 1 cached"));
    fs::rename(project.path().join("colours.jsonl"), project.path().join("other.jsonl")).unwrap();
    assert!(planned(&task.replace("colours.jsonl", "other.jsonl")).contains("1 node, 1 cached"));
    assert!(planned(&task.replace("colours.jsonl", "other.jsonl").replace("{q}", "{q} ")).contains("1 node, 0 cached"));
}

#[test]
fn what_a_task_file_of_running_text_says_is_part_of_the_key() {
    let project = Project::new();
    let task = "name = \"words\"\nkind = \"perplexity\"\ndata = \"text.txt\"\ncontext_length = 32\n";
    project.write(
        "task.rhai",
        "let table = report(\"task\");\ntable.row(model(\"tiny\").evaluate(task(\"words.toml\", #{ limit: 2 })), #{ model: \"tiny\" });\ntable.write();\n",
    );
    let cached = |text: &str| {
        project.write("words.toml", text);
        project.run(&["run", "task.rhai"]).exits(0).err.contains("1 node, 1 cached")
    };
    assert!(!cached(task));
    assert!(!cached(&task.replace("32", "16")));
    assert!(!cached(&format!("{task}add_bos = false\n")));
    assert!(!cached(&format!("{task}protocol = \"rolling\"\n")));
    assert!(cached(&format!("{task}# for people\n")));
}

#[test]
fn what_data_lack_is_found_before_anything_runs() {
    let project = Project::new();
    project.write("rows.jsonl", "{\"body\": \"the fox ran over a hill\"}\n");
    let refused = |from: &str, to: &str| {
        project.write("lacking.rhai", &SCRIPT.replace(from, to));
        let outcome = project.run(&["run", "lacking.rhai"]).exits(2);
        assert!(!project.path().join("results/runs").exists(), "{}", outcome.err);
        outcome.err
    };
    let column = refused("dataset(\"text.txt\")", "dataset(\"rows.jsonl\")");
    assert!(column.contains("rows.jsonl:1") && column.contains("there is no column `text`"), "{column}");
    let blocks = refused("blocks: 4", "blocks: 4000");
    assert!(blocks.contains("4000 sequences of 32 tokens were asked for"), "{blocks}");
    let static_inputs = "\"W8A8_STATIC\", calibration: dataset(\"text.txt\").tokens(#{ num_calibration_samples: 900, max_seq_length: 256 })";
    let samples = refused("\"W8A16\", group_size: 16", static_inputs);
    assert!(samples.contains("900 sequences of 256 tokens"), "{samples}");
    project.write(
        "all.rhai",
        &SCRIPT.replace("\"W8A16\", group_size: 16", &static_inputs.replace("900", "\"all\"").replace("256", "32")),
    );
    project.run(&["plan", "all.rhai"]).exits(0);
}

/// Indented lines of a text that begin with the program's name, without what stands behind two spaces.
fn commands(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| line.starts_with(' ')).map(str::trim);
    let ours = lines.filter(|line| line.starts_with("workbench ") || line.starts_with("target/debug/workbench "));
    ours.map(|line| line.split("  ").next().unwrap_or(line).trim().replace("target/debug/workbench", "workbench"))
        .collect()
}

#[test]
fn the_commands_of_the_documents_work_as_they_are_written() {
    let project = Project::new();
    let subcommands = [
        "run",
        "plan",
        "show",
        "log",
        "plugins",
        "plugins list",
        "plugins check",
        "plugins new",
        "script",
        "demo",
        "demo text",
        "demo write",
        "gc",
        "doctor",
    ];
    let mut found = commands(&fs::read_to_string(sources().join("README.md")).unwrap());
    assert!(found.len() > 8, "{found:?}");
    for subcommand in subcommands {
        let arguments: Vec<&str> = subcommand.split(' ').chain(["--help"]).collect();
        found.extend(commands(&project.run(&arguments).exits(0).out));
    }
    let mut known = BTreeSet::new();
    // It trains a tokenizer, which takes its time.
    found.retain(|line| known.insert(line.clone()) && !line.contains("demo write"));
    let clone = clone(&project);
    let shell = |line: &str| {
        let path =
            format!("{}:{}", clone.path().join("target/debug").display(), std::env::var("PATH").unwrap_or_default());
        let mut shell = Command::new("sh");
        shell
            .args(["-c", line])
            .current_dir(clone.path())
            .env("HOME", clone.path())
            .env("PATH", path)
            .env("NO_COLOR", "1");
        Outcome::from(shell.output().unwrap())
    };
    shell("workbench run tiny.rhai --results results").exits(0);
    for line in found {
        // Runs are planned: what is wrong with a command shows before anything runs.
        let planned = line.replacen("workbench run ", "workbench plan ", 1).replace(" --jobs 2", "");
        let stored = ["run ", "plan ", "show", "log", "gc", "doctor", "plugins list", "plugins check"];
        let words = planned.trim_start_matches("workbench ");
        let results = if stored.iter().any(|word| words.starts_with(word)) { " --results results" } else { "" };
        let (command, rest) = planned.split_at(planned.find(['|', '>']).unwrap_or(planned.len()));
        let outcome = shell(&format!("{command}{results} {rest}"));
        // This machine may lack memory or disk, which `doctor` is right to report.
        let good = outcome.code == 0 || words.starts_with("doctor") && outcome.code == 3;
        assert!(good, "`{line}` ends with {}:\n{}{}", outcome.code, outcome.out, outcome.err);
    }
}

/// What a clone has, in a folder that may be written into, and a script of a moment.
fn clone(project: &Project) -> tempfile::TempDir {
    let clone = tempfile::tempdir().unwrap();
    let link = |from: &Path, to: &str| std::os::unix::fs::symlink(from, clone.path().join(to)).unwrap();
    fs::create_dir(clone.path().join("target")).unwrap();
    link(&sources().join("experiments"), "experiments");
    link(&sources().join("scripts"), "scripts");
    link(Path::new(PROGRAM).parent().unwrap(), "target/debug");
    link(&project.path().join("tiny"), "tiny");
    link(&project.path().join("text.txt"), "text.txt");
    let trained = "let trained = base.train(\"sft\", #{ data: dataset(\"text.txt\").tokens(#{ num_calibration_samples: 4, max_seq_length: 32 }), max_steps: 2, batch_size: 2 });\ntable.row(trained.evaluate(perplexity(options)), #{ bits: \"trained\" });\ntable.write";
    fs::write(clone.path().join("tiny.rhai"), SCRIPT.replace("table.write", trained)).unwrap();
    fs::write(clone.path().join("workbench.toml"), "").unwrap();
    clone
}
