//! Stage files against the calls that they stand for.

use serde_json::json;

use super::*;

mod recipes;

fn file(name: &str, text: &str) -> DataFile {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    DataFile::read_stage(&path, name).unwrap()
}

/// A stage without any plugin at hand.
fn stage(text: &str) -> Result<Stage> {
    let file = file("s.yaml", text);
    Stage::from_file(&file, &Registry::default()).map_err(|error| file.locate(error, &[]))
}

/// The steps of a stage with these modifiers.
fn steps(modifiers: Value) -> Result<Vec<Step>, Fault> {
    let mut keys = serde_json::Map::from_iter([("quant_modifiers".to_owned(), modifiers)]);
    modifiers::steps(recipe::take(&mut keys)?.entries, &Registry::default())
}

/// The calls of a stage with these modifiers.
fn calls(modifiers: Value) -> Vec<(String, Value)> {
    let steps = steps(modifiers).map_err(|fault| fault.1).unwrap();
    steps.into_iter().map(|step| (format!("{} {}", step.kind, step.method), Value::Object(step.options))).collect()
}

/// The options of a step as they are for a model of this configuration.
fn completed(step: &Step, config: &Value, all_experts: bool) -> Value {
    let config = workbench_model::ModelConfig::from_json(config, Path::new("config.json")).unwrap();
    let mut options = step.options.clone();
    complete(step, &config, all_experts, &mut options);
    Value::Object(options)
}

/// llm-compressor 0.14: `oneshot(moe_calibrate_all_experts=True)`, `QWEN_MOE_SMOOTHQUANT_MAPPINGS`.
#[test]
fn mixtures_of_experts_get_that_packages_defaults() {
    let dense = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 32, "intermediate_size": 48, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
    });
    let mut mixture = dense.clone();
    for (key, value) in [
        ("architectures", json!(["Qwen3MoeForCausalLM"])),
        ("model_type", json!("qwen3_moe")),
        ("moe_intermediate_size", json!(24)),
        ("num_experts", json!(3)),
        ("num_experts_per_tok", json!(2)),
    ] {
        mixture[key] = value;
    }
    let modifiers = json!({ "SmoothQuantModifier": {}, "GPTQModifier": { "scheme": "W4A16", "ignore": ["lm_head"] } });
    let own = steps(modifiers).map_err(|fault| fault.1).unwrap();
    for step in &own {
        assert_eq!(completed(step, &dense, true), Value::Object(step.options.clone()));
    }
    let smoothed = completed(&own[0], &mixture, true);
    assert_eq!(smoothed, json!({ "activation_range": "range", "mappings": ["norm->qkv"] }));
    let mut expected = own[1].options.clone();
    expected.extend([("calibrate_all_experts".to_owned(), true.into()), ("min_expert_tokens".to_owned(), 0.into())]);
    assert_eq!(completed(&own[1], &mixture, true), Value::Object(expected));
    assert_eq!(completed(&own[1], &mixture, false), Value::Object(own[1].options.clone()));
    let awq = steps(json!({ "AWQModifier": { "scheme": "W4A16" } })).map_err(|fault| fault.1).unwrap();
    assert_eq!((awq[0].method.as_str(), awq[1].method.as_str()), ("awq", "rtn"));
    for all in [true, false] {
        let searched = completed(&awq[0], &mixture, all);
        let found = (searched.get("calibrate_all_experts"), searched.get("min_expert_tokens"));
        assert_eq!(found, (all.then_some(&json!(true)), Some(&json!(0))));
        assert!(completed(&awq[0], &dense, all).get("min_expert_tokens").is_none());
    }
    // Mappings that a recipe names stay, and a plugin under its own name has its own defaults.
    let named = json!({ "SmoothQuantModifier": { "mappings": ["norm->gate_up"] } });
    let named = steps(named).map_err(|fault| fault.1).unwrap();
    assert_eq!(completed(&named[0], &mixture, true)["mappings"], json!(["norm->gate_up"]));
    let plugin = Step { modifier: "gptq".to_owned(), ..own[1].clone() };
    assert_eq!(completed(&plugin, &mixture, true), Value::Object(plugin.options.clone()));
    // Published recipes ignore routers, also those that a model does not have.
    let ignore = json!(["lm_head", "re:.*mlp.gate$", "re:.*shared_expert_gate$"]);
    let ignoring =
        steps(json!({ "GPTQModifier": { "scheme": "W4A16", "ignore": ignore } })).map_err(|fault| fault.1).unwrap();
    for (config, kept, idle) in [
        (&mixture, json!(["lm_head", "re:.*mlp.gate$"]), &["re:.*shared_expert_gate$"][..]),
        (&dense, json!(["lm_head"]), &["re:.*mlp.gate$", "re:.*shared_expert_gate$"]),
    ] {
        let config = workbench_model::ModelConfig::from_json(config, Path::new("config.json")).unwrap();
        let mut options = ignoring[0].options.clone();
        assert_eq!(without_idle_ignores(&ignoring[0], &config, &mut options), idle);
        assert_eq!(options["ignore"], kept);
        assert!(without_idle_ignores(&plugin, &config, &mut plugin.options.clone()).is_empty());
    }
    let stage = |more: &str| {
        stage(&format!("name: a\noutput_suffix: -a\n{more}quant_modifiers:\n  GPTQModifier: {{scheme: W4A16}}\n"))
    };
    assert!(stage("").unwrap().all_experts && !stage("moe_calibrate_all_experts: false\n").unwrap().all_experts);
}

