//! The plugin as a host sees it, on models that llm-compressor 0.14.0.1 scaled.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_api::descriptor::{Kind, Scope};
use workbench_api::host::Module;
use workbench_api::job::{Facts, Job};
use workbench_api::sdk::export::{Export, module};
use workbench_api::sdk::{Error, Example, Host, Plugin, Transform};
use workbench_api::testing::{MemoryHost, Outcome, differences, parameters, run};
use workbench_model::{Context, Decoder, ModelConfig, ModelError, WeightSource};

use crate::Awq;
use crate::example::{Golden, against_llm_compressor};

/// The plugin behind the binary interface, as its export makes it.
struct Tested;

impl Export for Tested {
    type Plugin = Awq;
    const KIND: Kind = Kind::Transform;
    const SCOPE: Scope = Scope::Transform;
    const VERSION: &'static str = "0.0.0";
    const SOURCE_DIGEST: Option<&'static str> = None;

    fn run(plugin: &Awq, job: &Job, host: &Host<'_>) -> Result<Facts, Error> {
        match job {
            Job::Transform(model) => plugin.transform(model, host),
            other => panic!("{other:?}"),
        }
    }
}

fn transform(example: &Example) -> Result<Outcome, Error> {
    let defaults = serde_json::to_value(<Awq as Plugin>::Parameters::default())?;
    run(&Module::new(module::<Tested>()), &parameters(&defaults, example), &example.job, MemoryHost::new(example)?)
}

/// A Qwen3 with grouped heads and a Qwen2 with biases, of two blocks each.
fn golden() -> Vec<Golden> {
    serde_json::from_str(include_str!("golden.json")).unwrap()
}

/// A Qwen3-MoE of three experts, with the tokens that are routed to them and with all.
fn golden_experts() -> Vec<Golden> {
    serde_json::from_str(include_str!("golden_experts.json")).unwrap()
}

/// The example of a model by its type.
fn example(kind: &str) -> Example {
    let found = golden().into_iter().find(|golden| golden.config["model_type"] == kind);
    against_llm_compressor(found.unwrap())
}

#[track_caller]
fn refused(example: &Example) -> Error {
    match transform(example) {
        Ok(outcome) => panic!("it was accepted: {:?}", outcome.report.facts),
        Err(error) => error,
    }
}

/// Tensors of an example, those that were put over those that were there.
struct Made<'a>(&'a Example, BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl WeightSource for Made<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.inputs["model"].tensors.get(name).map(|tensor| tensor.shape.clone())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let original = || self.0.inputs["model"].tensors[name].values.iter().map(|v| *v as f32).collect();
        Ok(self.1.get(name).map_or_else(original, |(_, values)| values.clone()))
    }
}

