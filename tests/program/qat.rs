//! Quantization-aware training: what it leaves behind is what it trained.

use std::{collections::BTreeMap, fs, path::Path};

use serde_json::Value;

use super::project::{Project, csv};

const BEGIN: &str = r#"
let base = model("tiny");
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 3, max_seq_length: 16, add_bos: false });
let first = dataset("text.txt").tokens(#{ num_calibration_samples: 1, max_seq_length: 16, add_bos: false });
let task = perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 1, add_bos: false });
let table = report("qat");
"#;

fn script(models: &[&str]) -> String {
    let row = |(index, model): (usize, &&str)| format!("table.row(({model}).evaluate(task), #{{ model: {index} }});\n");
    let rows: String = models.iter().enumerate().map(row).collect();
    format!("{BEGIN}{rows}table.write();\n")
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    named.filter(|(name, _)| name != "recipe.json").collect()
}

/// Without a step that moves anything the codes are those of rounding to nearest, and every other byte of the folder too.
#[test]
fn what_was_not_moved_is_what_rtn_makes() {
    for (scheme, scales) in [
        (r#"scheme: "W4A16", group_size: 32"#, "dynamic"),
        (r#"scheme: "W4A16_ASYM", group_size: 16"#, "learned"),
        (r#"scheme: "W8A8""#, "frozen"),
        (r#"scheme: "NVFP4A16""#, "dynamic"),
        (r#"scheme: "MXFP4""#, "dynamic"),
        (r#"kv_cache_scheme: #{ num_bits: 8, type: "float", group_size: 8, dynamic: true }"#, "dynamic"),
    ] {
        let project = Project::new();
        let rtn = format!("base.quantize(\"rtn\", #{{ {scheme} }})");
        let qat = format!(
            "base.train(\"qat\", #{{ {scheme}, data: data, scales: \"{scales}\", learning_rate: 0.0, max_steps: 2 }})"
        );
        project.write("qat.rhai", &script(&[&rtn, &qat]));
        project.run(&["run", "qat.rhai"]).exits(0);
        let of = |kind: &str, method: &str| project.stored("results", kind, method).remove(0).0.join("model");
        let (theirs, ours) = (files(&of("quantize", "rtn")), files(&of("train", "qat")));
        assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{scheme}");
        for (name, bytes) in &ours {
            assert!(*bytes == theirs[name], "{scheme}: {name} differs");
        }
    }
}

/// The loss that the trainer measures last is that of the folder as it is opened again.
#[test]
fn the_loss_of_the_folder_is_that_of_the_trainer() {
    for (scheme, scales) in [
        (r#"scheme: "W4A16", num_bits: 2, group_size: 16"#, "learned"),
        (r#"scheme: "W8A8", num_bits: 4"#, "follow"),
        (
            r#"scheme: "FP8_DYNAMIC", kv_cache_scheme: #{ num_bits: 8, type: "float", group_size: 8, dynamic: true }"#,
            "frozen",
        ),
        (r#"scheme: "MXFP4""#, "dynamic"),
    ] {
        let project = Project::new();
        let qat = format!(
            "base.train(\"qat\", #{{ {scheme}, data: data, validation: first, scales: \"{scales}\", loss: \"cross_entropy\", learning_rate: 0.01, max_steps: 6 }})"
        );
        project.write("qat.rhai", &script(&[&qat]));
        project.run(&["run", "qat.rhai"]).exits(0);
        let record: Value = project.stored("results", "train", "qat").remove(0).1;
        let told = &record["facts"]["plugin"];
        assert!(told["codes"]["changed"].as_u64().unwrap() > 0, "{scheme}: {told}");
        let (first, last) = (&told["validation"]["first"], &told["validation"]["last"]);
        assert!(last["loss"].as_f64() < first["loss"].as_f64() && last["step"] == 6, "{scheme}: {told}");
        let rows = csv(&project.read("results/reports/qat/table.csv"));
        let nll: f64 = rows[0]["perplexity.nll"].parse().unwrap();
        let trained = last["loss"].as_f64().unwrap();
        assert!((nll - trained).abs() < 2e-6 * trained, "{scheme}: {nll} in the folder, {trained} in training");
    }
}

#[test]
fn parameters_that_would_say_nothing_are_refused() {
    let project = Project::new();
    for (options, part) in [
        (r#"scheme: "W4A16", group_size: 16, keep_best: true"#, "`keep_best` is about validation data"),
        (r#"scheme: "W4A16", group_size: 16, inputs_follow: true"#, "`inputs_follow` is about inputs"),
        (r#"scheme: "W4A16", group_size: 16, scales_rate: 2.0"#, "`scales_rate` is about learned scales"),
        (r#"scheme: "MXFP4", scales: "learned""#, "powers of two"),
        (r#"scheme: "NVFP4A16", scales: "learned""#, "FP8 lie further apart"),
        (r#"scheme: "MXFP8", inputs_follow: true"#, "do not follow the extremes"),
        (
            r#"scheme: "W4A16", group_size: 16, conventions: #{ range: "signed_extreme" }, scales: "learned""#,
            "sign is that of an extreme",
        ),
        (r#"scheme: "W4A16", group_size: 16, loss: "cross_entropy", teacher: base"#, "learns from no teacher"),
    ] {
        let qat = format!("base.train(\"qat\", #{{ {options}, data: data }})");
        project.write("qat.rhai", &script(&[&qat]));
        let outcome = project.run(&["run", "qat.rhai"]);
        assert!(outcome.code != 0 && outcome.err.contains(part), "{options}: {}", outcome.err);
    }
}

#[test]
fn schemes_are_named_by_bits() {
    let project = Project::new();
    let script = |calls: &str| format!("import \"scripts/schemes\" as schemes;\n{BEGIN}{calls}");
    let rows = r#"
table.row(base.quantize("rtn", schemes::bits(4, 16)).evaluate(task), #{ bits: "4-16" });
table.row(base.quantize("rtn", schemes::bits(16, 16, 8, 8)).evaluate(task), #{ bits: "16-16-8" });
table.row(base.train("qat", schemes::bits(3, 8, 4, 8) + #{ data: data }).evaluate(task), #{ bits: "3-8-4" });
table.write();
"#;
    project.write("bits.rhai", &script(rows));
    let plan = project.run(&["plan", "bits.rhai", "--json"]).exits(0).json();
    let nodes = plan["nodes"].as_array().unwrap();
    let params: Vec<&Value> =
        nodes.iter().filter(|node| node["kind"] != "evaluate").map(|node| &node["identity"]["params"]).collect();
    let bits = |params: &Value| {
        let args = &params["groups"][0]["scheme"]["args"];
        let of = |part: &Value| (part["num_bits"].as_u64(), part["strategy"].as_str().map(str::to_owned));
        (of(&args["weights"]), of(&args["input_activations"]), of(&params["kv_cache"]["args"]))
    };
    let some = |bits: u64, strategy: &str| (Some(bits), Some(strategy.to_owned()));
    let expected = [
        (some(4, "channel"), (None, None), (None, None)),
        ((None, None), (None, None), some(8, "group")),
        (some(3, "channel"), some(8, "token"), some(4, "group")),
    ];
    assert_eq!(params.iter().map(|params| bits(params)).collect::<Vec<_>>(), expected);
    for (call, problem) in [
        ("schemes::bits(16, 8)", "inputs of 8 bits need weights of codes"),
        ("schemes::bits(16, 16, 16, 8)", "16 bits of everything leave nothing to quantize"),
    ] {
        project.write("wrong.rhai", &script(&format!("let none = {call};")));
        let outcome = project.run(&["run", "wrong.rhai"]).exits(2);
        assert!(outcome.err.contains(problem), "{}", outcome.err);
    }
}
