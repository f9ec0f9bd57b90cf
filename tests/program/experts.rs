//! Mixtures of experts, run from scripts: what is computed of them, what is calibrated, what is refused.

use serde_json::{Value, json};
use workbench_model::{Checkpoint, WeightSource};

use super::{
    project::{Project, csv},
    rotate::write_model,
};

/// A Qwen3-MoE whose first block is dense, and a gpt-oss.
pub(super) fn models(project: &Project) {
    let qwen = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "num_experts": 6, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "norm_topk_prob": true, "mlp_only_layers": [0], "decoder_sparse_step": 1,
    });
    let oss = json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "num_local_experts": 4, "num_experts_per_tok": 2,
        "intermediate_size": 32, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": false,
        "rope_parameters": { "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64 },
        "rope_theta": null, "rope_scaling": null,
    });
    for (name, changes) in [("qwen", qwen), ("oss", oss)] {
        write_model(project, name, &changes);
    }
}

const DATA: &str = "dataset(\"text.txt\").tokens(#{ num_calibration_samples: 4, max_seq_length: 32 })";
/// What AWQ searches, and the pairs that gpt-oss has.
const SEARCH: &str =
    r#"calibration: data, scheme: #{ num_bits: 4, symmetric: true, strategy: "group", group_size: 32 }, n_grid: 5"#;
const OSS_PAIRS: &str = r#"mappings: ["norm->qkv", "norm->gate_up"]"#;
const W8: &str = r#"#{ name: "W8", weights: #{ num_bits: 8, strategy: "channel" } }"#;

fn table(project: &Project, name: &str, rows: &[(String, String)]) -> Vec<f64> {
    let suite = "[perplexity(#{ text: dataset(\"text.txt\"), max_seq_length: 32, blocks: 4 })]";
    let row = |(label, expression): &(String, String)| {
        format!("table.row({expression}.evaluate({suite}), #{{ model: \"{label}\" }});\n")
    };
    let rows = rows.iter().map(row).collect::<String>();
    let script = format!("let data = {DATA};\nlet table = report(\"{name}\");\n{rows}table.write();\n");
    project.write(&format!("{name}.rhai"), &script.replace("W8", W8));
    project.run(&["run", &format!("{name}.rhai")]).exits(0);
    let rows = csv(&project.read(&format!("results/reports/{name}/table.csv")));
    rows.iter().map(|row| row["perplexity.nll"].parse().unwrap()).collect()
}

#[test]
fn every_method_that_takes_experts_leaves_a_model_near_the_original() {
    let project = Project::new();
    models(&project);
    for model in ["qwen", "oss"] {
        let made = |call: &str| (call.to_owned(), format!("model(\"{model}\"){call}"));
        let labelled = |(index, (_, expression)): (usize, (String, String))| (index.to_string(), expression);
        let rows: Vec<_> = [
            made(""),
            made(".transform(\"rotate\", #{ rotations: [\"R1\", \"R2\", \"R3\"] }).transform(\"rotate\", #{ rotations: [\"R4\"], kind: \"hadamard\" })"),
            made(".transform(\"smoothquant\", #{ calibration: data })"),
            made(&format!(".transform(\"awq\", #{{ {SEARCH}, {} }})", if model == "qwen" { "calibrate_all_experts: true" } else { OSS_PAIRS })),
            made(".quantize(\"rtn\", #{ scheme: W8 })"),
            made(".quantize(\"gptq\", #{ scheme: W8, calibration: data, min_expert_tokens: 4 })"),
            made(".quantize(\"gptq\", #{ scheme: W8, calibration: data, calibrate_all_experts: true })"),
            made(".quantize(\"gptq\", #{ scheme: W8, calibration: data, observe: \"full_precision\" })"),
            made(".quantize(\"rtn\", #{ scheme: \"MXFP4_MLP_WEIGHT_ONLY\" })"),
            made(".quantize(\"rtn\", #{ scheme: W8, targets: [\"*.experts.3.*\"] })"),
        ]
        .into_iter()
        .enumerate()
        .map(labelled)
        .collect();
        let nll = table(&project, model, &rows);
        for (transformed, value) in nll[..4].iter().enumerate() {
            assert!((value - nll[0]).abs() < 1e-4, "{model}, transform {transformed}: {nll:?}");
        }
        assert!(nll[4..8].iter().all(|value| (value - nll[0]).abs() < 0.1), "{model}: {nll:?}");
        assert!(nll[8] != nll[0] && (nll[8] - nll[0]).abs() < 1.0, "{model}: {nll:?}");
        assert!(nll[9] != nll[0] && (nll[9] - nll[0]).abs() < 0.1, "{model}: {nll:?}");
    }
    // One expert of each mixture: three linears of one block of Qwen3, and of two of gpt-oss.
    let counts: Vec<Value> = project
        .stored("results", "quantize", "rtn")
        .into_iter()
        .map(|(_, record)| record["facts"]["layers"]["quantized"].clone())
        .collect();
    assert!(counts.contains(&json!(3)) && counts.contains(&json!(6)), "{counts:?}");
}

