//! Training the scales of a model of codes: what goes in, what stays, what comes out.

use std::{collections::BTreeMap, fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use workbench_model::{Checkpoint, WeightSource};

use super::{
    interrupt::Followed,
    project::{LAYERS, LINEARS, Outcome, Project, csv, sources},
};

const BEGIN: &str = r#"
let base = model("tiny");
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 3, max_seq_length: 16, add_bos: false });
let first = dataset("text.txt").tokens(#{ num_calibration_samples: 1, max_seq_length: 16, add_bos: false });
let task = perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 1, add_bos: false });
let table = report("scales");
"#;

fn script(models: &[&str]) -> String {
    let row = |(index, model): (usize, &&str)| format!("table.row(({model}).evaluate(task), #{{ model: {index} }});\n");
    let rows: String = models.iter().enumerate().map(row).collect();
    format!("{BEGIN}{rows}table.write();\n")
}

fn run(project: &Project, models: &[&str]) -> Outcome {
    project.write("scales.rhai", &script(models));
    project.run(&["run", "scales.rhai"]).exits(0)
}

/// The files of a model but its recipe, which tells how it was made.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    named.filter(|(name, _)| name != "recipe.json").collect()
}

fn made(project: &Project, kind: &str, method: &str) -> (std::path::PathBuf, Value) {
    let (folder, record) = project.stored("results", kind, method).remove(0);
    (folder.join("model"), record)
}

const CACHE: &str = r#"kv_cache_scheme: #{ num_bits: 8, type: "float", group_size: 8, dynamic: true }"#;

