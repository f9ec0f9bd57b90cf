//! Rescaling transforms and AWQ through the real host, its statistics, its stream and its gate.

use std::collections::BTreeMap;

use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Value, json};
use workbench_model::{Checkpoint, WeightSource};

use super::project::{HIDDEN, LAYERS, Project, Random, csv};

const BEGIN: &str = r#"
let data = dataset("text.txt").tokens(#{ num_calibration_samples: 6, max_seq_length: 32 });
let text = #{ text: dataset("text.txt"), max_seq_length: 32, blocks: 4 };
let w4 = #{ name: "W4 g16", weights: #{ num_bits: 4, symmetric: false, strategy: "group", group_size: 16 } };
"#;

/// Runs a script that makes `made` of `tiny` and `qwen2` and evaluates it.
fn run(project: &Project, made: &str, arguments: &[&str], code: i32) -> super::project::Outcome {
    let script = format!(
        "let base = model(param(\"model\", \"tiny\"));{BEGIN}\nlet made = {made};\nlet table = report(\"smoothing\");
table.baseline(base.evaluate(perplexity(text)), #{{ model: \"base\" }});
table.row(made.evaluate(perplexity(text)), #{{ model: \"made\" }});
table.write();"
    );
    project.write("smoothing.rhai", &script);
    project.run(&[&["run", "smoothing.rhai"], arguments].concat()).exits(code)
}

/// The model `tiny` as a Qwen2: biases on q, k and v, no norms of heads, as many KV heads as query heads or half as many.
fn write_qwen2(project: &Project) {
    let tiny = Checkpoint::open(&project.path().join("tiny")).unwrap();
    let mut config = tiny.config_json().clone();
    let changes = json!({ "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2" });
    config.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    config.as_object_mut().unwrap().retain(|key, _| key != "head_dim" && key != "attention_bias");
    project.write("qwen2/config.json", &config.to_string());
    for name in ["tokenizer.json", "tokenizer_config.json", "generation_config.json"] {
        project.write(&format!("qwen2/{name}"), &project.read(&format!("tiny/{name}")));
    }
    let mut random = Random(7);
    let mut tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)> = BTreeMap::new();
    for name in tiny.names().into_iter().filter(|name| !name.contains("q_norm") && !name.contains("k_norm")) {
        let (shape, mut values) = (tiny.shape(&name).unwrap(), tiny.values(&name).unwrap());
        if name.ends_with("layernorm.weight") {
            // Gains that differ, two of them outliers.
            values.iter_mut().for_each(|v| *v = (0.5 + random.unit()) as f32);
            (values[3], values[20]) = (12.0, -9.0);
        }
        tensors.insert(name, (shape, values));
    }
    for layer in 0..LAYERS {
        for (name, rows) in [("q_proj", HIDDEN), ("k_proj", HIDDEN / 2), ("v_proj", HIDDEN / 2)] {
            let values = (0..rows).map(|_| (2.0 * random.unit() - 1.0) as f32).collect();
            tensors.insert(format!("model.layers.{layer}.self_attn.{name}.bias"), (vec![rows], values));
        }
    }
    let bytes: BTreeMap<&String, Vec<u8>> =
        tensors.iter().map(|(n, (_, v))| (n, v.iter().flat_map(|v| v.to_le_bytes()).collect())).collect();
    let views = tensors
        .iter()
        .map(|(name, (shape, _))| (name.clone(), TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap()));
    let file = safetensors::serialize(views, None).unwrap();
    std::fs::write(project.path().join("qwen2/model.safetensors"), file).unwrap();
}

fn record(project: &Project, kind: &str, method: &str) -> Value {
    let stored = project.stored("results", kind, method);
    let [(_, record)] = &stored[..] else { panic!("{} results of {method}", stored.len()) };
    record.clone()
}

fn nll(project: &Project) -> [f64; 2] {
    let rows = csv(&project.read("results/reports/smoothing/table.csv"));
    [0, 1].map(|row| rows[row]["perplexity.nll"].parse().unwrap())
}

/// The gate has let the transform through, and the function is the same also where the table looks.
fn assert_equivalent(project: &Project, method: &str) {
    let record = record(project, "transform", method);
    let [difference, limit] =
        ["logit_difference", "limit"].map(|key| record["facts"]["equivalence"][key].as_f64().unwrap());
    assert!(0.0 < difference && difference <= limit, "{method}: {difference} of {limit}");
    let [base, made] = nll(project);
    assert!((base - made).abs() < 1e-4, "{method}: {base} {made}");
}

#[test]
fn smoothing_leaves_the_function_alone() {
    for model in ["tiny", "qwen2"] {
        for range in ["absmax", "range"] {
            let project = Project::new();
            write_qwen2(&project);
            let transform = format!(
                r#"base.transform("smoothquant", #{{ calibration: data, smoothing_strength: 0.7, activation_range: "{range}",
                    mappings: ["norm->qkv", "v->o", "norm->gate_up", "up->down"] }})"#
            );
            run(&project, &transform, &["--set", &format!("model={model}")], 0);
            assert_equivalent(&project, "smoothquant");
            let facts = record(&project, "transform", "smoothquant")["facts"].clone();
            // Two norms, seven linears, and the biases of v.
            assert_eq!(facts["changed_tensors"], LAYERS * if model == "qwen2" { 10 } else { 9 }, "{facts:#}");
            let scales = &facts["plugin"]["scales"]["model.layers.1"]["norm->qkv"];
            assert!(scales["max"].as_f64() > scales["min"].as_f64(), "{facts:#}");
        }
    }
}

