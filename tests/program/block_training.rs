//! Quantizers that train a block: `block_ap` and `auto_round`.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use workbench_model::{Checkpoint, WeightSource, checkpoint::Dtype};

use super::{
    interrupt::Followed,
    project::{LAYERS, Project, csv},
};

const BEGIN: &str = r#"
let base = model("tiny");
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 12, max_seq_length: 24 });
let options = #{ text: dataset("text.txt"), max_seq_length: 16, blocks: 4 };
let suite = [perplexity(options), kl(base, options)];
let table = report("blocks");
"#;

/// Two bits, so that there is much to make good.
const W2: &str =
    r#"scheme: #{ weights: #{ num_bits: 2, type: "int", symmetric: false, strategy: "group", group_size: 16 } }"#;

/// As much training as makes a difference, of few steps.
const METHODS: [(&str, &str); 2] = [
    ("block_ap", "epochs: 4.0, weight_learning_rate: 0.002, quantizer_learning_rate: 0.002"),
    ("auto_round", "steps: 24, batch_size: 4"),
];

fn script(models: &[String]) -> String {
    let row =
        |(index, model): (usize, &String)| format!("table.row(({model}).evaluate(suite), #{{ model: {index} }});\n");
    let rows: String = models.iter().enumerate().map(row).collect();
    format!("{BEGIN}{rows}table.write();\n")
}

fn quantize(method: &str, options: &str) -> String {
    let data = if method == "rtn" { "" } else { ", calibration: data" };
    format!("base.quantize(\"{method}\", #{{ {options}{data} }})")
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    named.filter(|(name, _)| name != "recipe.json").collect()
}

/// Without a step that moves anything the codes are those of rounding to nearest, and every other byte of the folder too.
#[test]
fn what_was_not_moved_is_what_rtn_makes() {
    let still = [
        ("block_ap", "weight_learning_rate: 0.0, quantizer_learning_rate: 0.0"),
        ("block_ap", "weight_learning_rate: 1e-30, quantizer_learning_rate: 1e-30, max_steps: 2"),
        ("auto_round", "steps: 0"),
        ("auto_round", "steps: 3, learning_rate: 0.0"),
    ];
    for scheme in [W2, r#"scheme: "W4A16", group_size: 32"#, r#"scheme: "W8A8", ignore: ["*.o_proj"]"#] {
        let project = Project::new();
        let mut models = vec![quantize("rtn", scheme)];
        models.extend(still.map(|(method, options)| quantize(method, &format!("{scheme}, {options}"))));
        project.write("blocks.rhai", &script(&models));
        project.run(&["run", "blocks.rhai"]).exits(0);
        let theirs = files(&project.stored("results", "quantize", "rtn")[0].0.join("model"));
        for method in ["block_ap", "auto_round"] {
            let stored = project.stored("results", "quantize", method);
            assert_eq!(stored.len(), 2, "{scheme}");
            for (folder, record) in stored {
                let ours = files(&folder.join("model"));
                assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{scheme}");
                for (name, bytes) in &ours {
                    assert!(*bytes == theirs[name], "{scheme}: {name} differs: {:#}", record["identity"]["params"]);
                }
            }
        }
    }
}

/// The loss of every block falls, what the folder computes is nearer to the unquantized model than what `rtn` makes, and nothing hangs
/// on the number of threads.
#[test]
fn blocks_learn_to_answer_as_the_unquantized_ones_do() {
    let mut models = vec![quantize("rtn", W2)];
    models.extend(METHODS.map(|(method, options)| quantize(method, &format!("{W2}, {options}"))));
    let run = |threads: &str| {
        let project = Project::new();
        project.write("blocks.rhai", &script(&models));
        project.run(&["run", "blocks.rhai", "--threads", threads]).exits(0);
        project
    };
    let project = run("1");
    let rows = csv(&project.read("results/reports/blocks/table.csv"));
    let divergence = |row: usize| -> f64 { rows[row]["kl.kl"].parse().unwrap() };
    for (row, (method, _)) in METHODS.into_iter().enumerate() {
        let (folder, record) = project.stored("results", "quantize", method).remove(0);
        for layer in 0..LAYERS {
            let told = &record["facts"]["plugin"][format!("model.layers.{layer}")];
            let [before, after] = ["loss_before", "loss_after"].map(|when| told[when].as_f64().unwrap());
            assert!(after < 0.9 * before, "{method}: {told}");
            assert!(told["codes"]["changed"].as_u64().unwrap() > 0, "{method}: {told}");
        }
        let told = &record["facts"]["plugin"]["model.layers.1"];
        if method == "block_ap" {
            // An eighth of twelve.
            assert_eq!((&told["validation_sequences"], &told["sequences"]), (&1.into(), &11.into()), "{told}");
            let [before, after] = ["before", "after"].map(|when| told[format!("validation_loss_{when}")].as_f64());
            assert!(before.is_some() && after < before, "{told}");
            assert_eq!(told["steps"], 24);
        }
        assert!(divergence(row + 1) < 0.9 * divergence(0), "{method}: {} for {}", divergence(row + 1), divergence(0));
        let curve = fs::read_to_string(folder.join("curve.csv")).unwrap();
        assert!(curve.starts_with("step,") && curve.contains("model.layers.1/loss"), "{curve}");
        Checkpoint::open(&folder.join("model")).unwrap();
    }
    assert!(project.artifacts("results") == run("2").artifacts("results"), "threads change the bytes");
}