fn logits(made: &Made<'_>) -> Vec<f32> {
    let config = ModelConfig::from_json(&made.0.inputs["model"].config, "config.json".as_ref()).unwrap();
    let decoder = Decoder::load(&config, made, &Device::Cpu).unwrap();
    let ids = Tensor::new(&[[3_u32, 15, 0, 7, 7, 2, 11, 9]], &Device::Cpu).unwrap();
    decoder.forward(&ids, &Context::full(1, 8, None)).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn tensors_and_losses_are_those_of_llm_compressor() {
    for golden in golden().into_iter().chain(golden_experts()) {
        let losses = golden.losses.clone();
        let example = against_llm_compressor(golden);
        let outcome = transform(&example).unwrap();
        assert!(outcome.tensors.keys().eq(example.expected.tensors.keys()), "{:?}", outcome.tensors.keys());
        assert_eq!(differences(&example.expected, &outcome), Vec::<String>::new());
        let mut compared = 0;
        for (source, [before, after]) in losses {
            let block = source.splitn(4, '.').take(3).collect::<Vec<_>>().join(".");
            let mapping = match source.rsplit('.').next().unwrap() {
                "input_layernorm" => "norm->qkv",
                "v_proj" => "v->o",
                "post_attention_layernorm" => "norm->gate_up",
                _ => "up->down",
            };
            let here = &outcome.report.facts["blocks"][&block];
            let found = here.get(format!("{mapping} {source}")).unwrap_or(&here[mapping]);
            for (key, expected) in [("loss_before", before), ("loss_after", after)] {
                let loss = found[key].as_f64().unwrap();
                assert!((loss - expected).abs() < 1e-4 * expected, "{source} {key}: {loss} {expected}");
            }
            compared += 1;
        }
        let searched: usize = outcome.report.facts["blocks"].as_object().unwrap().values().map(mappings).sum();
        assert_eq!(compared, searched);
    }
}

fn mappings(block: &Value) -> usize {
    block.as_object().unwrap().len()
}

#[test]
fn the_function_stays_and_no_search_ends_above_its_start() {
    let options = [
        json!({}),
        json!({ "grid": "original" }),
        json!({ "grid": "original", "duo_scaling": false }),
        json!({ "grouped_v_to_o": true }),
        json!({ "mappings": ["up->down"], "n_grid": 3 }),
        json!({ "scheme": { "num_bits": 3, "symmetric": true, "group_size": -1 } }),
        json!({ "scheme": { "num_bits": 4, "symmetric": true, "strategy": "tensor" }, "duo_scaling": false }),
    ];
    for kind in ["qwen3", "qwen2"] {
        for options in &options {
            let mut example = example(kind);
            example.parameters.extend(options.as_object().unwrap().clone());
            let outcome = transform(&example).unwrap();
            let case = format!("{kind} {options}");
            let blocks = outcome.report.facts["blocks"].as_object().unwrap();
            for found in blocks.values().flat_map(|block| block.as_object().unwrap().values()) {
                let [before, after] = ["loss_before", "loss_after"].map(|key| found[key].as_f64().unwrap());
                assert!(0.0 <= after && after <= before, "{case}: {found}");
                assert_eq!(found["ratio"].is_null(), after == before, "{case}: {found}");
            }
            let before = logits(&Made(&example, BTreeMap::new()));
            let after = logits(&Made(&example, outcome.tensors));
            let far = before.iter().zip(&after).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let spread = before.iter().fold(0.0_f32, |most, v| most.max(v.abs()));
            assert!(far < 1e-4 * spread, "{case}: logits moved by {far}");
        }
    }
}

#[test]
fn values_are_scaled_under_grouped_heads_only_if_asked() {
    let mut grouped = example("qwen3");
    let left = transform(&grouped).unwrap();
    assert!(left.report.facts["skipped"]["v->o"].as_str().unwrap().contains("share KV heads"));
    assert!(!left.tensors.contains_key("model.layers.0.self_attn.o_proj.weight"));
    grouped = grouped.parameter("grouped_v_to_o", true);
    let scaled = transform(&grouped).unwrap();
    assert_eq!(scaled.report.facts["skipped"], json!({}));
    // Two query heads of four channels read one KV head: o's columns carry the same factors twice.
    let o = &scaled.tensors["model.layers.0.self_attn.o_proj.weight"].1;
    let original = &grouped.inputs["model"].tensors["model.layers.0.self_attn.o_proj.weight"].values;
    let factors: Vec<f64> = o.iter().zip(original).take(8).map(|(a, b)| f64::from(*a) / b).collect();
    for channel in 0..4 {
        assert!((factors[channel] - factors[channel + 4]).abs() < 1e-6, "{factors:?}");
    }
    assert!((factors[0] - factors[1]).abs() > 1e-3, "{factors:?}");
}

#[test]
fn mistakes_are_explained() {
    let scheme = |scheme: Value| refused(&example("qwen3").parameter("scheme", scheme));
    let error = scheme(json!({ "num_bits": 4, "symmetric": false, "group_size": 128 }));
    let text = error.to_string();
    assert!(text.contains("group_size 128 does not divide the 8 columns") && text.contains("q_proj.weight"), "{text}");
    assert!(error.hint.unwrap().contains("divide 8: 8"));
    let error = scheme(json!({ "num_bits": 9 }));
    assert!(error.to_string().contains("no integer grid has 9 bits"), "{error}");
    let error = scheme(json!({ "num_bits": 4, "strategy": "tensor" }));
    assert!(error.to_string().contains("duo scaling needs a scale per row or group"), "{error}");
    assert!(error.hint.unwrap().contains("duo_scaling: false"));
}

#[test]
fn bad_data_is_refused() {
    let mut without = example("qwen3");
    without.streams.clear();
    assert!(refused(&without).hint.unwrap().contains("pass calibration"));
    let mut empty = example("qwen3");
    empty.streams.get_mut("calibration").unwrap().clear();
    assert!(refused(&empty).to_string().contains("holds no token"));
    let mut foreign = example("qwen3");
    foreign.streams.get_mut("calibration").unwrap()[1].get_mut("input_ids").unwrap().values[4] = 16.0;
    let error = refused(&foreign).to_string();
    assert!(
        error.contains("sequence 1 of the stream `calibration`: token 16 is not in the vocabulary of 16"),
        "{error}"
    );
    // A gain so large that the product with the next matrix overflows.
    let mut overflow = example("qwen3");
    let model = overflow.inputs.get_mut("model").unwrap();
    let up = &mut model.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().values;
    up.iter_mut().for_each(|v| *v *= 3e37);
    let error = refused(&overflow).to_string();
    assert!(error.contains("model.layers.1.mlp.down_proj.input") && error.contains("in channel"), "{error}");
}

/// What reaches an expert decides what its scales are, and too little decides nothing.
#[test]
fn an_expert_that_few_tokens_reach_is_left_alone() {
    let [routed, all] = golden_experts().try_into().ok().unwrap();
    let (routed, all) = (against_llm_compressor(routed), against_llm_compressor(all));
    let outcome = transform(&routed.clone().parameter("min_expert_tokens", 1_000_000)).unwrap();
    for block in outcome.report.facts["blocks"].as_object().unwrap().values() {
        for (label, found) in block.as_object().unwrap() {
            let expected =
                label.starts_with("up->down").then_some("fewer than 1000000 calibration tokens reached their expert");
            assert_eq!(found["left_alone"].as_str(), expected, "{label}: {found}");
        }
    }
    assert!(outcome.tensors.keys().all(|name| !name.contains("down_proj")), "{:?}", outcome.tensors.keys());
    let before = logits(&Made(&routed, BTreeMap::new()));
    let after = logits(&Made(&routed, outcome.tensors));
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4), "{before:?} {after:?}");
    // 48 tokens pass, each through two of three experts.
    let least =
        |example: &Example, tokens: u64| transform(&example.clone().parameter("min_expert_tokens", tokens)).unwrap();
    assert_eq!(differences(&all.expected, &least(&all, 48)), Vec::<String>::new());
    assert!(!differences(&routed.expected, &least(&routed, 48)).is_empty());
    for (option, value) in [("calibrate_all_experts", json!(true)), ("min_expert_tokens", json!(64))] {
        let error = refused(&example("qwen3").parameter(option, value)).to_string();
        assert!(error.contains(&format!("`{option}` is given, and the model has no experts")), "{error}");
    }
}

#[test]
fn hidden_states_in_bfloat16_choose_nearly_the_same_scales() {
    let example = example("qwen3");
    let exact = transform(&example).unwrap();
    let rounded = transform(&example.clone().parameter("hidden_states", "bfloat16")).unwrap();
    let loss = |outcome: &Outcome, key: &str| {
        outcome.report.facts["blocks"]["model.layers.1"]["up->down"][key].as_f64().unwrap()
    };
    let (a, b) = (loss(&exact, "loss_before"), loss(&rounded, "loss_before"));
    assert!(a != b && (a - b).abs() < 0.02 * a, "{a} {b}");
    // The reference of the first score is computed from the same embeddings, and not rounded.
    let first = |outcome: &Outcome| {
        outcome.report.facts["blocks"]["model.layers.0"]["norm->qkv"]["loss_before"].as_f64().unwrap()
    };
    let (a, b) = (first(&exact), first(&rounded));
    assert!((a - b).abs() < 0.02 * a, "{a} {b}");
    let before = logits(&Made(&example, BTreeMap::new()));
    let after = logits(&Made(&example, rounded.tensors));
    assert!(before.iter().zip(&after).all(|(a, b)| (a - b).abs() < 1e-4));
}