/// Schemes whose scales can be learned, and a rate for scales of their size.
fn schemes() -> [(String, f64); 6] {
    [
        (r#"scheme: "W4A16", num_bits: 2, group_size: 16"#.to_owned(), 1e-4),
        (r#"scheme: "W4A16_ASYM", group_size: 16, ignore: ["*.o_proj"]"#.to_owned(), 3e-5),
        (r#"scheme: "W8A8""#.to_owned(), 2e-6),
        (format!(r#"scheme: "FP8_DYNAMIC", {CACHE}"#), 5e-7),
        (
            r#"scheme: #{ weights: #{ num_bits: 8, type: "float", strategy: "block", block_structure: [16, 16] } }"#
                .to_owned(),
            5e-7,
        ),
        (
            r#"scheme: "W4A16", group_size: 16, config_groups: #{ down: #{ targets: ["*.down_proj"], scheme: "W8A8" } }"#
                .to_owned(),
            2e-6,
        ),
    ]
}

/// Without a step that moves anything the folder is the one that it began with, to the last byte; a rate of zero is one way to that.
#[test]
fn what_was_not_moved_is_what_it_began_with() {
    for (scheme, _) in schemes() {
        let project = Project::new();
        let rtn = format!("base.quantize(\"rtn\", #{{ {scheme} }})");
        let trained = format!("{rtn}.train(\"e2e_qp\", #{{ data: data, learning_rate: 0.0, max_steps: 2 }})");
        run(&project, &[&rtn, &trained]);
        let ((theirs, quantized), (ours, record)) =
            (made(&project, "quantize", "rtn"), made(&project, "train", "e2e_qp"));
        let (theirs, ours) = (files(&theirs), files(&ours));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{scheme}");
        for (name, bytes) in &ours {
            assert!(*bytes == theirs[name], "{scheme}: {name} differs");
        }
        for fact in ["grids", "layers", "written", "kv_cache", "warnings"] {
            assert_eq!(record["facts"][fact], quantized["facts"][fact], "{scheme}: {fact}");
        }
        assert_eq!(record["facts"]["plugin"]["scales"]["changed"], 0, "{scheme}");
        let rows = csv(&project.read("results/reports/scales/table.csv"));
        assert_eq!(rows[0]["perplexity.nll"], rows[1]["perplexity.nll"], "{scheme}");
    }
}

/// Codes, zero-points and all that has no codes are the input's, scales are others, and the loss that the trainer measures last is that
/// of the folder as it is opened again.
#[test]
fn scales_alone_change_and_the_loss_of_the_folder_is_that_of_the_trainer() {
    for (scheme, rate) in schemes() {
        let project = Project::new();
        let rtn = format!("base.quantize(\"rtn\", #{{ {scheme} }})");
        let trained = format!(
            "{rtn}.train(\"e2e_qp\", #{{ data: data, validation: first, learning_rate: {rate:.8}, max_steps: 6 }})"
        );
        run(&project, &[&trained]);
        let ((theirs, _), (ours, record)) = (made(&project, "quantize", "rtn"), made(&project, "train", "e2e_qp"));
        let (before, after) = (Checkpoint::open(&theirs).unwrap(), Checkpoint::open(&ours).unwrap());
        assert_eq!(after.config_json(), before.config_json(), "{scheme}");
        let (mut scales, mut changed) = (0, 0);
        for name in before.names() {
            let module = name.strip_suffix(".weight").unwrap_or(&name);
            let linear = LINEARS.iter().any(|(linear, ..)| module.ends_with(linear));
            let Some(old) = linear.then(|| before.quantized_linear(module).unwrap()).flatten() else {
                assert!(before.raw(&name).unwrap().bytes == after.raw(&name).unwrap().bytes, "{scheme}: {name}");
                continue;
            };
            let new = after.quantized_linear(module).unwrap().unwrap();
            assert!(new.codes == old.codes && new.grid == old.grid, "{scheme}: codes of {name}");
            assert_eq!(new.parameters.zero_points, old.parameters.zero_points, "{scheme}: {name}");
            scales += new.parameters.scales.len();
            changed += new.parameters.scales.iter().zip(&old.parameters.scales).filter(|(a, b)| a != b).count();
        }
        let told = &record["facts"]["plugin"];
        assert!(changed > scales / 2, "{scheme}: {changed} of {scales}");
        assert_eq!(told["scales"], serde_json::json!({ "all": scales, "changed": changed }), "{scheme}");
        assert_eq!(told["parameters"], scales, "{scheme}");
        let (first, last) = (&told["validation"]["first"], &told["validation"]["last"]);
        assert!(last["loss"].as_f64() < first["loss"].as_f64() && last["step"] == 6, "{scheme}: {told}");
        let rows = csv(&project.read("results/reports/scales/table.csv"));
        let nll: f64 = rows[0]["perplexity.nll"].parse().unwrap();
        let trained = last["loss"].as_f64().unwrap();
        assert!((nll - trained).abs() < 2e-6 * trained, "{scheme}: {nll} in the folder, {trained} in training");
    }
}

/// What the method is for: the codes of GPTQ at two bits, and scales that are trained for them.
#[test]
fn training_makes_up_for_codes_of_two_bits() {
    let project = Project::new();
    let (demo, folder) = (sources().join("experiments/demo/model"), project.path().join("small"));
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(demo).unwrap().map(|entry| entry.unwrap().path()) {
        fs::copy(&entry, folder.join(entry.file_name().unwrap())).unwrap();
    }
    project.write(
        "scales.rhai",
        r#"
let base = model("small");
let calib = dataset("demo:stories/train").tokens(#{ num_calibration_samples: 48, max_seq_length: 64, characters: 100000 });
let data = dataset("demo:stories/train").tokens(#{ num_calibration_samples: 256, max_seq_length: 64, characters: 500000 });
let held = dataset("demo:stories/valid").tokens(#{ num_calibration_samples: 16, max_seq_length: 64, characters: 100000 });
let weights = #{ num_bits: 2, type: "int", symmetric: false, strategy: "channel" };
let codes = base.quantize("gptq", #{ scheme: #{ weights: weights }, calibration: calib });
let options = #{ data: data, validation: held, batch_size: 8, learning_rate: 0.002 };
let task = perplexity(#{ text: dataset("demo:stories/test"), max_seq_length: 64, blocks: 16, characters: 100000 });
let table = report("scales");
table.row(base.evaluate(task), #{ model: "base" });
table.row(codes.evaluate(task), #{ model: "gptq" });
table.row(codes.train("e2e_qp", options).evaluate(task), #{ model: "gptq then e2e_qp" });
table.row(codes.train("e2e_qp", options + #{ loss: "distillation", teacher: base }).evaluate(task), #{ model: "taught" });
table.write();
"#,
    );
    project.run(&["run", "scales.rhai"]).exits(0);
    let rows = csv(&project.read("results/reports/scales/table.csv"));
    let nll: Vec<f64> = rows.iter().map(|row| row["perplexity.nll"].parse().unwrap()).collect();
    let lost = nll[1] - nll[0];
    assert!(lost > 0.0 && nll[2] < nll[1] - 0.1 * lost && nll[3] < nll[1] - 0.1 * lost, "{nll:?}");
    for (_, record) in project.stored("results", "train", "e2e_qp") {
        let validation = &record["facts"]["plugin"]["validation"];
        assert!(validation["last"]["loss"].as_f64() < validation["first"]["loss"].as_f64(), "{validation}");
    }
}

const ARGUMENTS: [&str; 6] = ["run", "killed.rhai", "--jobs", "1", "--threads", "1"];

#[test]
fn a_training_that_was_killed_ends_with_the_same_bytes() {
    let script = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let codes = model("tiny").quantize("rtn", #{ scheme: "W4A16", num_bits: 3, group_size: 16 });
let trained = codes.train("e2e_qp", #{ data: data, max_steps: 300, batch_size: 2, checkpoint_every: 3, learning_rate: 0.001 });
let table = report("killed");
table.row(trained.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{});
table.write();
"#;
    let whole = Project::new();
    whole.write("killed.rhai", script);
    whole.run(&ARGUMENTS).exits(0);
    let expected = whole.artifacts("results");

    let project = Project::new();
    project.write("killed.rhai", script);
    for step in [10, 60, 150] {
        let mut run = Followed::start(&project, &ARGUMENTS);
        run.until(|event| event["said"]["name"] == "loss" && event["said"]["step"].as_u64() >= Some(step));
        run.signal_with(Signal::KILL);
        let (code, _) = run.end();
        assert_eq!(code, None, "it was not killed");
        project.assert_no_process_stays();
    }
    project.run(&ARGUMENTS).exits(0);
    let found = project.artifacts("results");
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{} differs from the undisturbed run's", name.display());
    }
}

/// Codes are a start for `qat` as well: with scales that stay, a training that moves nothing leaves them.
#[test]
fn qat_starts_from_codes() {
    let project = Project::new();
    let scheme = r#"scheme: "W4A16_ASYM", num_bits: 3, group_size: 16"#;
    let codes = format!("base.quantize(\"gptq\", #{{ {scheme}, calibration: data }})");
    let qat = |options: &str| format!("{codes}.train(\"qat\", #{{ data: data, loss: \"cross_entropy\", {options} }})");
    let still = qat("scales: \"frozen\", learning_rate: 0.0, max_steps: 1");
    let learned = qat("scales: \"learned\", learning_rate: 0.01, max_steps: 6, validation: first");
    run(&project, &[&codes, &still, &learned]);
    let (theirs, _) = made(&project, "quantize", "gptq");
    let trained = project.stored("results", "train", "qat");
    let of = |scales: &str| {
        let found = trained.iter().find(|(_, record)| record["identity"]["params"]["parameters"]["scales"] == scales);
        found.map(|(folder, record)| (folder.join("model"), record)).unwrap()
    };
    assert!(files(&of("frozen").0) == files(&theirs));
    let (folder, record) = of("learned");
    let told = &record["facts"]["plugin"];
    assert!(
        told["codes"]["changed"].as_u64() > Some(0)
            && told["codes"]["changed"].as_u64() < told["codes"]["all"].as_u64()
    );
    assert!(told["validation"]["last"]["loss"].as_f64() < told["validation"]["first"]["loss"].as_f64(), "{told}");
    let (before, after) = (Checkpoint::open(&theirs).unwrap(), Checkpoint::open(&folder).unwrap());
    assert_eq!(after.config_json(), before.config_json());
    assert_eq!(record["facts"]["layers"]["quantized"], LAYERS * LINEARS.len());
    assert!(before.values("model.norm.weight").unwrap() != after.values("model.norm.weight").unwrap());
    // A model of codes has no unquantized self.
    project.write("alone.rhai", &script(&[&format!("{codes}.train(\"qat\", #{{ data: data }})")]));
    let outcome = project.run(&["run", "alone.rhai"]).exits(2);
    assert!(outcome.err.contains("has codes and no numbers behind them"), "{}", outcome.err);
}

/// Codes of a symmetric grid stand for numbers that would make other scales: they stay unless they are learned.
#[test]
fn qat_keeps_the_scales_of_codes() {
    let project = Project::new();
    let codes = r#"base.quantize("rtn", #{ scheme: "W4A16", group_size: 16 })"#;
    let qat = |options: &str| {
        format!(
            "{codes}.train(\"qat\", #{{ data: data, loss: \"cross_entropy\", max_steps: 1, learning_rate: 0.0{options} }})"
        )
    };
    run(&project, &[codes, &qat("")]);
    let (theirs, _) = made(&project, "quantize", "rtn");
    let (ours, _) = made(&project, "train", "qat");
    assert!(files(&ours) == files(&theirs));
    for scales in ["dynamic", "follow"] {
        project.write("anew.rhai", &script(&[&qat(&format!(", scales: \"{scales}\""))]));
        let outcome = project.run(&["run", "anew.rhai"]).exits(4);
        assert!(outcome.err.contains("are not those of the codes"), "{}", outcome.err);
    }
}

#[test]
fn plans_say_what_is_trained_and_how_little_it_takes() {
    let project = Project::new();
    let codes = r#"base.quantize("rtn", #{ scheme: "W4A16", group_size: 16, ignore: "*.o_proj" })"#;
    let scales = format!("{codes}.train(\"e2e_qp\", #{{ data: data }})");
    let all = r#"base.train("qat", #{ scheme: "W4A16", group_size: 16, data: data, loss: "cross_entropy" })"#;
    project.write("scales.rhai", &script(&[&scales, all]));
    let plan = project.run(&["plan", "scales.rhai", "--json"]).exits(0).json();
    let nodes = plan["nodes"].as_array().unwrap();
    let of = |method: &str| {
        nodes.iter().find(|node| node["method"] == method || node["label"].as_str().unwrap().contains(method)).unwrap()
    };
    let (trained, qat) = (of("e2e_qp"), of("train qat"));
    assert_eq!(trained["label"], "train rtn W4A16 group_size 16 ignore *.o_proj > e2e_qp");
    assert_eq!(trained["note"], format!("{} of {} layers", LAYERS * (LINEARS.len() - 1), LAYERS * LINEARS.len()));
    assert_eq!(trained["identity"]["params"]["codes"], true);
    assert!(trained["memory"].as_u64() < qat["memory"].as_u64(), "{trained}\n{qat}");
    assert!(qat["identity"]["params"].get("codes").is_none(), "keys of other trainings are what they were");
}

/// Each mistake with what is said about it and the text at which it stands.
#[test]
fn mistakes_are_found_while_the_script_runs() {
    let project = Project::new();
    let codes = r#"base.quantize("rtn", #{ scheme: "W4A16", group_size: 16 })"#;
    let run = |quantized: &str, options: &str| format!("{quantized}.train(\"e2e_qp\", #{{ {options} }})");
    let of = |scheme: &str| format!("base.quantize(\"rtn\", #{{ {scheme} }})");
    for (line, problem, hint, place) in [
        (
            run("base", "data: data"),
            "`e2e_qp` trains codes, and the weights of `tiny` are none",
            "quantize it first",
            "e2e_qp",
        ),
        (
            run(codes, r#"data: data, scheme: "W8A16""#),
            "are codes already, and their grids are those of the model",
            "leave the option out",
            "scheme",
        ),
        (
            run(codes, "data: data, num_bits: 4"),
            "their grids are those of the model",
            "leave the option out",
            "num_bits",
        ),
        (
            run(codes, r#"data: data, dtype: "bfloat16""#),
            "whose scales keep their dtype",
            "stored as the model is",
            "dtype",
        ),
        (
            format!("{codes}.train(\"sft\", #{{ data: data }})"),
            "cannot train `tiny`: its weights are codes already",
            "codes are trained by `e2e_qp`, `qat`",
            "",
        ),
        (
            run(&of(r#"scheme: "NVFP4A16""#), "data: data"),
            "`strategy` of the weights is \"tensor_group\": scales in FP8 are not learned",
            "\"group\"",
            "e2e_qp",
        ),
        (
            run(&of(r#"scheme: "MXFP4A16""#), "data: data"),
            "scales in so few bits are not learned",
            "torch.bfloat16",
            "e2e_qp",
        ),
        (
            run(&of(r#"scheme: "W8A8_STATIC", calibration: data"#), "data: data"),
            "the model has static activation scales",
            "choose dynamic activations",
            "e2e_qp",
        ),
        (
            run(
                &of(r#"scheme: "W8A16", strategy: "channel", targets: ["Linear", "lm_head", "Embedding"]"#),
                "data: data",
            ),
            "those of `tiny` include `",
            "without it among the targets",
            "e2e_qp",
        ),
        (run(&of(CACHE), "data: data"), "only keys and values of `tiny` are quantized", "", "e2e_qp"),
        (run(codes, "data: data, weight_decay: 0.1, scales: 3"), "scales", "", "scales"),
    ] {
        project.write("wrong.rhai", &format!("{BEGIN}\n{line};\n"));
        let outcome = project.run(&["run", "wrong.rhai"]).exits(2);
        // A long message is wrapped.
        let told = outcome.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(told.contains(problem) && told.contains(hint), "{line}\n{}", outcome.err);
        assert!(told.contains("wrong.rhai:8:"), "{line}\n{}", outcome.err);
        let under = outcome.err.lines().find(|line| line.trim_start().starts_with('·')).unwrap_or_default();
        let shown = outcome.err.lines().find(|shown| shown.contains(&line)).unwrap_or_default();
        let marked: String =
            shown.chars().zip(under.chars()).filter(|(_, mark)| *mark == '─').map(|(c, _)| c).collect();
        assert!(place.is_empty() || marked == place, "{line}: `{marked}` is marked\n{}", outcome.err);
        assert!(!project.path().join("results/store").exists(), "{line}: something ran");
    }
}

/// A folder that was saved is taken as one that a node made.
#[test]
fn a_folder_of_codes_is_a_start_as_well() {
    let project = Project::new();
    let codes = r#"base.quantize("rtn", #{ scheme: "W4A16_ASYM", group_size: 16 })"#;
    project.write("save.rhai", &format!("{}{codes}.save_as(\"kept\");\n", script(&[codes])));
    project.run(&["run", "save.rhai"]).exits(0);
    let train =
        |model: &str| format!("{model}.train(\"e2e_qp\", #{{ data: data, max_steps: 3, learning_rate: 0.001 }})");
    run(&project, &[&train("model(\"kept\")"), &train(codes)]);
    let trained = project.stored("results", "train", "e2e_qp");
    assert_eq!(trained.len(), 2);
    assert!(files(&trained[0].0.join("model")) == files(&trained[1].0.join("model")));
    let scheme = train("model(\"kept\")").replace("max_steps", "group_size: 8, max_steps");
    project.write("wrong.rhai", &script(&[&scheme]));
    let outcome = project.run(&["run", "wrong.rhai"]).exits(2);
    assert!(outcome.err.contains("are codes already"), "{}", outcome.err);
}
