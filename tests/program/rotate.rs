//! The bundled transform `rotate`, run from scripts: on every architecture the function stays as it is.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use workbench_model::{Checkpoint, ModelConfig, WeightSource};
use workbench_rotation::{Hadamard, Rotation};

use super::project::{Project, Random, W8, csv};

/// A random model of an architecture with gains and biases that a fold has to get right.
pub(crate) fn write_model(project: &Project, name: &str, changes: &Value) -> ModelConfig {
    let mut config: Value = serde_json::from_str(&project.read("tiny/config.json")).unwrap();
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let parsed = ModelConfig::from_json(&config, "config.json".as_ref()).unwrap();
    project.write(&format!("{name}/config.json"), &config.to_string());
    for file in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        project.write(&format!("{name}/{file}"), &project.read(&format!("tiny/{file}")));
    }
    let mut random = Random(7);
    let mut tensors = Vec::new();
    for spec in parsed.tensors() {
        let (middle, spread) = if spec.name.ends_with("norm.weight") { (1.0, 0.6) } else { (0.0, 0.4) };
        let count = spec.shape.iter().product();
        let values = (0..count).map(|_| (middle + (2.0 * random.unit() - 1.0) * spread) as f32);
        tensors.push((spec.name, spec.shape, values.flat_map(f32::to_le_bytes).collect::<Vec<u8>>()));
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
    });
    fs::write(project.path().join(name).join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    parsed
}

/// Sizes that need a base matrix: 24 = 12 x 2 and 40 = 20 x 2.
const SIZES: [(&str, usize); 3] = [("hidden_size", 24), ("intermediate_size", 40), ("head_dim", 8)];

fn sized(changes: Value) -> Value {
    let mut all: serde_json::Map<String, Value> = SIZES.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
    all.extend(changes.as_object().unwrap().clone());
    all.into()
}

const SUITE: &str = "[perplexity(#{ text: dataset(\"text.txt\"), max_seq_length: 32, blocks: 4 })]";

/// Runs a script that evaluates models; returns the rows of its table.
fn table(project: &Project, name: &str, rows: &[(String, String)]) -> Vec<f64> {
    let row = |(label, expression): &(String, String)| {
        format!("table.row({expression}.evaluate({SUITE}), #{{ model: \"{label}\" }});\n")
    };
    let script =
        format!("let table = report(\"{name}\");\n{}table.write();\n", rows.iter().map(row).collect::<String>());
    project.write(&format!("{name}.rhai"), &script.replace("W8", W8));
    project.run(&["run", &format!("{name}.rhai")]).exits(0);
    let rows = csv(&project.read(&format!("results/reports/{name}/table.csv")));
    rows.iter().map(|row| row["perplexity.nll"].parse().unwrap()).collect()
}

#[test]
fn every_rotation_of_every_architecture_keeps_the_function() {
    let project = Project::new();
    let architecture = |class: &str, kind: &str| sized(json!({ "architectures": [class], "model_type": kind }));
    let models = [
        ("llama", architecture("LlamaForCausalLM", "llama"), true),
        ("llama-biases", architecture("LlamaForCausalLM", "llama"), false),
        ("qwen2", architecture("Qwen2ForCausalLM", "qwen2"), true),
        ("qwen3", architecture("Qwen3ForCausalLM", "qwen3"), false),
    ];
    let mut rows = Vec::new();
    for (name, mut changes, tied) in models {
        changes["tie_word_embeddings"] = json!(tied);
        if name == "llama-biases" {
            changes["attention_bias"] = json!(true);
            changes["mlp_bias"] = json!(true);
        }
        write_model(&project, name, &changes);
        rows.push((name.to_owned(), format!("model(\"{name}\")")));
        for parameters in [
            "rotations: [\"R1\", \"R2\"]",
            "rotations: [\"R1\", \"R2\", \"R3\", \"R4\"], kind: \"hadamard\"",
            "rotations: [\"R4\", \"R3\"]",
            "rotations: [\"R2\"], kind: \"random-orthogonal\", seed: 3",
            "rotations: [\"R1\", \"R4\"], kind: \"random-orthogonal\", block_size: 8",
        ] {
            let expression = format!("model(\"{name}\").transform(\"rotate\", #{{ {parameters} }})");
            rows.push((rows.len().to_string(), expression));
        }
        // On top of a model that rotates while it runs.
        let twice = format!(
            "model(\"{name}\").transform(\"rotate\", #{{ rotations: [\"R3\", \"R4\"] }}).transform(\"rotate\")"
        );
        rows.push((rows.len().to_string(), twice));
    }
    // The gate of every transform node has compared logits; the table compares what was written.
    let nll = table(&project, "rotations", &rows);
    for group in nll.chunks(7) {
        assert!(group.iter().all(|value| (value - group[0]).abs() < 1e-5), "{group:?}");
    }
    for (_, record) in project.stored("results", "transform", "rotate") {
        let facts = &record["facts"]["equivalence"];
        let (found, limit) = (facts["logit_difference"].as_f64().unwrap(), facts["limit"].as_f64().unwrap());
        assert!(found > 0.0 && found <= limit, "{facts}");
        assert!(limit < 1e-3, "the yardstick itself changes the function: {facts}");
    }
}

