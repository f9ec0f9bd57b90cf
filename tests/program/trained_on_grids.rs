//! Training on the grids of a scheme, with a teacher, with data to validate on.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};
use workbench_model::{Checkpoint, WeightSource};

use super::project::{LAYERS, LINEARS, Outcome, Project, csv, sources};

const BEGIN: &str = r#"
let base = model("tiny");
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 3, max_seq_length: 16 });
let task = perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 });
let table = report("trained");
"#;

fn project() -> Project {
    let project = Project::new();
    project.add_plugins(&["round_trainer", "copy_teacher", "sign_trainer"]);
    project
}

/// A script that measures what some expressions make.
fn script(models: &[&str]) -> String {
    let row = |(index, model): (usize, &&str)| format!("table.row(({model}).evaluate(task), #{{ model: {index} }});\n");
    let rows: String = models.iter().enumerate().map(row).collect();
    format!("{BEGIN}{rows}table.write();\n")
}

fn run(project: &Project, models: &[&str], code: i32) -> Outcome {
    project.write("trained.rhai", &script(models));
    project.run(&["run", "trained.rhai"]).exits(code)
}

/// The one result of a kind and method, and its record.
fn made(project: &Project, kind: &str, method: &str) -> (PathBuf, Value) {
    let mut stored = project.stored("results", kind, method);
    assert_eq!(stored.len(), 1, "results of {method}");
    let (folder, record) = stored.remove(0);
    (folder.join("model"), record)
}

/// The files of a model but its recipe, which tells how it was made.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let named = entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap()));
    named.filter(|(name, _)| name != "recipe.json").collect()
}

const CACHE: &str = r#"kv_cache_scheme: #{ num_bits: 8, type: "float", group_size: 8, dynamic: true }"#;