#[test]
fn awq_leaves_the_function_alone_and_lowers_the_damage_that_it_searched_for() {
    for model in ["tiny", "qwen2"] {
        let project = Project::new();
        write_qwen2(&project);
        let transform = r#"base.transform("awq", #{ calibration: data, scheme: w4.weights, grouped_v_to_o: true })"#;
        run(&project, transform, &["--set", &format!("model={model}")], 0);
        assert_equivalent(&project, "awq");
        let facts = record(&project, "transform", "awq")["facts"]["plugin"].clone();
        let blocks = facts["blocks"].as_object().unwrap();
        assert_eq!((blocks.len(), facts["sequences"].as_u64()), (LAYERS, Some(6)));
        for (block, mappings) in blocks {
            let mappings = mappings.as_object().unwrap();
            assert_eq!(mappings.keys().collect::<Vec<_>>(), ["norm->qkv", "v->o", "norm->gate_up", "up->down"]);
            for (mapping, found) in mappings {
                let [before, after] = ["loss_before", "loss_after"].map(|key| found[key].as_f64().unwrap());
                assert!(after <= before, "{block} {mapping}: {found}");
            }
        }
    }
}

#[test]
fn awq_is_the_same_at_any_number_of_threads() {
    let made = |threads: &str| {
        let project = Project::new();
        let transform = r#"base.transform("awq", #{ calibration: data, scheme: w4.weights })
            .quantize("awq_clip", #{ scheme: w4, calibration: data })"#;
        run(&project, transform, &["--jobs", "1", "--threads", threads], 0);
        project.artifacts("results")
    };
    let (one, three) = (made("1"), made("3"));
    let names = |found: &BTreeMap<_, Vec<u8>>| found.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&three));
    for (name, bytes) in &one {
        assert!(three[name] == *bytes, "{} differs", name.display());
    }
}

#[test]
fn clipping_lowers_what_it_searched_for_and_skips_queries_and_keys() {
    let project = Project::new();
    run(&project, r#"base.quantize("awq_clip", #{ scheme: w4, calibration: data })"#, &[], 0);
    let facts = record(&project, "quantize", "awq_clip")["facts"]["plugin"].clone();
    for (module, found) in facts.as_object().unwrap() {
        if module.ends_with("q_proj") || module.ends_with("k_proj") {
            assert_eq!(*found, json!({ "skipped": true }), "{module}");
        } else {
            let [before, after] = ["loss_before", "loss_after"].map(|key| found[key].as_f64().unwrap());
            assert!(0.0 < after && after < before, "{module}: {found}");
            assert!(found["clipped_groups"].as_u64() > Some(0), "{module}: {found}");
        }
    }
}

#[test]
fn a_transform_that_observes_wants_data_and_one_that_does_not_gets_none() {
    let project = Project::new();
    for method in ["awq", "smoothquant"] {
        let error = run(&project, &format!("base.transform(\"{method}\")"), &[], 2).err;
        assert!(error.contains(&format!("`{method}` needs calibration data")), "{error}");
        assert!(error.contains("pass calibration: dataset(…).tokens(#{ … })"), "{error}");
    }
    project.add_plugins(&["untie"]);
    run(&project, r#"base.transform("untie", #{ calibration: data })"#, &[], 0);
    let stored = record(&project, "transform", "untie");
    assert!(stored["identity"]["params"]["calibration"].is_null(), "{:#}", stored["identity"]);
    let again = run(&project, r#"base.transform("untie")"#, &[], 0);
    assert!(again.err.contains(" 0 to run"), "the same node: {}", again.err);
}

#[test]
fn a_group_size_that_does_not_divide_is_an_error_of_its_row() {
    let project = Project::new();
    let outcome = run(&project, r#"base.transform("awq", #{ calibration: data })"#, &[], 4);
    for part in
        ["group_size 128 does not divide the 32 columns", "q_proj.weight", "group sizes that divide 32: 8, 16, 32"]
    {
        assert!(outcome.err.contains(part), "`{part}` is not in\n{}", outcome.err);
    }
}