#[test]
fn the_artifact_says_what_is_rotated_while_it_runs() {
    let project = Project::new();
    let config = write_model(&project, "model", &sized(json!({ "tie_word_embeddings": true })));
    let rotate = "model(\"model\").transform(\"rotate\", #{ rotations: [\"R1\", \"R2\", \"R3\", \"R4\"], seed: 5 })";
    let rows = [("rotated", rotate.to_owned()), ("rounded", format!("{rotate}.quantize(\"rtn\", #{{ scheme: W8 }})"))];
    let nll = table(&project, "online", &rows.map(|(name, row)| (name.to_owned(), row)));
    assert!(nll[0] != nll[1] && (nll[0] - nll[1]).abs() < 0.1, "8 bits cost little: {nll:?}");

    let opened = |kind: &str, method: &str| {
        let stored = project.stored("results", kind, method);
        let [(folder, _)] = &stored[..] else { panic!("{} results", stored.len()) };
        Checkpoint::open(&folder.join("model")).unwrap()
    };
    let original = Checkpoint::open(&project.path().join("model")).unwrap();
    let rotated = opened("transform", "rotate");
    for made in [&rotated, &opened("quantize", "rtn")] {
        assert_eq!((made.config().online.heads, made.config().online.down), (Some(8), Some(config.intermediate_size)));
        assert!(!made.config().tie_word_embeddings);
        let groups = &made.config_json()["quantization_config"]["transform_config"]["config_groups"];
        assert_eq!(groups["R3"]["apply"][1]["location"], "k_cache");
        assert_eq!(groups["R4"]["apply"][0]["location"], "input");
    }
    let [(_, record)] = &project.stored("results", "transform", "rotate")[..] else { panic!("one transform") };
    let warning = record["facts"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("`transform_config`") && warning.contains("another function"), "{warning}");
    // Gains are folded, heads' own norms are not touched.
    assert!(rotated.values("model.norm.weight").unwrap().iter().all(|gain| *gain == 1.0));
    let head_norm = "model.layers.0.self_attn.q_norm.weight";
    assert_eq!(rotated.values(head_norm).unwrap(), original.values(head_norm).unwrap());
    // The signs of R4 are in the rows of up_proj, so that the forward pass needs none.
    let up = "model.layers.1.mlp.up_proj.weight";
    let plain = Project::new();
    write_model(&plain, "model", &sized(json!({ "tie_word_embeddings": true })));
    let only = "model(\"model\").transform(\"rotate\", #{ rotations: [\"R4\"], seed: 5 })";
    table(&plain, "signs", &[("signs".to_owned(), only.to_owned())]);
    let stored = plain.stored("results", "transform", "rotate");
    let signed = Checkpoint::open(&stored[0].0.join("model")).unwrap();
    let (before, after) = (original.values(up).unwrap(), signed.values(up).unwrap());
    let flipped: Vec<bool> = before.chunks(24).zip(after.chunks(24)).map(|(a, b)| a[0] == -b[0]).collect();
    assert!(before.iter().zip(&after).enumerate().all(|(i, (a, b))| if flipped[i / 24] { *a == -b } else { a == b }));
    let count = flipped.iter().filter(|flipped| **flipped).count();
    assert!((8..=32).contains(&count), "{count} of 40 signs");
    let down = "model.layers.1.mlp.down_proj.weight";
    let mut expected: Vec<f64> = original.values(down).unwrap().iter().map(|v| f64::from(*v)).collect();
    let rotation = Rotation::Hadamard { hadamard: Hadamard::new(40).unwrap(), negative: Some(flipped) };
    rotation.rows(&mut expected).unwrap();
    let found = signed.values(down).unwrap();
    assert!(found.iter().zip(&expected).all(|(a, b)| (f64::from(*a) - b).abs() < 1e-6));
}

#[test]
fn a_fold_that_breaks_the_function_is_caught() {
    let project = Project::new();
    project.add_plugins(&["center_embeddings"]);
    let script = format!(
        "let table = report(\"broken\");\ntable.row(MODEL.transform(\"center_embeddings\").evaluate({SUITE}), #{{ model: \"centred\" }});\ntable.write();\n"
    );
    for model in ["model(\"tiny\")", "model(\"tiny\").transform(\"rotate\", #{ rotations: [\"R4\"] })"] {
        project.write("broken.rhai", &script.replace("MODEL", model));
        let outcome = project.run(&["run", "broken.rhai"]).exits(4);
        assert!(outcome.err.contains("`center_embeddings` changed the model's function"), "{}", outcome.err);
    }
    assert!(project.stored("results", "transform", "center_embeddings").is_empty());
}

