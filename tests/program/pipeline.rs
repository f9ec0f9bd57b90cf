//! Pipelines of stage files: their product in one table, the models they save, and what a person reads whose file is wrong.

use std::fs;

use serde_json::Value;

use super::project::{Project, csv};

const ORIGINAL: &str = "name: original\ninput_model: tiny\noutput_suffix: null\n";
const ROTATED: &str = "name: spinquant-r1r2
output_suffix: -r1r2
quant_modifiers:
  SpinQuantModifier:
    rotations: [\"R1\", \"R2\"]
    transform_type: random-hadamard
";
const DYNAMIC: &str = "name: rtn-w8a8-dynamic
output_suffix: -rtn-W8A8-dynamic
quant_modifiers:
  QuantizationModifier:
    config_groups:
      group_0:
        weights: {num_bits: 8, type: int, symmetric: true, strategy: channel}
        input_activations: {num_bits: 8, type: int, symmetric: true, strategy: token, dynamic: true}
save_compressed: True
";
const GPTQ: &str = "name = \"gptq-w4\"
output_suffix = \"-gptq-W4\"
num_calibration_samples = 3
[quant_modifiers.SmoothQuantModifier]
smoothing_strength = 0.5
[quant_modifiers.GPTQModifier]
ignore = [\"lm_head\", \"re:.*down_proj\"]
[quant_modifiers.GPTQModifier.config_groups.group_0]
targets = [\"Linear\"]
weights = { num_bits = 4, type = \"int\", symmetric = true, strategy = \"group\", group_size = 16 }
";
const TEXT: &str = "datasets:
  - {name: perplexity, task_type: perplexity, text: text.txt, max_seq_length: 32, blocks: 4}
  - {name: kl, task_type: kl, text: text.txt, max_seq_length: 32, blocks: 4}
";

/// A project with stage files in the folders of the reference pipelines.
fn project() -> Project {
    let project = Project::new();
    project.add_source("experiments/pipeline.rhai");
    for (name, text) in [
        ("p/1-trans/original.yaml", ORIGINAL),
        ("p/1-trans/spinquant-r1r2.yaml", ROTATED),
        ("p/2-quant/rtn-w8a8-dynamic.yaml", DYNAMIC),
        ("p/2-quant/gptq-w4.toml", GPTQ),
        ("p/3-eval/text.yaml", TEXT),
    ] {
        project.write(name, text);
    }
    // Another text than that of the evaluation.
    project.write("calibration.txt", &project.read("text.txt").replace("fox", "cat"));
    project
}

/// Arguments of a run over the project's folders.
fn arguments<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec![command, "experiments/pipeline.rhai"];
    for set in [
        "trans=p/1-trans/*",
        "quant=p/2-quant/*",
        "eval=p/3-eval/*",
        "calibration=calibration.txt",
        "context=32",
        "samples=4",
        "save=saved",
    ] {
        let key = set.split('=').next().unwrap_or_default();
        if !more.iter().any(|other| other.starts_with(&format!("{key}="))) {
            arguments.extend(["--set", set]);
        }
    }
    for set in more {
        arguments.extend(["--set", set]);
    }
    arguments
}

fn recipe(project: &Project, folder: &str) -> Value {
    serde_json::from_str(&project.read(&format!("saved/{folder}/recipe.json"))).unwrap()
}

#[test]
fn the_product_of_all_stages_is_one_table() {
    let project = project();
    project.run(&arguments("run", &[])).exits(0);
    let table = project.read("results/reports/pipeline/table.csv");
    let names: Vec<String> =
        csv(&table).iter().map(|row| format!("{} {}", row["transform"], row["quantization"])).collect();
    let expected = [
        "none none",
        "spinquant-r1r2 none",
        "original gptq-w4",
        "original rtn-w8a8-dynamic",
        "spinquant-r1r2 gptq-w4",
        "spinquant-r1r2 rtn-w8a8-dynamic",
    ];
    assert_eq!(names, expected);
    assert!(csv(&table).iter().all(|row| row["state"] == "complete"));

    let mut saved: Vec<String> = fs::read_dir(project.path().join("saved"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    saved.sort();
    let folders =
        ["tiny-gptq-W4", "tiny-r1r2", "tiny-r1r2-gptq-W4", "tiny-r1r2-rtn-W8A8-dynamic", "tiny-rtn-W8A8-dynamic"];
    assert_eq!(saved, folders);

    // Every stage that led to a model, complete: what the files leave out is filled in.
    let chain = recipe(&project, "tiny-r1r2-gptq-W4");
    let stages = chain["stages"].as_array().unwrap();
    let methods: Vec<&str> = stages.iter().map(|stage| stage["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["rotate", "smoothquant", "gptq"]);
    let rotation = &stages[0]["parameters"]["parameters"];
    assert_eq!((&rotation["kind"], &rotation["seed"]), (&"random-hadamard".into(), &0.into()));
    assert_eq!(stages[2]["parameters"]["parameters"]["dampening_fraction"], 0.01);
    assert_eq!(stages[2]["parameters"]["calibration"]["num_calibration_samples"], 3);
    assert_eq!(stages[2]["parameters"]["calibration"]["max_seq_length"], 32);
    let modules = stages[2]["parameters"]["groups"][0]["modules"].as_array().unwrap();
    assert!(modules.len() == 12 && modules.iter().all(|module| !module.as_str().unwrap().ends_with("down_proj")));
    let base = chain["base"].as_str().unwrap();
    assert_eq!(recipe(&project, "tiny-rtn-W8A8-dynamic")["base"], base);
    let text = chain.to_string();
    assert!(!text.contains(&*project.path().to_string_lossy()), "a recipe holds no places: {text}");

    // What is made of a saved model continues its recipe.
    project
        .run(&arguments("run", &["model=saved/tiny-r1r2", "trans=", "quant=p/2-quant/gptq-w4.toml", "save=again"]))
        .exits(0);
    let again: Value = serde_json::from_str(&project.read("again/tiny-r1r2-gptq-W4/recipe.json")).unwrap();
    assert_eq!(again["base"], base);
    let methods: Vec<&str> =
        again["stages"].as_array().unwrap().iter().map(|s| s["method"].as_str().unwrap()).collect();
    assert_eq!(methods, ["rotate", "smoothquant", "gptq"]);
}

#[test]
fn keys_depend_on_what_a_stage_means() {
    let project = project();
    project.run(&arguments("run", &[])).exits(0);
    // The same stages in the other syntax, with other names, comments, an order of keys, and a default spelled out.
    fs::remove_file(project.path().join("p/2-quant/rtn-w8a8-dynamic.yaml")).unwrap();
    project.write(
        "p/2-quant/eight.toml",
        "# Eight bits.\noutput_suffix = \"-8\"\nname = \"eight\"\n[quant_modifiers.QuantizationModifier.config_groups.all]\n\
         targets = \"Linear\"\ninput_activations = { dynamic = true, num_bits = 8, strategy = \"token\" }\n\
         weights = { num_bits = 8, strategy = \"channel\" }\n",
    );
    let plan = project.run(&arguments("plan", &[])).exits(0);
    assert!(plan.out.contains(" 0 to run"), "{}", plan.out);
    // Another value is another meaning, for what is behind it and for nothing else.
    project.write("p/1-trans/spinquant-r1r2.yaml", &ROTATED.replace("[\"R1\", \"R2\"]", "[\"R1\"]"));
    let plan = project.run(&arguments("plan", &["quant=p/2-quant/eight.toml"])).exits(0);
    assert!(plan.out.contains(" 6 to run"), "rotate, quantize, and two tasks of each: {}", plan.out);
}

#[test]
fn patterns_choose_stages() {
    let project = project();
    let rows = |more: &[&str]| -> usize {
        let json = project.run(&[arguments("plan", more), vec!["--json"]].concat()).exits(0).json();
        let nodes = json["nodes"].as_array().unwrap();
        nodes.iter().filter(|node| node["kind"] == "evaluate" && node["method"] == "perplexity").count()
    };
    assert_eq!(rows(&["quant="]), 2);
    assert_eq!(rows(&["trans=", "model=tiny"]), 3);
    assert_eq!(rows(&["trans=p/1-trans/original.yaml", "quant=p/2-quant/*.toml"]), 2);
    assert_eq!(rows(&["trans=p/1-trans/{original,spinquant-r1r2}.yaml", "quant=p/2-quant/rtn-*"]), 4);
}

/// What a person reads.
fn error(project: &Project, more: &[&str]) -> String {
    let outcome = project.run(&arguments("run", more)).exits(2);
    assert!(!project.path().join("results/store").exists(), "something ran");
    outcome.err
}

#[test]
fn wrong_stage_files_are_shown_with_their_line() {
    for (file, text, told) in [
        (
            "p/2-quant/gptq-w4.toml",
            GPTQ.replace("smoothing_strength", "smoothing_strenght"),
            [
                "`SmoothQuantModifier` has no option `smoothing_strenght`",
                "p/2-quant/gptq-w4.toml:5:1",
                "did you mean `smoothing_strength`?",
            ],
        ),
        (
            "p/2-quant/gptq-w4.toml",
            GPTQ.replace("smoothing_strength = 0.5", "smoothing_strength = nan"),
            ["`p/2-quant/gptq-w4.toml` cannot be read", "a number that is not finite", ""],
        ),
        (
            "p/1-trans/spinquant-r1r2.yaml",
            format!("{ROTATED}\nnum_calibration_samples: 8\n"),
            ["reads calibration data", "num_calibration_samples: 8", "leave out `num_calibration_samples`"],
        ),
        // What only the plugin or the model can know is shown in the file as well, not in the script.
        (
            "p/2-quant/gptq-w4.toml",
            GPTQ.replace("smoothing_strength = 0.5", "smoothing_strength = 5"),
            [
                "`smoothing_strength` must be at least 0 and at most 1",
                "p/2-quant/gptq-w4.toml:5:1",
                "smoothing_strength = 5",
            ],
        ),
        (
            "p/2-quant/gptq-w4.toml",
            GPTQ.replace("re:.*down_proj", "*.donw_proj"),
            [
                "no layer matches `*.donw_proj`",
                "p/2-quant/gptq-w4.toml:7:",
                "the model has 2 layers matching `*.down_proj`",
            ],
        ),
        (
            "p/1-trans/spinquant-r1r2.yaml",
            ROTATED.replace("SpinQuantModifier", "SpinQuantModifer"),
            [
                "there is no modifier `SpinQuantModifer`",
                "p/1-trans/spinquant-r1r2.yaml:4:",
                "did you mean `SpinQuantModifier`?",
            ],
        ),
        (
            "p/1-trans/spinquant-r1r2.yaml",
            ROTATED.replace("-r1r2", "-r1r2]").replace("rotations: [", "rotations: [["),
            ["`p/1-trans/spinquant-r1r2.yaml` cannot be read", "p/1-trans/spinquant-r1r2.yaml:", ""],
        ),
        (
            "p/1-trans/copy.yaml",
            ROTATED.replace("-r1r2", "-again").replace("spinquant-again", "spinquant-r1r2"),
            [
                "`p/1-trans/copy.yaml` and `p/1-trans/spinquant-r1r2.yaml` have the same `name`",
                "p/1-trans/spinquant-r1r2.yaml:1:1",
                "",
            ],
        ),
        (
            "p/1-trans/copy.yaml",
            ROTATED.replace("spinquant-r1r2", "other"),
            ["have the same `output_suffix`", "p/1-trans/spinquant-r1r2.yaml:2:1", ""],
        ),
        (
            "p/3-eval/again.yaml",
            TEXT.to_owned(),
            ["`p/3-eval/again.yaml` and `p/3-eval/text.yaml` both measure `perplexity`", "p/3-eval/text.yaml:2:", ""],
        ),
        (
            "p/3-eval/more.yaml",
            "datasets: [{name: mmlu}]\n".to_owned(),
            ["there is no file or folder `experiments/demo/tasks/mmlu.toml`", "p/3-eval/more.yaml:1:", ""],
        ),
        (
            "p/1-trans/other.yaml",
            "name: other\ninput_model: tiny2\n".to_owned(),
            ["the stages begin with several models, tiny and tiny2", "experiments/pipeline.rhai:", ""],
        ),
    ] {
        let project = project();
        project.write(file, &text);
        let shown = error(&project, &[]);
        for told in told {
            assert!(shown.contains(told), "{file} should say {told}:\n{shown}");
        }
    }
    let project = project();
    assert!(error(&project, &["trans=p/1-trans/*.json"]).contains("no file matches `p/1-trans/*.json`"));
}

#[test]
fn the_examples_on_the_demo_are_sound() {
    let project = Project::new();
    project.add_source("experiments/pipeline.rhai");
    for stage in [
        "1-trans/original.toml",
        "1-trans/spinquant-r1r2.toml",
        "2-quant/gptq-w4.toml",
        "2-quant/rtn-w8a8-dynamic.yaml",
        "2-quant/rtn-w8a8-static.yaml",
        "3-eval/text.toml",
    ] {
        project.add_source(&format!("experiments/pipeline/{stage}"));
    }
    // The demo's linears are wider than the tiny model's, whose groups have to be smaller.
    let gptq = project.read("experiments/pipeline/2-quant/gptq-w4.toml").replace("group_size = 64", "group_size = 16");
    project.write("experiments/pipeline/2-quant/gptq-w4.toml", &gptq);
    let plan =
        project.run(&["plan", "experiments/pipeline.rhai", "--set", "model=tiny", "--set", "report=all"]).exits(0);
    assert!(!plan.err.contains("warning"), "{}", plan.err);
}