fn refused(modifiers: Value) -> Error {
    steps(modifiers).unwrap_err().1
}

fn call(name: &str, options: Value) -> (String, Value) {
    (name.to_owned(), options)
}

#[test]
fn the_reference_pipelines_own_stages() {
    let original = stage("name: original\ninput_model: ./data/models/Qwen/Qwen3-8B\noutput_suffix: null\n").unwrap();
    assert_eq!((original.suffix, original.steps.len()), (None, 0));
    assert_eq!(original.input_model.as_deref(), Some("./data/models/Qwen/Qwen3-8B"));
    let rotated = "name: spinquant-r1r2\noutput_suffix: -r1r2\nquant_modifiers:\n  SpinQuantModifier:\n    rotations: [\"R1\", \"R2\"]\n    transform_type: random-hadamard\n";
    let rotated = stage(rotated).unwrap();
    assert_eq!(rotated.suffix.as_deref(), Some("-r1r2"));
    assert_eq!(
        Value::Object(rotated.steps[0].options.clone()),
        json!({ "rotations": ["R1", "R2"], "kind": "random-hadamard" })
    );
    let dynamic = json!({ "QuantizationModifier": { "config_groups": { "group_0": {
        "weights": { "num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel" },
        "input_activations": { "num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true },
    } } } });
    let group = dynamic["QuantizationModifier"]["config_groups"]["group_0"].clone();
    assert_eq!(calls(dynamic), [call("quantize rtn", json!({ "scheme": group }))]);
}

#[test]
fn a_modifier_brings_the_defaults_of_its_own_package() {
    assert_eq!(calls(json!({ "SpinQuantModifier": null })), [call("transform rotate", json!({ "kind": "hadamard" }))]);
    let random = json!({ "SpinQuantModifier": { "transform_type": "random-matrix", "transform_block_size": 64, "randomize": false } });
    assert_eq!(calls(random), [call("transform rotate", json!({ "kind": "random-orthogonal", "block_size": 64 }))]);
    let gptq = json!({ "GPTQModifier": { "scheme": "W4A16", "targets": "Linear", "ignore": ["lm_head"], "dampening_frac": 0.05, "block_size": 128 } });
    let expected = json!({ "scheme": "W4A16", "ignore": ["lm_head"], "dampening_fraction": 0.05 });
    assert_eq!(calls(gptq), [call("quantize gptq", expected)]);
    let orders = [(json!(null), "none"), (json!("weight"), "static"), (json!("static"), "static")];
    for (given, meant) in orders {
        let calls = calls(json!({ "GPTQModifier": { "scheme": "W4A16", "actorder": given } }));
        assert_eq!(calls[0].1["act_order"], meant);
    }
    assert!(
        refused(json!({ "GPTQModifier": { "scheme": "W4A16", "actorder": "group" } })).message.contains("actorder")
    );
}

#[test]
fn a_recipe_that_would_quantize_the_head_is_noticed() {
    let means_head = |modifiers: Value| steps(modifiers).map_err(|fault| fault.1).unwrap().iter().any(means_head);
    let quantized = |given: Value| json!({ "QuantizationModifier": given });
    assert!(means_head(quantized(json!({ "scheme": "W8A8" }))));
    assert!(means_head(quantized(json!({ "scheme": "W8A8", "targets": "Linear", "ignore": ["re:.*down_proj"] }))));
    assert!(means_head(quantized(json!({ "config_groups": { "group_0": { "weights": { "num_bits": 8 } } } }))));
    assert!(means_head(json!({ "GPTQModifier": { "scheme": "W4A16" } })));
    assert!(!means_head(quantized(json!({ "scheme": "W8A8", "ignore": ["lm_head"] }))));
    assert!(!means_head(quantized(json!({ "scheme": "W8A8", "ignore": ["re:.*head"] }))));
    assert!(!means_head(quantized(json!({ "scheme": "W8A8", "targets": ["re:.*down_proj"] }))));
    assert!(!means_head(quantized(json!({ "scheme": { "W4A16": ["Linear"], "W8A16": ["lm_head"] } }))));
    assert!(!means_head(json!({ "SpinQuantModifier": null })));
}

#[test]
fn groups_for_every_linear_are_the_scheme_of_the_rest() {
    let given = json!({ "QuantizationModifier": { "config_groups": {
        "down": { "targets": ["re:.*down_proj"], "weights": { "num_bits": 8 } },
        "rest": { "targets": ["Linear"], "weights": { "num_bits": 4 }, "input_activations": null },
    } } });
    let expected = json!({
        "scheme": { "weights": { "num_bits": 4 } },
        "config_groups": { "down": { "targets": ["re:.*down_proj"], "weights": { "num_bits": 8 } } },
    });
    assert_eq!(calls(given), [call("quantize rtn", expected)]);
    let presets = json!({ "QuantizationModifier": { "scheme": { "W4A16": ["Linear"], "W8A16": ["re:.*down_proj"] } } });
    let expected = json!({ "scheme": "W4A16", "config_groups": { "W8A16": ["re:.*down_proj"] } });
    assert_eq!(calls(presets), [call("quantize rtn", expected)]);
    let both = json!({ "QuantizationModifier": { "scheme": "W4A16", "config_groups": { "g": { "weights": { "num_bits": 8 } } } } });
    assert!(refused(both).message.contains("second scheme for every linear"));
}

#[test]
fn modifiers_act_in_the_order_of_the_file() {
    let smooth = json!({ "smoothing_strength": 0.8, "mappings": [
        [["re:.*q_proj", "re:.*k_proj", "re:.*v_proj"], "re:.*input_layernorm"],
        { "smooth_layer": "re:.*up_proj$", "balance_layers": ["re:.*down_proj$"] },
        "v->o",
    ] });
    let given = json!({ "SmoothQuantModifier": smooth, "SpinQuantModifier": {}, "GPTQModifier": { "scheme": "W8A8" } });
    let calls = calls(given);
    let names: Vec<&str> = calls.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["transform smoothquant", "transform rotate", "quantize gptq"]);
    assert_eq!(
        calls[0].1,
        json!({ "smoothing_strength": 0.8, "mappings": ["norm->qkv", "up->down", "v->o"], "activation_range": "range" })
    );

    let late = json!({ "GPTQModifier": { "scheme": "W8A8" }, "SpinQuantModifier": {} });
    assert!(refused(late).message.contains("comes after `GPTQModifier`"));
    let twice = json!({ "GPTQModifier": { "scheme": "W8A8" }, "QuantizationModifier": { "scheme": "W8A8" } });
    assert!(refused(twice).message.contains("both quantize the model"));
    let unknown = json!({ "SmoothQuantModifier": { "mappings": [[["re:.*fc1"], "re:.*final_layer_norm"]] } });
    assert!(refused(unknown).hints[0].contains("norm->qkv"));
}