#[test]
fn rotations_that_cannot_be_are_errors_that_say_why() {
    let project = Project::new();
    write_model(&project, "odd", &sized(json!({ "intermediate_size": 4 * 47 })));
    let rotate = "model(\"odd\").transform(\"rotate\", #{ rotations: [\"R4\"] })";
    for (expression, code, parts) in [
        (
            rotate.to_owned(),
            4,
            [
                "R4: no construction at hand (Paley, Williamson, Turyn) gives a Hadamard matrix of size 188",
                "block_size: 4",
            ],
        ),
        (rotate.replace(" }", ", block_size: 5 }"), 4, ["`block_size` 5 does not divide", "188"]),
        (
            rotate.replace(" }", ", block_size: 4 }")
                + ".transform(\"rotate\", #{ rotations: [\"R4\"], block_size: 4 })",
            4,
            ["already has an online R4", "leave it out"],
        ),
        (rotate.replace("R4", "R5"), 2, ["R5", "R1"]),
        (rotate.replace("rotations", "rotation"), 2, ["rotation", "rotations"]),
    ] {
        let script = format!(
            "let t = report(\"e\");\nt.row({expression}.evaluate({SUITE}), #{{ model: \"x\" }});\nt.write();\n"
        );
        project.write("error.rhai", &script);
        let outcome = project.run(&["run", "error.rhai"]).exits(code);
        let text = format!("{}{}", outcome.err, outcome.out);
        assert!(parts.iter().all(|part| text.contains(part)), "{expression}:\n{text}");
    }
}

const LEARN: &str = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 6, max_seq_length: 32 });
let learn = #{ steps: param("steps", 8), batch_size: 3, scheme: #{ scheme: "W4A4", group_size: 8 }, checkpoint_every: 2 };
let made = model("tiny").transform("rotate", #{ rotations: ["R1", "R2", "R4"], learn: learn, calibration: data });
let table = report("learn");
table.row(made.quantize("rtn", #{ scheme: #{ scheme: "W4A4", group_size: 8 } }).evaluate(SUITE), #{ model: "learned" });
table.write();
"#;

#[test]
fn rotations_are_learned_on_the_calibration_data() {
    let project = Project::new();
    project.write("learn.rhai", &LEARN.replace("SUITE", SUITE));
    project.run(&["run", "learn.rhai"]).exits(0);
    let stored = project.stored("results", "transform", "rotate");
    let facts = &stored[0].1["facts"];
    let learned = &facts["plugin"]["learned"];
    let number = |key: &str| learned[key].as_f64().unwrap_or_else(|| panic!("{facts:#}"));
    assert!(number("loss_after") < number("loss_before"), "{learned}");
    assert!(number("largest_deviation_from_orthogonality") < 1e-10, "{learned}");
    assert!(facts["equivalence"]["limit"].as_f64().unwrap() < 1e-3, "{facts:#}");
    assert!(facts["calibration"].is_object());

    let without = LEARN.replace(", calibration: data", "").replace("SUITE", SUITE);
    project.write("without.rhai", &without);
    let outcome = project.run(&["run", "without.rhai"]).exits(4);
    let text = format!("{}{}", outcome.err, outcome.out);
    assert!(text.contains("calibration: dataset("), "{text}");
}

/// llm-compressor 0.14 with its centring of embeddings taken out, R1 and R2 of type `hadamard`: the same weights as ours.
#[test]
fn weights_are_those_of_llm_compressor() {
    let root = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let (original, rotated) = (root.join("golden/tiny_trained"), root.join("golden/tiny_spin_r1r2_dense_nocenter"));
    if !rotated.is_dir() {
        eprintln!("skipped: weights_are_those_of_llm_compressor: {} is not there", rotated.display());
        return;
    }
    let project = Project::new();
    let original = original.canonicalize().unwrap();
    let expression = format!("model({original:?}).transform(\"rotate\", #{{ kind: \"hadamard\" }})");
    table(&project, "peer", &[("peer".to_owned(), expression)]);
    let stored = project.stored("results", "transform", "rotate");
    let made = Checkpoint::open(&stored[0].0.join("model")).unwrap();
    let expected = Checkpoint::open(&rotated).unwrap();
    for name in expected.names() {
        let (a, b) = (made.values(&name).unwrap(), expected.values(&name).unwrap());
        let scale = b.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
        let difference = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(a.len() == b.len() && difference < 2e-6 * scale, "{name}: {difference:e} of {scale:e}");
    }
}