#[test]
fn an_expert_that_few_tokens_reach_is_rounded_to_nearest_and_named() {
    let project = Project::new();
    models(&project);
    let rows = [
        ("gptq", "model(\"qwen\").quantize(\"gptq\", #{ scheme: W8, calibration: data, min_expert_tokens: 1000000 })"),
        ("rtn", "model(\"qwen\").quantize(\"rtn\", #{ scheme: W8 })"),
        ("awq", &format!("model(\"qwen\").transform(\"awq\", #{{ {SEARCH}, min_expert_tokens: 1000000 }})")),
    ];
    table(&project, "few", &rows.map(|(name, row)| (name.to_owned(), row.to_owned())));
    let opened = |method: &str| {
        let stored = project.stored("results", "quantize", method);
        let [(folder, record)] = &stored[..] else { panic!("{} results", stored.len()) };
        (Checkpoint::open(&folder.join("model")).unwrap(), record.clone())
    };
    let ((gptq, record), (rtn, _)) = (opened("gptq"), opened("rtn"));
    let reports = record["facts"]["plugin"].as_object().unwrap();
    let mut compared = 0;
    for linear in gptq.config().linears() {
        let weight = linear.weight();
        let same = gptq.values(&weight).unwrap() == rtn.values(&weight).unwrap();
        let reason = reports.get(&linear.name).and_then(|report| report["rounded_to_nearest"].as_str());
        assert_eq!(reason.is_some(), linear.site.expert.is_some(), "{}", linear.name);
        if let Some(reason) = reason {
            assert!(same && reason.contains("1000000 calibration tokens"), "{}: {reason}", linear.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 18);
    let record = &project.stored("results", "transform", "awq")[0].1;
    assert!(record["facts"]["equivalence"]["all_experts"]["logit_difference"].as_f64() < Some(1e-4), "{record}");
    let page = project.read("results/reports/few/table.md");
    assert!(
        page.contains("left as they were, because fewer than 1000000 calibration tokens reached their expert"),
        "{page}"
    );
    assert!(page.contains("were rounded to nearest, because fewer than 1000000 calibration tokens"), "{page}");
}

#[test]
fn what_a_mixture_does_not_allow_is_refused_while_the_script_runs() {
    let project = Project::new();
    models(&project);
    for (call, message) in [
        ("model(\"qwen\").transform(\"outliers\")", "`outliers` does not take mixtures of experts"),
        (
            "model(\"oss\").quantize(\"rtn\", #{ scheme: \"W8A8_STATIC\", calibration: data })",
            "static activation scales",
        ),
        (
            "model(\"tiny\").quantize(\"gptq\", #{ scheme: W8, calibration: data, calibrate_all_experts: true })",
            "no experts",
        ),
    ] {
        let script = format!("let data = {DATA};\nlet made = {call};\n");
        project.write("refused.rhai", &script.replace("W8,", &format!("{W8},")));
        let outcome = project.run(&["plan", "refused.rhai"]).exits(2);
        assert!(outcome.err.contains(message), "{call}: {}", outcome.err);
        assert!(outcome.err.contains("refused.rhai:2"), "{call}: {}", outcome.err);
    }
}

/// What only the weights' arithmetic forbids is refused as the node begins, before it computes.
#[test]
fn what_the_experts_gates_do_not_allow_is_refused() {
    let project = Project::new();
    models(&project);
    for (model, calls, message) in [
        ("oss", "transform(\"rotate\", #{ rotations: [\"R4\"] })", "R4 has no random signs in this model"),
        ("oss", "transform(\"awq\", #{ SEARCH })", "the model has no pair of layers `up->down`"),
        (
            "qwen",
            "transform(\"rotate\", #{ rotations: [\"R4\"] }).transform(\"awq\", #{ SEARCH })",
            "the model has no pair of layers `up->down`",
        ),
    ] {
        let script = format!("let data = {DATA};\nmodel(\"{model}\").{calls}.save_as(\"made\");\n");
        project.write("refused.rhai", &script.replace("SEARCH", SEARCH));
        let outcome = project.run(&["run", "refused.rhai"]).exits(4);
        assert!(outcome.err.contains(message), "{calls}: {}", outcome.err);
    }
}
