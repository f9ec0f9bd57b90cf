//! Several schemes in one model, and what loaders of others make of a choice.

use serde_json::Value;

use super::project::{LAYERS, Project};

/// A table of one model, quantized with these options.
fn script(options: &str) -> String {
    format!(
        r#"let base = model("tiny");
let q = base.quantize("rtn", #{{ {options} }});
let task = perplexity(#{{ text: dataset("text.txt"), max_seq_length: 32, blocks: 2 }});
let table = report("mixed");
table.row(q.evaluate(task), #{{ model: "q" }});
table.write();
q.save_as("saved");
"#
    )
}

/// The schemes of the written folder: per group its layout, bits and number of modules.
fn groups(project: &Project) -> Vec<(String, u64, usize)> {
    let config: Value = serde_json::from_str(&project.read("saved/config.json")).unwrap();
    let groups = config["quantization_config"]["config_groups"].as_object().unwrap();
    let group = |group: &Value| {
        let text = group["format"].as_str().unwrap().to_owned();
        (text, group["weights"]["num_bits"].as_u64().unwrap(), group["targets"].as_array().unwrap().len())
    };
    groups.values().map(group).collect()
}

const MIXED: &str = r#"scheme: "W4A16", group_size: 16, ignore: ["*.o_proj", "lm_head"], config_groups: #{
    down: #{ targets: ["*.down_proj"], weights: #{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" } },
    INT8: ["*.gate_proj", "*.up_proj"],
}"#;

#[test]
fn groups_are_exceptions_to_the_scheme() {
    let project = Project::new();
    project.write("mixed.rhai", &script(MIXED));
    let outcome = project.run(&["run", "mixed.rhai"]).exits(0);
    assert!(!outcome.err.contains("warning"), "{}", outcome.err);
    // q, k, v in 4 bits, gate and up with dynamic inputs, down in 8 bits alone.
    assert_eq!(
        groups(&project),
        [
            ("pack-quantized".to_owned(), 4, 3 * LAYERS),
            ("int-quantized".to_owned(), 8, 2 * LAYERS),
            ("pack-quantized".to_owned(), 8, LAYERS),
        ]
    );
    let config: Value = serde_json::from_str(&project.read("saved/config.json")).unwrap();
    assert_eq!(config["quantization_config"]["format"], "mixed-precision");
    assert_eq!(config["quantization_config"]["ignore"].as_array().unwrap().len(), LAYERS + 1);
    // Another spelling of the same: a list, in another order.
    let respelled = r#"config_groups: [
        #{ targets: ["*.gate_proj", "*.up_proj"], scheme: "INT8" },
        #{ targets: "re:.*down_proj", scheme: "W8A16", strategy: "channel" },
        #{ targets: "*.self_attn.*", scheme: "W4A16", group_size: 16 },
    ], ignore: "*.o_proj""#;
    project.write("respelled.rhai", &script(respelled));
    let planned = project.run(&["plan", "respelled.rhai"]).exits(0);
    assert!(planned.out.contains("2 nodes, 2 cached"), "{}", planned.out);
}

#[test]
fn a_split_stack_is_shown_in_the_plan_and_under_the_table() {
    let project = Project::new();
    project.write("split.rhai", &script(r#"scheme: "INT8", ignore: ["*.v_proj"]"#));
    let line = "in 2 layers q_proj, k_proj is quantized and v_proj is not";
    let planned = project.run(&["plan", "split.rhai"]).exits(0);
    assert!(planned.err.contains(line), "{}", planned.err);
    let json = project.run(&["plan", "split.rhai", "--json"]).exits(0).json();
    assert!(json["warnings"][0].as_str().unwrap().contains(line), "{json}");
    let outcome = project.run(&["run", "split.rhai"]).exits(0);
    assert!(
        outcome.err.contains(line) && outcome.out.replace('\n', " ").contains("is quantized and v_proj"),
        "{}",
        outcome.out
    );
    assert!(project.read("results/reports/mixed/table.md").replace('\\', "").contains(line));
    let (_, record) = project.stored("results", "quantize", "rtn").remove(0);
    assert!(record["facts"]["warnings"][0].as_str().unwrap().starts_with(line), "{record}");
}

#[test]
fn keys_and_values_can_be_quantized_with_or_without_weights() {
    let project = Project::new();
    let calibration = r#"calibration: dataset("text.txt").tokens(#{ num_calibration_samples: 4, max_seq_length: 32 })"#;
    let heads = format!(r#"scheme: "INT8", kv_cache_scheme: #{{ num_bits: 4, strategy: "attn_head" }}, {calibration}"#);
    project.write("heads.rhai", &script(&heads));
    let outcome = project.run(&["run", "heads.rhai"]).exits(0);
    let told = outcome.out.split_whitespace().collect::<Vec<_>>().join(" ");
    let from = "static KV-cache scales: observer minmax, seen by each layer behind all that is quantized before it";
    assert!(told.contains(from), "{}", outcome.out);
    let how = "each linear quantized before the next one sees its data; activations kept in f32, matrix products of f32 operands";
    assert!(told.contains(how), "{}", outcome.out);
    let config: Value = serde_json::from_str(&project.read("saved/config.json")).unwrap();
    assert_eq!(config["quantization_config"]["kv_cache_scheme"]["strategy"], "attn_head");
    let index = project.read("saved/model.safetensors.index.json");
    assert!(index.contains("model.layers.1.self_attn.v_scale"), "{index}");
    let nll = |project: &Project| -> f64 {
        let (_, record) = project.stored("results", "evaluate", "perplexity").remove(0);
        record["values"]["nll"].as_f64().unwrap()
    };
    // Alone, in more and more bits, it does less and less harm.
    let plain = Project::new();
    plain.write(
        "plain.rhai",
        &script("").replace(r#"base.quantize("rtn", #{  })"#, "base").replace("q.save_as(\"saved\");", ""),
    );
    plain.run(&["run", "plain.rhai"]).exits(0);
    let mut harm = Vec::new();
    for bits in [2, 4, 8] {
        let project = Project::new();
        project.write(
            "kv.rhai",
            &script(&format!("kv_cache_scheme: #{{ num_bits: {bits}, group_size: 8, dynamic: true }}")),
        );
        project.run(&["run", "kv.rhai"]).exits(0);
        harm.push((nll(&project) - nll(&plain)).abs());
        let config: Value = serde_json::from_str(&project.read("saved/config.json")).unwrap();
        assert_eq!(config["quantization_config"]["format"], "dense");
        assert_eq!(config["quantization_config"]["config_groups"], serde_json::json!({}));
    }
    assert!(harm[0] > harm[1] && harm[1] > harm[2] && harm[2] > 0.0, "{harm:?}");
    project.write("wrong.rhai", &script("kv_cache_scheme: #{ num_bits: 8, group_size: 5, dynamic: true }"));
    let wrong = project.run(&["run", "wrong.rhai"]).exits(2);
    assert!(wrong.err.contains("groups of 5 do not divide the 8 dimensions of a head"), "{}", wrong.err);
    project.write("missing.rhai", &script(r#"kv_cache_scheme: #{ num_bits: 8, strategy: "tensor" }"#));
    let missing = project.run(&["run", "missing.rhai"]).exits(2);
    assert!(missing.err.contains("static activation scales, which need calibration data"), "{}", missing.err);
}

/// Scales of a float32 model are stored in float32, and whoever opens the folder multiplies in float32.
#[test]
fn arithmetic_that_no_reader_of_the_folder_does_is_said() {
    let project = Project::new();
    for (compute, told) in [("bf16", true), ("f32", false)] {
        let options = format!(r#"scheme: "W4A16", group_size: 16, conventions: #{{ compute: "{compute}" }}"#);
        project.write("compute.rhai", &script(&options));
        let outcome = project.run(&["run", "compute.rhai"]).exits(0);
        let words = outcome.out.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words.contains("evaluates weights as bfloat16 arithmetic dequantizes them"),
            told,
            "{}",
            outcome.out
        );
    }
}
