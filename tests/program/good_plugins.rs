//! Plugins of every kind, run from scripts.

use std::path::Path;

use serde_json::Value;
use workbench_model::{Checkpoint, WeightSource};

use super::project::{LAYERS, LINEARS, Project, W8, csv};

/// Runs a script that evaluates the tiny model and what `expression` makes of it.
fn run(plugins: &[&str], expression: &str, code: i32) -> (Project, super::project::Outcome) {
    let project = Project::new();
    project.add_plugins(plugins);
    let script = r#"
let base = model("tiny");
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 4, max_seq_length: 16 });
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })];
let table = report("plugins");
table.baseline(base.evaluate(suite), #{ model: "base" });
table.row(EXPRESSION.evaluate(suite), #{ model: "made" });
table.write();
"#;
    project.write("plugins.rhai", &script.replace("EXPRESSION", expression).replace("W8", W8));
    let outcome = project.run(&["run", "plugins.rhai"]).exits(code);
    (project, outcome)
}

fn made(project: &Project, kind: &str, method: &str) -> (Checkpoint, Value) {
    let stored = project.stored("results", kind, method);
    let [(folder, record)] = &stored[..] else { panic!("{} results of {method}", stored.len()) };
    (Checkpoint::open(&folder.join("model")).unwrap(), record.clone())
}

fn tiny(project: &Project) -> Checkpoint {
    Checkpoint::open(&project.path().join("tiny")).unwrap()
}

/// Linears of the folder whose codes are not the signs of the tiny model's weights, and how many there are in all.
fn compare_signs(original: &Checkpoint, made: &Checkpoint) -> (usize, usize) {
    let (mut differing, mut linears) = (0, 0);
    for layer in 0..LAYERS {
        for (name, rows, columns) in LINEARS {
            let module = format!("model.layers.{layer}.{name}");
            let Some(quantized) = made.quantized_linear(&module).unwrap() else { continue };
            let weight = original.values(&format!("{module}.weight")).unwrap();
            let signs: Vec<i8> = weight.iter().map(|w| if *w < 0.0 { -1 } else { 1 }).collect();
            assert_eq!(signs.len(), rows * columns);
            differing += signs.iter().zip(&quantized.codes).filter(|(a, b)| a != b).count();
            linears += 1;
        }
    }
    (differing, linears)
}

#[test]
fn a_quantizer_gets_the_gram_matrix_that_it_asks_for() {
    let quantize = "base.quantize(\"sign_linear\", #{ scheme: W8, targets: \"*.o_proj\", calibration: data })";
    let (project, _) = run(&["sign_linear"], quantize, 0);
    let (checkpoint, record) = made(&project, "quantize", "sign_linear");
    assert_eq!(compare_signs(&tiny(&project), &checkpoint), (0, LAYERS));
    assert_eq!(record["identity"]["params"]["calibration"]["max_seq_length"], 16, "the data is part of the key");
    let energy = |layer: usize| {
        let facts = &record["facts"]["plugin"][format!("model.layers.{layer}.self_attn.o_proj")];
        facts["mean_energy"].as_f64().unwrap_or_else(|| panic!("{:#}", record["facts"]))
    };
    assert!(energy(0) > 0.0 && energy(1) > 0.0 && energy(0) != energy(1), "each site has a Gram matrix of its own");
    // What it reported is kept apart for each linear.
    let (folder, _) = project.stored("results", "quantize", "sign_linear").remove(0);
    let curve = std::fs::read_to_string(folder.join("curve.csv")).unwrap();
    let names = [0, 1].map(|layer| format!("model.layers.{layer}.self_attn.o_proj/mean_energy"));
    assert_eq!(curve, format!("step,{}\n1,{:?},{:?}\n", names.join(","), energy(0), energy(1)));
}

#[test]
fn a_quantizer_that_observes_wants_data() {
    let (_, outcome) = run(&["sign_linear"], "base.quantize(\"sign_linear\", #{ scheme: W8 })", 2);
    assert!(outcome.err.contains("`sign_linear` needs calibration data"), "{}", outcome.err);
}

#[test]
fn a_transform_may_patch_the_configuration() {
    let (project, _) = run(&["untie"], "base.transform(\"untie\")", 0);
    let (checkpoint, record) = made(&project, "transform", "untie");
    assert_eq!(checkpoint.config_json()["tie_word_embeddings"], false);
    let original = tiny(&project);
    assert_eq!(checkpoint.values("lm_head.weight").unwrap(), original.values("model.embed_tokens.weight").unwrap());
    assert!(record["facts"]["equivalence"].is_object(), "{:#}", record["facts"]);
    let rows = csv(&project.read("results/reports/plugins/table.csv"));
    assert_eq!(rows[0]["perplexity.nll"], rows[1]["perplexity.nll"], "the same function");
}

#[test]
fn a_trainers_codes_are_written_as_they_are() {
    let (project, _) = run(&["sign_trainer"], "base.train(\"sign_trainer\", #{ data: data, epochs: 1 })", 0);
    let (checkpoint, _) = made(&project, "train", "sign_trainer");
    assert_eq!(compare_signs(&tiny(&project), &checkpoint), (0, LAYERS * LINEARS.len()), "codes differ");
    let rows = csv(&project.read("results/reports/plugins/table.csv"));
    assert_eq!((rows[1]["engine"].as_str(), rows[1]["state"].as_str()), ("fake-quantized", "complete"));
    assert_ne!(rows[0]["perplexity.nll"], rows[1]["perplexity.nll"]);
}

#[test]
fn a_tensor_of_a_trainer_that_has_no_place_is_named() {
    for (name, problem) in [
        (
            "model.layers.7.extra.weight",
            "the trainer put `model.layers.7.extra.weight`, which the resulting model has no place for",
        ),
        ("model.norm.weight", "tensor `model.norm.weight`: its shape is [2], the model's [32]"),
    ] {
        let train = format!("base.train(\"sign_trainer\", #{{ data: data, epochs: 1, extra: \"{name}\" }})");
        let (project, outcome) = run(&["sign_trainer"], &train, 4);
        assert!(outcome.err.contains(problem), "{}", outcome.err);
        assert!(project.stored("results", "train", "sign_trainer").is_empty());
    }
}

#[test]
fn a_block_quantizer_gets_the_inputs_of_both_paths() {
    let quantize = "base.quantize(\"sign_block\", #{ scheme: W8, calibration: data })";
    let (project, _) = run(&["sign_block"], quantize, 0);
    let (checkpoint, record) = made(&project, "quantize", "sign_block");
    assert_eq!(compare_signs(&tiny(&project), &checkpoint), (0, LAYERS * LINEARS.len()));
    for layer in 0..LAYERS {
        let facts = &record["facts"]["plugin"][format!("model.layers.{layer}")];
        assert_eq!(facts["tokens"], record["facts"]["calibration"]["tokens"], "{:#}", record["facts"]);
    }
}

#[test]
fn a_finished_model_can_be_saved_and_read_again() {
    let project = Project::new();
    let script = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 4, max_seq_length: 16 });
let made = model("tiny").train("sft", #{ data: data, max_steps: 3, batch_size: 2 }).quantize("rtn", #{ scheme: W8 });
let table = report("saved");
table.row(made.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "made" });
table.write();
made.save_as("saved/model");
"#;
    project.write("saved.rhai", &script.replace("W8", W8));
    project.run(&["run", "saved.rhai"]).exits(0);
    let again = r#"
let table = report("again");
table.row(model("saved/model").evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "read" });
table.write();
"#;
    project.write("again.rhai", again);
    project.run(&["run", "again.rhai"]).exits(0);
    let nll =
        |name: &str| csv(&project.read(&format!("results/reports/{name}/table.csv")))[0]["perplexity.nll"].clone();
    assert_eq!(nll("saved"), nll("again"));
    assert!(Path::new(&project.path().join("saved/model/record.json")).is_file());
}