/// Schemes, and the linears whose inputs they round.
const SCHEMES: [(&str, usize); 10] = [
    (r#"scheme: "W4A16", group_size: 32"#, 0),
    (r#"scheme: "W4A16_ASYM", group_size: 16, ignore: ["*.o_proj"]"#, 0),
    (r#"scheme: "W8A8""#, 7),
    (r#"scheme: "FP8_DYNAMIC""#, 7),
    (r#"scheme: "NVFP4A16""#, 0),
    (r#"scheme: "MXFP4""#, 7),
    (r#"scheme: "W4A16", group_size: 16, config_groups: #{ down: #{ targets: ["*.down_proj"], scheme: "W8A8" } }"#, 1),
    (r#"scheme: "W8A16", group_size: 32, conventions: #{ range: "restricted" }"#, 0),
    (r#"scheme: "FP8_DYNAMIC", KV"#, 7),
    ("KV", 0),
];

/// Who trains and rounds to nearest instead leaves what `rtn` leaves, to the last byte: weights, scales and configuration.
#[test]
fn what_is_rounded_to_nearest_on_grids_is_what_rtn_makes() {
    for (scheme, inputs) in SCHEMES {
        let scheme = scheme.replace("KV", CACHE);
        let project = project();
        let quantized = format!("base.quantize(\"rtn\", #{{ {scheme} }})");
        let trained = format!("base.train(\"round_trainer\", #{{ {scheme}, data: data }})");
        run(&project, &[&quantized, &trained], 0);
        let ((theirs, rtn), (ours, record)) =
            (made(&project, "quantize", "rtn"), made(&project, "train", "round_trainer"));
        let (theirs, files) = (files(&theirs), files(&ours));
        assert_eq!(files.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>(), "{scheme}");
        for (name, bytes) in &files {
            assert!(*bytes == theirs[name], "{scheme}: {name} differs");
        }
        assert!(files.keys().filter(|name| name.starts_with("model-block-")).count() == LAYERS, "{scheme}");
        for fact in ["grids", "layers", "written", "kv_cache", "warnings"] {
            assert_eq!(record["facts"][fact], rtn["facts"][fact], "{scheme}");
        }
        let told = &record["facts"]["plugin"];
        assert_eq!((&told["inputs"], &told["input_grids"]), (&json!(["model"]), &json!(inputs * LAYERS)), "{scheme}");
        assert_eq!(told["cache"].is_null(), !scheme.contains("kv_cache"), "{scheme}");
        let rows = csv(&project.read("results/reports/trained/table.csv"));
        assert_eq!(rows[0]["perplexity.nll"], rows[1]["perplexity.nll"], "{scheme}");
        assert_eq!(rows[0]["engine"], rows[1]["engine"], "{scheme}");
        let opened = Checkpoint::open(&ours).unwrap();
        assert!(opened.quantization().is_some(), "{scheme}");
    }
}

/// The demo's weights are bfloat16, and so are the scales of its codes.
#[test]
fn the_same_of_a_model_in_bfloat16() {
    for scheme in ["W4A16", "FP8_BLOCK", "NVFP4A16", "MXFP8"] {
        let project = project();
        fs::create_dir(project.path().join("small")).unwrap();
        for entry in fs::read_dir(sources().join("experiments/demo/model")).unwrap().map(|entry| entry.unwrap().path())
        {
            fs::copy(&entry, project.path().join("small").join(entry.file_name().unwrap())).unwrap();
        }
        let options = format!("scheme: \"{scheme}\", {CACHE}");
        let quantized = format!("model(\"small\").quantize(\"rtn\", #{{ {options} }})");
        let trained = format!("model(\"small\").train(\"round_trainer\", #{{ {options}, data: data }})");
        run(&project, &[&quantized, &trained], 0);
        let ((theirs, _), (ours, _)) = (made(&project, "quantize", "rtn"), made(&project, "train", "round_trainer"));
        assert!(files(&theirs) == files(&ours), "{scheme}");
        let norm = Checkpoint::open(&ours).unwrap().dtype("model.norm.weight").unwrap().to_string();
        assert_eq!(norm, "BF16");
    }
}

#[test]
fn labels_name_the_scheme_and_a_model_of_codes_is_not_quantized_again() {
    let project = project();
    let trained = r#"base.train("round_trainer", #{ scheme: "W4A16", group_size: 32, data: data })"#;
    project.write("trained.rhai", &script(&[trained]));
    let plan = project.run(&["plan", "trained.rhai", "--json"]).exits(0).json();
    let node = plan["nodes"].as_array().unwrap().iter().find(|node| node["kind"] == "train").unwrap();
    assert_eq!(node["label"], "train round_trainer W4A16 group_size 32");
    assert_eq!(node["note"], "14 of 14 layers");
    project.write("again.rhai", &format!("{BEGIN}{trained}.quantize(\"rtn\", #{{ scheme: \"W8A16\" }});"));
    let outcome = project.run(&["run", "again.rhai"]).exits(2);
    assert!(outcome.err.contains("its weights are codes already"), "{}", outcome.err);
    // Servers run q, k and v as one.
    let split = r#"base.train("round_trainer", #{ scheme: "INT8", ignore: ["*.v_proj"], data: data })"#;
    project.write("split.rhai", &script(&[split]));
    let planned = project.run(&["plan", "split.rhai"]).exits(0);
    assert!(planned.err.contains("in 2 layers q_proj, k_proj is quantized and v_proj is not"), "{}", planned.err);
}

/// What is not quantized is written in the dtype that was asked for, and scales are stored in it.
#[test]
fn a_dtype_is_that_of_what_stays_and_of_scales() {
    let project = project();
    let options = r#"scheme: "W8A16", group_size: 32"#;
    let trained =
        format!("base.train(\"round_trainer\", #{{ {options}, data: data, dtype: \"bfloat16\", norm: 1.01 }})");
    run(&project, &[&trained], 0);
    let (folder, record) = made(&project, "train", "round_trainer");
    let opened = Checkpoint::open(&folder).unwrap();
    let dtype = |name: &str| opened.dtype(name).unwrap().to_string();
    assert_eq!((dtype("model.norm.weight"), dtype("model.embed_tokens.weight")), ("BF16".into(), "BF16".into()));
    assert_eq!(opened.values("model.norm.weight").unwrap()[0], 1.0078125, "1.01 in bfloat16");
    assert_eq!(record["facts"]["grids"][0]["grid"]["weights"]["scale_dtype"], "torch.bfloat16");
    assert_eq!(opened.config_json()["torch_dtype"], "bfloat16");
    let codes = opened.quantized_linear("model.layers.0.mlp.up_proj").unwrap().unwrap();
    assert!(codes.parameters.scales.iter().all(|scale| scale.to_bits() & 0xffff == 0), "scales are bfloat16");
}

#[test]
fn a_trainer_that_breaks_the_contract_is_refused_by_name() {
    let down = "model.layers.0.mlp.down_proj";
    for (fault, problem) in [
        ("other_grid", "codes of `model.layers.0.self_attn.q_proj`: they are on another grid than the one asked for"),
        ("missing", &*format!("it put no codes of `{down}`")),
        ("dense", &*format!("tensor `{down}.weight`: its linear has a grid, on which it is to be put as codes")),
        ("ignored", "codes of `model.layers.0.self_attn.o_proj`: the job leaves this linear alone: it has no grid"),
        ("patches_config", "a trainer on grids writes no configuration"),
    ] {
        let project = project();
        let train = format!(
            "base.train(\"round_trainer\", #{{ scheme: \"W8A16\", group_size: 32, ignore: \"*.o_proj\", data: data, fault: \"{fault}\" }})"
        );
        let outcome = run(&project, &[&train], 4);
        let told = outcome.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(told.contains(problem) && told.contains("plugin `round_trainer`"), "{fault}: {}", outcome.err);
        assert!(project.stored("results", "train", "round_trainer").is_empty(), "{fault}");
    }
}

/// Each mistake with what is said about it and the text at which it stands.
#[test]
fn mistakes_are_found_while_the_script_runs() {
    let project = project();
    project.write_model("other", 32, 1);
    let config = project.read("other/config.json");
    let mut smaller: Value = serde_json::from_str(&config).unwrap();
    smaller["vocab_size"] = json!(2000);
    project.write("smaller/config.json", &smaller.to_string());
    project.write("bare/config.json", &config);
    for (line, problem, hint, place) in [
        (
            r#"base.train("sft", #{ data: data, scheme: "W4A16" })"#,
            "`sft` learns plain weights, and takes no scheme",
            "on grids train `grpo`, `qat`, `round_trainer`",
            "scheme",
        ),
        (
            r#"base.train("sft", #{ data: data, kv_cache_scheme: #{ num_bits: 8 } })"#,
            "`sft` learns plain weights, and takes no scheme",
            ".train(…).quantize(method, #{ scheme: … })",
            "kv_cache_scheme",
        ),
        (
            r#"base.train("round_trainer", #{ data: data })"#,
            "`round_trainer` learns codes, and needs a scheme to learn them for",
            "for example scheme: \"W4A16\"",
            "round_trainer",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "W8A8_STATIC" })"#,
            "`W8A8_STATIC` has static activation scales",
            "choose dynamic activations",
            "scheme",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "NVFP4" })"#,
            "`NVFP4` has static activation scales",
            "choose dynamic activations",
            "scheme",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "FP8_DYNAMIC", kv_cache_scheme: #{ num_bits: 8, strategy: "tensor" } })"#,
            "`kv_cache_scheme` has static scales",
            "choose a dynamic cache",
            "kv_cache_scheme",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "W4A16", group_size: 32, num_bits: 5 })"#,
            "`round_trainer` does not take this scheme: `num_bits` of the weights is 5: others were never tried",
            "it takes 3, 4, 8",
            "num_bits",
        ),
        (r#"base.train("round_trainer", #{ data: data, scheme: "W4A61" })"#, "W4A61", "did you mean", "scheme"),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "W4A16", group_size: 24 })"#,
            "groups of 24 do not divide",
            "these sizes fit every layer",
            "group_size",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "W8A16", group_size: 32, ignore: "*.donw_proj" })"#,
            "*.donw_proj",
            "",
            "*.donw_proj",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, config_groups: [#{ target: "*.down_proj", scheme: "INT8" }] })"#,
            "a group of `train` has no option `target`",
            "did you mean `targets`?",
            "target",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", targets: ["Linear", "lm_head"] })"#,
            "`round_trainer` learns codes of the linears of decoder blocks, and `lm_head` is a target",
            "leave it out of the targets",
            "lm_head",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "W8A16", group_size: 32, targets: ["Embedding"] })"#,
            "and `model.embed_tokens` is a target",
            "leave it out of the targets",
            "Embedding",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", untie_word_embeddings: true })"#,
            "as one tensor",
            "leave the option out",
            "untie_word_embeddings",
        ),
        (
            r#"architecture("tiny").train("round_trainer", #{ data: data, scheme: "INT8" })"#,
            "`tiny` has no weights to choose grids by",
            "train it first",
            "",
        ),
        (
            r#"base.quantize("rtn", #{ scheme: "INT8" }).train("round_trainer", #{ data: data, scheme: "INT8" })"#,
            "its weights are codes already",
            "start from the model before its quantization",
            "",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", observer: "mse" })"#,
            "`observer` chooses static input scales, and this scheme has none",
            "",
            "mse",
        ),
        (r#"base.train("round_trainer", #{ data: data, scheme: "INT8", zzz: 3 })"#, "zzz", "teacher", "zzz"),
        (
            r#"base.train("sft", #{ data: data, teacher: base })"#,
            "`sft` reads no teacher",
            "leave the option out",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: "tiny" })"#,
            "must be a model, not the string \"tiny\"",
            "",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: data })"#,
            "must be a model, not a dataset",
            "",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: base, scheme: "INT8" })"#,
            "must be a dataset, not a model",
            "",
            "data",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", fault: base })"#,
            "`fault` of `train` cannot be a model",
            "",
            "fault",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teachr: base })"#,
            "`teachr` of `train` cannot be a model",
            "did you mean `teacher`?",
            "teachr",
        ),
        (
            r#"base.quantize("rtn", #{ scheme: "INT8", teacher: base })"#,
            "`teacher` of `quantize` cannot be a model",
            "",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: architecture("bare") })"#,
            "the teacher `bare` has no weights",
            "train it first",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: architecture("smaller").train("sft", #{ data: data, init: "random" }) })"#,
            "the teacher has a vocabulary of 2000, the model one of",
            "take a teacher with the model's tokenizer",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: base.quantize("rtn", #{ scheme: "INT8" }) })"#,
            "rounds activations while it runs",
            "take a teacher whose weights alone are quantized",
            "teacher",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", teacher: base.quantize("rtn", #{ kv_cache_scheme: #{ num_bits: 8, group_size: 8, dynamic: true } }) })"#,
            "rounds activations while it runs",
            "take a teacher whose weights alone are quantized",
            "teacher",
        ),
        (
            r#"base.train("copy_teacher", #{ data: data, validation: data })"#,
            "`copy_teacher` needs a model `teacher` beside the model",
            "pass teacher: model(…)",
            "copy_teacher",
        ),
        (
            r#"base.train("copy_teacher", #{ data: data, teacher: base })"#,
            "`copy_teacher` needs validation data beside the model",
            "pass validation: dataset(…)",
            "copy_teacher",
        ),
        (
            r#"base.train("sign_trainer", #{ data: data, validation: data })"#,
            "`sign_trainer` reads no validation",
            "leave the option out",
            "validation",
        ),
        (
            r#"base.train("round_trainer", #{ data: data, scheme: "INT8", validation: data.tokens(#{ max_seq_length: 2048 }) })"#,
            "2048",
            "",
            "",
        ),
    ] {
        project.write("wrong.rhai", &format!("{BEGIN}\n{line};\n"));
        let outcome = project.run(&["run", "wrong.rhai"]).exits(2);
        // A long message is wrapped.
        let told = outcome.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(told.contains(problem) && told.contains(hint), "{line}\n{}", outcome.err);
        assert!(told.contains("wrong.rhai:7:"), "{line}\n{}", outcome.err);
        // The line is shown, and the text at fault underlined.
        let under = outcome.err.lines().find(|line| line.trim_start().starts_with('·')).unwrap_or_default();
        let shown = outcome.err.lines().find(|shown| shown.contains(line)).unwrap_or_default();
        let marked: String =
            shown.chars().zip(under.chars()).filter(|(_, mark)| *mark == '─').map(|(c, _)| c).collect();
        assert!(place.is_empty() || marked == place, "{line}: `{marked}` is marked\n{}", outcome.err);
        assert!(!project.path().join("results/store").exists(), "{line}: something ran");
    }
}