#[test]
fn awq_searches_for_what_the_stage_rounds_to() {
    let weights = json!({ "num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 64 });
    let own = calls(
        json!({ "AWQModifier": { "duo_scaling": false, "config_groups": { "group_0": { "weights": weights } } } }),
    );
    assert_eq!((own[0].0.as_str(), own[1].0.as_str()), ("transform awq", "quantize rtn"));
    for key in ["num_bits", "symmetric", "group_size"] {
        assert_eq!(own[0].1["scheme"][key], weights[key], "{key}");
    }
    assert_eq!(own[0].1["duo_scaling"], false);
    // The search takes the range of each scaled weight, whatever observer the rounding has.
    let observed = calls(json!({ "AWQModifier": { "scheme": "W4A16", "weight_observer": "mse" } }));
    assert!(observed[0].1["scheme"]["observer"].is_null());
    assert_eq!(observed[1].1["scheme"]["weights"]["observer"], "mse");
    let behind = calls(json!({ "AWQModifier": null, "GPTQModifier": { "scheme": "W4A16_ASYM" } }));
    assert_eq!(behind[0].1["scheme"]["group_size"], 128);
    assert_eq!(behind[1].0, "quantize gptq");
    assert!(refused(json!({ "AWQModifier": {} })).message.contains("nothing of this stage rounds"));
    let several = json!({ "AWQModifier": { "scheme": "W4A16", "config_groups": { "W8A16": ["re:.*down_proj"] } } });
    assert!(refused(several).message.contains("have several"));
}

#[test]
fn what_is_not_understood_is_named_with_its_line() {
    for (text, line, message, hint) in [
        ("name: a\nouput_suffix: -a\n", 2, "a stage has no option `ouput_suffix`", "did you mean `output_suffix`?"),
        ("output_suffix: null\n", 1, "the stage has no `name`", "name it"),
        (
            "name: a\noutput_suffix: -a\nquant_modifiers:\n  SpinQuantModifer: {}\n",
            4,
            "there is no modifier `SpinQuantModifer`",
            "did you mean `SpinQuantModifier`?",
        ),
        (
            "name: a # rotation\noutput_suffix: -a\nquant_modifiers:\n  SpinQuantModifier:\n    rotation: [R1]\n",
            5,
            "`SpinQuantModifier` has no option `rotation`",
            "did you mean `rotations`?",
        ),
        (
            "name: a\noutput_suffix: -a\nquant_modifiers:\n  SpinQuantModifier:\n    learnable: true\n",
            5,
            "`learnable` of `SpinQuantModifier` is true, and only false is supported",
            "`rotate` with `learn`",
        ),
        ("name: a\nquant_modifiers:\n  SpinQuantModifier: {}\n", 3, "has no `output_suffix`", "output_suffix ="),
        ("name: a\nquant_modifers: {}\n", 2, "has no option `quant_modifers`", "did you mean `quant_modifiers`?"),
        ("name: a\noutput_suffix: -a\n", 2, "and no `quant_modifiers`", "leaves the model as it is"),
        ("name: a\noutput_suffix: /a\nquant_modifiers: {SpinQuantModifier: }\n", 2, "folder's name", ""),
        ("name: a\nsave_compressed: False\n", 2, "always saved compressed", ""),
        ("- name: a\n", 1, "`s.yaml` is no stage", ""),
        ("name: a\noutput_suffix: -a\nquant_modifiers: [SpinQuantModifier]\n", 3, "a map of modifiers by name", ""),
    ] {
        let error = stage(text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        let place = error.location.as_ref().unwrap();
        assert_eq!((place.file.as_str(), place.line), ("s.yaml", line), "{text}");
        assert!(hint.is_empty() || error.hints.iter().any(|h| h.contains(hint)), "{:?}", error.hints);
    }
}

#[test]
fn stages_have_names_and_suffixes_of_their_own() {
    let read = |text: &str| stage(text).unwrap();
    let rotation = "quant_modifiers: {SpinQuantModifier: }\n";
    let a = read("name: a\n");
    let b = read("name: b\n");
    distinct(&[a.clone(), b]).unwrap();
    assert!(distinct(&[a.clone(), a]).unwrap_err().message.contains("have the same `name`: `a`"));
    let [c, d] = ["c", "d"].map(|name| read(&format!("name: {name}\noutput_suffix: -r\n{rotation}")));
    assert!(distinct(&[c, d]).unwrap_err().message.contains("have the same `output_suffix`: `-r`"));
}

#[test]
fn samples_are_shared_out_by_weight() {
    let text = "dataset_name: all\ndatasets:\n  - {name: mmlu, weight: 3, task_type: exam, tags: [en], few_shot_num: 0}\n  - {name: gsm8k, weight: 1, limit: 7}\n  - {name: math}\n  - {name: text, task_type: perplexity, text: a.txt, blocks: 4}\nsampling: {total_samples: 20}\ngpu_resources: {devices: [0, 1]}\n";
    let (found, warnings) = measures(&file("e.yaml", text)).unwrap();
    assert_eq!(warnings, ["e.yaml: `gpu_resources` has no effect here"]);
    let limit = |index: usize| match &found[index].subject {
        Subject::File { options, .. } => options.get("limit").and_then(|limit| limit.as_i64()),
        Subject::Text { .. } => None,
    };
    assert_eq!([limit(0), limit(1), limit(2), limit(3)], [Some(9), Some(7), Some(3), None]);
    assert!(matches!(&found[3].subject, Subject::Text { method: "perplexity", text, .. } if text == "a.txt"));

    for (text, message) in [
        ("datasets: [{name: a, fewshot: 1}]\n", "`datasets` has no option `fewshot`"),
        ("datasets: [{name: a, weight: 0}]\n", "`weight` of `datasets` must be above 0, not 0"),
        ("datasets: [{file: a.toml}]\n", "has no `name`"),
        ("name: x\n", "lists no `datasets`"),
        ("datasets: [{name: a}]\nsampling: {total: 3}\n", "`sampling` has no option `total`"),
    ] {
        let error = measures(&file("e.yaml", text)).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert!(error.location.is_some());
    }
}