/// A block whose training was killed begins again, and ends as it would have.
#[test]
fn killed_trainings_of_blocks_end_with_the_same_bytes() {
    for (method, options) in METHODS {
        let start = || {
            let project = Project::new();
            project.write_model("tiny", 32, 6);
            project.write("blocks.rhai", &script(&[quantize(method, &format!("{W2}, {options}"))]));
            project
        };
        let arguments = ["run", "blocks.rhai", "--jobs", "1", "--threads", "1"];
        let undisturbed = start();
        undisturbed.run(&arguments).exits(0);
        let project = start();
        let mut met = Vec::new();
        for wanted in [1, 3] {
            let mut run = Followed::start(&project, &arguments);
            run.until(|event| {
                let said = &event["said"];
                said["unit"] == "blocks" && said["total"] == 6 && said["done"].as_u64() >= Some(wanted)
                    || event["event"] == "node_ended"
            });
            run.signal_with(Signal::KILL);
            met.push(run.end().0);
            project.assert_no_process_stays();
        }
        assert!(met.contains(&None), "{method}: nothing was killed");
        project.run(&arguments).exits(0);
        assert!(project.artifacts("results") == undisturbed.artifacts("results"), "{method}: other bytes");
    }
}

/// Norms are put as the model stores them, and what is measured last is what is put.
#[test]
fn gains_of_norms_keep_the_dtype_of_the_model() {
    let project = Project::new();
    let half = r#"base.train("sft", #{ data: data, max_steps: 1, learning_rate: 0.0, dtype: "bfloat16" })"#;
    let (method, options) = METHODS[0];
    let made = format!("{half}.quantize(\"{method}\", #{{ {W2}, {options}, calibration: data }})");
    project.write("blocks.rhai", &script(&[made]));
    project.run(&["run", "blocks.rhai"]).exits(0);
    let (folder, _) = project.stored("results", "quantize", method).remove(0);
    let made = Checkpoint::open(&folder.join("model")).unwrap();
    for name in ["input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"] {
        let name = format!("model.layers.0.{name}.weight");
        assert_eq!(made.dtype(&name), Some(Dtype::BF16), "{name}");
        let values = made.values(&name).unwrap();
        assert!(values.iter().any(|value| *value != 1.0), "{name} was not trained");
    }
}

/// What was said, without the breaks of its lines.
fn said(text: &str) -> String {
    text.replace("│", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn schemes_that_cannot_be_trained_are_refused_while_the_script_runs() {
    let project = Project::new();
    for (method, options, part) in [
        ("block_ap", r#"scheme: "W8A8_STATIC""#, "static scales of inputs"),
        ("block_ap", r#"scheme: "NVFP4A16""#, "above those of groups is not learned"),
        ("block_ap", r#"scheme: "MXFP4A16""#, "scales are learned as numbers"),
        ("auto_round", r#"scheme: "FP8_DYNAMIC""#, "which of two integers"),
        ("auto_round", r#"scheme: "W4A16", group_size: 16, weights: #{ observer: "mse" }"#, "learns ranges itself"),
        ("auto_round", r#"scheme: "W8A8_STATIC""#, "static scales of inputs"),
    ] {
        project.write("blocks.rhai", &script(&[quantize(method, options)]));
        let outcome = project.run(&["run", "blocks.rhai"]);
        assert!(
            outcome.code == 2 && said(&outcome.err).contains(part),
            "{method}, {options}: {} {}",
            outcome.code,
            outcome.err
        );
    }
    // What only a job knows: sequences that are left, and signs of scales.
    for (options, part) in [
        (r#"scheme: "W4A16", group_size: 16, validation_sequences: 12"#, "nothing is left to learn of"),
        (
            r#"scheme: "W4A16", group_size: 16, keep_best: true, validation_sequences: 0"#,
            "is about validation sequences, and there are none",
        ),
        (r#"scheme: "W4A16", group_size: 16, conventions: #{ range: "signed_extreme" }"#, "sign is that of an extreme"),
        (r#"scheme: "W4A16", group_size: 16, weight_learning_rate: 1e30"#, "training block 0"),
    ] {
        project.write("blocks.rhai", &script(&[quantize("block_ap", options)]));
        let outcome = project.run(&["run", "blocks.rhai"]);
        assert!(outcome.code == 4 && said(&outcome.err).contains(part), "{options}: {} {}", outcome.code, outcome.err);
    }
}

#[test]
fn a_block_of_which_nothing_is_quantized_is_left_alone() {
    let project = Project::new();
    let models: Vec<String> = METHODS
        .iter()
        .map(|(method, options)| quantize(method, &format!("{W2}, {options}, ignore: [\"model.layers.0.*\"]")))
        .collect();
    project.write("blocks.rhai", &script(&models));
    project.run(&["run", "blocks.rhai"]).exits(0);
    for (method, _) in METHODS {
        let (folder, record): (_, Value) = project.stored("results", "quantize", method).remove(0);
        let told = &record["facts"]["plugin"];
        assert!(told["model.layers.0"].is_null() && told["model.layers.1"].is_object(), "{told}");
        let (made, tiny) = (folder.join("model"), project.path().join("tiny"));
        let [made, tiny] = [made, tiny].map(|folder| Checkpoint::open(&folder).unwrap());
        for name in tiny.names().into_iter().filter(|name| name.starts_with("model.layers.0.")) {
            assert_eq!(made.values(&name).unwrap(), tiny.values(&name).unwrap(), "{name}");
        }
    }
}