/// The sum that the trainer notes of its teacher.
fn noted(record: &Value) -> f64 {
    record["facts"]["plugin"]["teacher"]["sum"].as_f64().unwrap_or_else(|| panic!("{:#}", record["facts"]))
}

fn magnitudes(folder: &Path) -> f64 {
    let values = Checkpoint::open(folder).unwrap().values("model.layers.0.mlp.down_proj.weight").unwrap();
    values.iter().map(|value| f64::from(value.abs())).sum()
}

/// A folder, a model of another shape, one that another node makes, one of codes: the trainer reads the one that it was given.
#[test]
fn the_teacher_that_was_given_is_the_one_that_is_read() {
    let project = project();
    project.write_model("large", 64, 3);
    let trained = |teacher: &str| {
        format!(
            "base.train(\"round_trainer\", #{{ scheme: \"W8A16\", group_size: 32, data: data, teacher: {teacher} }})"
        )
    };
    let coded = r#"base.quantize("rtn", #{ scheme: "W4A16", group_size: 32 })"#;
    let models = ["base", "model(\"large\")", coded].map(trained);
    let models: Vec<&str> = models.iter().map(String::as_str).chain([trained_alone()]).collect();
    project.write("trained.rhai", &script(&models));
    let plan = project.run(&["plan", "trained.rhai", "--json"]).exits(0).json();
    let nodes: Vec<&Value> = plan["nodes"].as_array().unwrap().iter().filter(|node| node["kind"] == "train").collect();
    let labels: Vec<&str> = nodes.iter().map(|node| node["label"].as_str().unwrap()).collect();
    let alone = "train round_trainer W8A16 group_size 32";
    let expected = ["tiny", "large", "[rtn W4A16 group_size 32]"].map(|name| format!("{alone} teacher {name}"));
    assert_eq!(labels[..3], expected);
    assert_eq!(labels[3], alone);
    let keys: std::collections::BTreeSet<&str> = nodes.iter().map(|node| node["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 4, "the teacher is part of the key");
    assert!(nodes[0]["identity"]["inputs"]["teacher"]["source"].is_string(), "{}", nodes[0]["identity"]["inputs"]);
    let quantized = plan["nodes"].as_array().unwrap().iter().find(|node| node["kind"] == "quantize").unwrap();
    assert_eq!(nodes[2]["identity"]["inputs"]["teacher"]["node"], quantized["key"]);
    assert!(nodes[1]["memory"].as_u64() > nodes[3]["memory"].as_u64(), "the teacher takes memory");

    project.run(&["run", "trained.rhai"]).exits(0);
    let (codes, _) = made(&project, "quantize", "rtn");
    let records = project.stored("results", "train", "round_trainer");
    let of = |key: &Value| {
        let found = records.iter().find(|(_, record)| record["identity"]["inputs"]["teacher"] == *key);
        found.unwrap_or_else(|| panic!("no record with {key}"))
    };
    let teachers = [project.path().join("tiny"), project.path().join("large"), codes.clone()];
    for (node, teacher) in nodes.iter().zip(&teachers) {
        let (folder, record) = of(&node["identity"]["inputs"]["teacher"]);
        let layers = Checkpoint::open(teacher).unwrap().config().num_layers;
        assert_eq!(
            (noted(record), record["facts"]["plugin"]["teacher"]["layers"].as_u64()),
            (magnitudes(teacher), Some(layers as u64))
        );
        assert_eq!(record["facts"]["plugin"]["inputs"], json!(["model", "teacher"]));
        let recipe: Value = serde_json::from_slice(&fs::read(folder.join("model/recipe.json")).unwrap()).unwrap();
        let stage = &recipe["stages"][0];
        assert_eq!(recipe["stages"].as_array().unwrap().len(), 1);
        let stages = stage["models"]["teacher"]["stages"].as_array().unwrap();
        assert_eq!(stages.len(), usize::from(*teacher == codes), "{recipe:#}");
        assert!(stage["models"]["teacher"]["base"].is_string());
    }
    assert_ne!(magnitudes(&teachers[0]), magnitudes(&teachers[1]));
    assert_ne!(magnitudes(&teachers[0]), magnitudes(&teachers[2]));
    // Nothing is left to do, and nothing of it is garbage.
    let again = project.run(&["plan", "trained.rhai"]).exits(0);
    assert!(again.out.contains(" 0 to run"), "{}", again.out);
    let kept = project.stored("results", "quantize", "rtn").len();
    project.run(&["gc", "--yes"]).exits(0);
    assert_eq!(project.stored("results", "quantize", "rtn").len(), kept, "a teacher was collected");
}

fn trained_alone() -> &'static str {
    r#"base.train("round_trainer", #{ scheme: "W8A16", group_size: 32, data: data })"#
}

/// Codes of a teacher are read as the numbers that they stand for; and a trainer of plain weights may have a teacher, too.
#[test]
fn a_student_can_become_its_teacher() {
    let project = project();
    let teacher = r#"base.quantize("rtn", #{ scheme: "NVFP4A16" })"#;
    let trained = format!("base.train(\"copy_teacher\", #{{ data: data, validation: data, teacher: {teacher} }})");
    let outcome = run(&project, &[teacher, &trained], 0);
    assert!(outcome.err.contains("its validation data are what it is trained on"), "{}", outcome.err);
    let rows = csv(&project.read("results/reports/trained/table.csv"));
    assert_eq!(rows[0]["perplexity.nll"], rows[1]["perplexity.nll"]);
    assert_eq!((rows[0]["engine"].as_str(), rows[1]["engine"].as_str()), ("fake-quantized", "exact"));
    let (theirs, ours) = (made(&project, "quantize", "rtn").0, made(&project, "train", "copy_teacher").0);
    let (theirs, ours) = (Checkpoint::open(&theirs).unwrap(), Checkpoint::open(&ours).unwrap());
    for (name, ..) in LINEARS {
        let name = format!("model.layers.1.{name}.weight");
        assert!(theirs.values(&name).unwrap() == ours.values(&name).unwrap(), "{name}");
    }
}

/// A tokenizer that spells one token otherwise is another one, whichever way the models came.
#[test]
fn a_teacher_with_another_tokenizer_is_refused() {
    let project = project();
    project.write_model("other", 32, 1);
    let train = |teacher: &str| {
        format!("base.train(\"round_trainer\", #{{ scheme: \"INT8\", data: data, teacher: {teacher} }})")
    };
    // What a tokenizer was last used with does not matter.
    let mut tokenizer: Value = serde_json::from_str(&project.read("tiny/tokenizer.json")).unwrap();
    tokenizer["truncation"] = json!({ "direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0 });
    project.write("other/tokenizer.json", &tokenizer.to_string());
    run(&project, &[&train("model(\"other\")")], 0);

    let vocabulary = tokenizer["model"]["vocab"].as_object_mut().unwrap();
    let names: Vec<String> =
        vocabulary.iter().filter(|(_, id)| id.as_u64() > Some(1000)).map(|(name, _)| name.clone()).take(2).collect();
    let (one, two) = (vocabulary[&names[0]].clone(), vocabulary[&names[1]].clone());
    (vocabulary[&names[0]], vocabulary[&names[1]]) = (two, one);
    project.write("other/tokenizer.json", &tokenizer.to_string());
    for teacher in [
        "model(\"other\")",
        "model(\"other\").quantize(\"rtn\", #{ scheme: \"W8A16\", group_size: 32 })",
        "architecture(\"other\").train(\"sft\", #{ data: data, max_steps: 1, init: \"random\" })",
    ] {
        let outcome = run(&project, &[&train(teacher)], 2);
        assert!(outcome.err.contains("the teacher `other` has another tokenizer than `tiny`"), "{}", outcome.err);
    }
}

#[test]
fn validation_data_come_as_a_stream_with_tokens_of_their_own() {
    let project = project();
    project.write("held.txt", "the red house by a river sang to old Mira.\n\nshe baked bread and ran over the hill.\n");
    let held = r#"dataset("held.txt").tokens(#{ max_seq_length: 4, add_bos: false })"#;
    let with = format!("base.train(\"round_trainer\", #{{ scheme: \"INT8\", data: data, validation: {held} }})");
    let without = r#"base.train("round_trainer", #{ scheme: "INT8", data: data })"#;
    let other = with.replace("max_seq_length: 4", "max_seq_length: 5");
    let outcome = run(&project, &[&with, without, &other], 0);
    assert!(!outcome.err.contains("validation data are"), "{}", outcome.err);
    let records: Vec<Value> =
        project.stored("results", "train", "round_trainer").into_iter().map(|(_, record)| record).collect();
    assert_eq!(records.len(), 3, "the data are part of the key");
    let checkpoint = Checkpoint::open(&project.path().join("tiny")).unwrap();
    let ids = workbench_model::Tokenizer::from_checkpoint(&checkpoint)
        .unwrap()
        .encode(&project.read("held.txt"), false)
        .unwrap();
    for record in &records {
        let told = &record["facts"]["plugin"];
        assert_eq!(told["train"]["batches"], 3);
        let Some(length) = record["identity"]["params"]["validation"]["max_seq_length"].as_u64() else {
            assert!(told["validation"].is_null() && record["facts"]["validation"].is_null());
            assert!(record["identity"]["data"]["validation"].is_null());
            continue;
        };
        let sequences = ids.len() / length as usize;
        let firsts: Vec<u32> = ids.chunks_exact(length as usize).map(|chunk| chunk[0]).collect();
        assert_eq!(record["facts"]["validation"]["sequences"], sequences);
        assert_eq!(told["validation"], json!({ "batches": sequences, "first_ids": firsts }));
    }
}

/// What a model was validated on it has seen, and what its teacher was trained on it knows.
#[test]
fn measuring_on_what_was_seen_is_said() {
    let project = project();
    project.write("held.txt", &project.read("text.txt"));
    let held = "dataset(\"held.txt\").tokens(#{ num_calibration_samples: 2, max_seq_length: 16 })";
    let validated = format!("base.train(\"round_trainer\", #{{ scheme: \"INT8\", data: {held}, validation: data }})");
    let teacher = "base.train(\"sft\", #{ data: data, max_steps: 1 })";
    let taught = format!("base.train(\"round_trainer\", #{{ scheme: \"INT8\", data: {held}, teacher: {teacher} }})");
    let alone = format!("base.train(\"round_trainer\", #{{ scheme: \"INT8\", data: {held} }})");
    for (model, said) in [(validated, true), (taught, true), (alone, false)] {
        project.write("seen.rhai", &script(&[&model]));
        let planned = project.run(&["plan", "seen.rhai"]).exits(0);
        assert_eq!(planned.err.contains("seen in calibration or training"), said, "{model}\n{}", planned.err);
    }
}
