//! llm-compressor's recipe files as they are: what its version 0.14 reads, and what it writes itself beside a model.

use serde_json::json;

use super::*;

fn read(name: &str, text: &str) -> Result<Stage> {
    let file = file(name, text);
    Stage::from_file(&file, &Registry::default()).map_err(|error| file.locate(error, &[]))
}

fn shown(stage: &Stage) -> Vec<(String, Value)> {
    stage.steps.iter().map(|step| (step.method.clone(), Value::Object(step.options.clone()))).collect()
}

/// The example of its documentation.
const TWO_MODIFIERS: &str = "quant_stage:
  quant_modifiers:
    SmoothQuantModifier:
      smoothing_strength: 0.8
    GPTQModifier:
      sequential_update: false
      ignore: [\"lm_head\"]
      config_groups:
        group_0:
          weights: {num_bits: 8, type: \"int\", symmetric: true, strategy: \"channel\"}
          input_activations: {num_bits: 8, type: \"int\", symmetric: true, dynamic: true, strategy: \"token\"}
          targets: [\"Linear\"]
";

#[test]
fn a_recipe_has_the_name_of_its_file() {
    let stage = read("w8a8.yaml", TWO_MODIFIERS).unwrap();
    assert_eq!((stage.name.as_str(), stage.suffix.as_deref()), ("w8a8", Some("-w8a8")));
    let steps = shown(&stage);
    assert_eq!(steps[0], ("smoothquant".into(), json!({ "smoothing_strength": 0.8, "activation_range": "range" })));
    assert_eq!(steps[1].0, "gptq");
    assert_eq!(steps[1].1["scheme"]["weights"]["num_bits"], 8);
    assert_eq!(steps[1].1["ignore"], json!(["lm_head"]));
    // In the other syntaxes, and without the stage around the group.
    let toml = "[quant_stage.quant_modifiers.SmoothQuantModifier]\nsmoothing_strength = 0.8\n";
    assert_eq!(shown(&read("s.toml", toml).unwrap())[0], steps[0]);
    let json = r#"{"quant_stage": {"quant_modifiers": {"SmoothQuantModifier": {"smoothing_strength": 0.8}}}}"#;
    assert_eq!(shown(&read("s.json", json).unwrap())[0], steps[0]);
    assert_eq!(
        shown(&read("s.yaml", "quant_modifiers: {SmoothQuantModifier: {smoothing_strength: 0.8}}\n").unwrap())[0],
        steps[0]
    );
    // Beside the keys of a pipeline it is one of its stages.
    let named =
        read("x.yaml", &format!("name: a\noutput_suffix: -b\nnum_calibration_samples: 4\n{TWO_MODIFIERS}")).unwrap();
    assert_eq!(
        (named.name.as_str(), named.suffix.as_deref(), named.num_calibration_samples),
        ("a", Some("-b"), Some(Samples::Count(4)))
    );
}

/// As a script may say it, and by the names that others have for it.
#[test]
fn samples_of_a_stage_are_a_number_or_all() {
    for (given, wanted, notes) in [
        ("num_calibration_samples: all", Samples::All, 0),
        ("num_calibration_samples: 4.0", Samples::Count(4), 0),
        ("num_samples: 4", Samples::Count(4), 1),
        ("nsamples: all", Samples::All, 1),
    ] {
        let found = read("x.yaml", &format!("name: a\noutput_suffix: -b\n{given}\n{TWO_MODIFIERS}")).unwrap();
        assert_eq!(found.num_calibration_samples, Some(wanted), "{given}");
        assert_eq!(found.notes.len(), notes, "{given}: {:?}", found.notes);
    }
    for given in ["num_calibration_samples: some", "num_calibration_samples: 0", "num_samples: 4\nnsamples: 4"] {
        read("x.yaml", &format!("name: a\noutput_suffix: -b\n{given}\n{TWO_MODIFIERS}")).unwrap_err();
    }
}

/// What `Recipe.from_modifiers([SmoothQuantModifier(…), GPTQModifier(…)]).yaml()` of that version writes after a run, and of an
/// `AWQModifier`; its own reader takes neither the tuples nor the object.
#[test]
fn what_it_writes_beside_a_model_is_read() {
    let saved = "default_stage:
  default_modifiers:
    SmoothQuantModifier:
      requires_calibration_data: true
      smoothing_strength: 0.5
      mappings:
      - !!python/tuple
        - ['re:.*q_proj', 're:.*k_proj', 're:.*v_proj']
        - re:.*input_layernorm
      - !!python/tuple
        - ['re:.*gate_proj', 're:.*up_proj']
        - re:.*post_attention_layernorm
      algorithm: smoothquant
    GPTQModifier:
      config_groups:
        group_0:
          targets: [Linear]
          weights:
            num_bits: 4
            type: int
            symmetric: true
            group_size: 64
            strategy: group
            block_structure: null
            dynamic: false
            actorder: static
            scale_dtype: null
            zp_dtype: null
            observer: memoryless_minmax
            observer_kwargs: {}
          input_activations: null
          output_activations: null
          format: null
      targets: [Linear]
      ignore: [lm_head]
      bypass_divisibility_checks: false
      requires_calibration_data: true
      block_size: 128
      dampening_frac: 0.01
      actorder: static
      batched_quantization: auto
";
    let steps = shown(&read("recipe.yaml", saved).unwrap());
    assert_eq!(steps[0].1["mappings"], json!(["norm->qkv", "norm->gate_up"]));
    let gptq = &steps[1].1;
    assert_eq!((&gptq["act_order"], &gptq["dampening_fraction"]), (&json!("static"), &json!(0.01)));
    assert_eq!(gptq["scheme"]["weights"]["group_size"], 64);
    assert!(gptq.get("targets").is_none());

    let saved = "default_stage:
  default_modifiers:
    AWQModifier:
      requires_calibration_data: true
      mappings:
      - smooth_layer: re:.*v_proj$
        balance_layers: ['re:.*o_proj$']
        activation_hook_target: null
      offload_device: !!python/object/apply:llmcompressor.sentinel.Sentinel [not_provided, sentinel.py]
      duo_scaling: true
      n_grid: 20
    QuantizationModifier:
      targets: [Linear]
      ignore: [lm_head]
      scheme: W4A16_ASYM
      bypass_divisibility_checks: false
      requires_calibration_data: false
";
    let steps = shown(&read("recipe.yaml", saved).unwrap());
    assert_eq!((steps[0].0.as_str(), &steps[0].1["mappings"]), ("awq", &json!(["v->o"])));
    assert_eq!(steps[1], ("rtn".into(), json!({ "scheme": "W4A16_ASYM", "ignore": ["lm_head"] })));
}

#[test]
fn several_stages_and_groups_act_in_the_order_of_the_file() {
    let text = "prepare_stage:
  run_type: oneshot
  smooth_modifiers:
    SmoothQuantModifier: {smoothing_strength: 0.5, group: smooth}
  rotate_modifiers:
    SpinQuantModifier: {rotations: [r1], transform_type: hadamard}
quantize_stage:
  quant_modifiers:
    QuantizationModifier: {scheme: w8a8, targets: Linear, start: 0, end: -1}
version: 1.1.0
args: {}
";
    let stage = read("r.yaml", text).unwrap();
    let methods: Vec<&str> = stage.steps.iter().map(|step| step.method.as_str()).collect();
    assert_eq!(methods, ["smoothquant", "rotate", "rtn"]);
    assert_eq!(stage.steps[1].options["rotations"], json!(["R1"]));
    assert_eq!(stage.steps[2].path, ["quantize_stage", "quant_modifiers", "QuantizationModifier"]);
}

#[test]
fn yaml_is_read_as_pyyaml_reads_it() {
    // A key that begins with `x-` is there for its anchor.
    let text = "x-weights: &w {num_bits: 8, type: int, strategy: channel}
quant_stage:
  quant_modifiers:
    GPTQModifier:
      dampening_frac: 1e-2
      config_groups:
        a: {targets: [Linear], weights: {<<: *w, num_bits: !!int \"4\", symmetric: yes}}
        b: {targets: ['re:.*down_proj'], weights: {<<: *w, symmetric: off}}
";
    let steps = shown(&read("r.yaml", text).unwrap());
    assert_eq!(steps[0].1["dampening_fraction"], 0.01);
    assert_eq!(
        steps[0].1["scheme"]["weights"],
        json!({ "num_bits": 4, "type": "int", "strategy": "channel", "symmetric": true })
    );
    let down = &steps[0].1["config_groups"]["b"]["weights"];
    assert_eq!(*down, json!({ "num_bits": 8, "type": "int", "strategy": "channel", "symmetric": false }));
}

#[test]
fn modifiers_that_quantize_different_modules_are_one_call() {
    let text = "a_stage:
  attention_modifiers:
    QuantizationModifier: {targets: ['re:.*self_attn.*'], scheme: FP8_DYNAMIC, ignore: [lm_head]}
  mlp_modifiers:
    QuantizationModifier:
      ignore: ['re:.*lm_head']
      config_groups: {group_0: {targets: ['re:.*mlp.*'], weights: {num_bits: 4, strategy: channel}}}
";
    let steps = shown(&read("r.yaml", text).unwrap());
    let expected = json!({
        "ignore": ["lm_head", "re:.*lm_head"],
        "config_groups": {
            "group_0": { "scheme": "FP8_DYNAMIC", "targets": ["re:.*self_attn.*"] },
            "group_0_1": { "targets": ["re:.*mlp.*"], "weights": { "num_bits": 4, "strategy": "channel" } },
        },
    });
    assert_eq!(steps, [("rtn".into(), expected)]);
    // The later one has what both name.
    let rest = "a_stage:\n  x_modifiers:\n    GPTQModifier: {scheme: W4A16}\n  y_modifiers:\n    GPTQModifier: {scheme: W8A16, targets: ['re:.*down_proj']}\n";
    let expected = json!({ "scheme": "W4A16", "config_groups": { "group_0": { "scheme": "W8A16", "targets": ["re:.*down_proj"] } } });
    assert_eq!(shown(&read("r.yaml", rest).unwrap()), [("gptq".into(), expected)]);
    for (second, message) in [
        ("QuantizationModifier: {scheme: W8A16, targets: ['re:.*down_proj']}", "by different methods"),
        ("GPTQModifier: {scheme: W8A16, targets: ['re:.*down_proj'], dampening_frac: 0.5}", "with different options"),
        (
            "GPTQModifier: {scheme: W8A16, targets: ['re:.*down_proj'], ignore: ['re:.*q_proj']}",
            "ignore different modules",
        ),
        ("GPTQModifier: {scheme: W8A16}", "the later one means every linear"),
    ] {
        let text = rest.replace("GPTQModifier: {scheme: W8A16, targets: ['re:.*down_proj']}", second);
        let error = read("r.yaml", &text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.location.as_ref().unwrap().line, 5, "{error}");
    }
}

#[test]
fn observers_of_a_modifier_are_those_of_its_schemes() {
    let scheme = |modifier: &str| {
        let text = format!("q_stage:\n  q_modifiers:\n    QuantizationModifier: {modifier}\n");
        shown(&read("r.yaml", &text).unwrap()).remove(0).1
    };
    let static_inputs = "scheme: W8A8_STATIC, input_observer: static_minmax";
    let expected = json!({ "scheme": "W8A8_STATIC", "input_activations": { "observer": "static_minmax" } });
    assert_eq!(scheme(&format!("{{{static_inputs}}}"))["scheme"], expected);
    let both = scheme("{scheme: W8A8, observer: {weights: mse, input: mse}}");
    // The inputs of W8A8 are dynamic, and nothing observes them.
    assert_eq!(both["scheme"], json!({ "scheme": "W8A8", "weights": { "observer": "mse" } }));
    let groups = scheme(
        "{weight_observer: mse, config_groups: {W8A16: ['re:.*down_proj'], b: {targets: ['re:.*up_proj'], weights: {num_bits: 8, observer: minmax}}}}",
    );
    assert_eq!(
        groups["config_groups"]["W8A16"],
        json!({ "scheme": "W8A16", "targets": ["re:.*down_proj"], "weights": { "observer": "mse" } })
    );
    assert_eq!(groups["config_groups"]["b"]["weights"]["observer"], "mse");
}

/// The recipe of a `SpinQuantModifier` with the transforms that it resolved for a model with heads of 32.
#[test]
fn resolved_rotations_say_what_stands_beside_them() {
    let config = |kind: &str, head: &str| {
        format!(
            "s_stage:\n  s_modifiers:\n    SpinQuantModifier:\n      rotations: [R2]\n      transform_type: hadamard\n      precision: torch.float64\n      transform_config:\n        config_groups:\n          R2:\n            type: {kind}\n            apply:\n            - {{targets: ['re:.*v_proj$'], location: weight_output, inverse: false, ignore: []}}\n            - {{targets: ['re:.*{head}$'], location: weight_input, inverse: true, ignore: []}}\n            randomize: false\n            requires_grad: false\n            head_dim: 32\n            precision: torch.float64\n"
        )
    };
    let stage = read("r.yaml", &config("hadamard", "o_proj")).unwrap();
    assert_eq!(stage.steps[0].head_size, Some(32));
    assert_eq!(shown(&stage)[0].1, json!({ "rotations": ["R2"], "kind": "hadamard" }));
    for (text, message) in
        [(config("random-hadamard", "o_proj"), "`type` of R2"), (config("hadamard", "q_proj"), "other places")]
    {
        let error = read("r.yaml", &text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        assert_eq!(error.location.as_ref().unwrap().line, 7);
    }
}

#[test]
fn what_a_recipe_cannot_mean_here_is_refused_at_its_line() {
    for (text, line, message) in [
        (
            "a_stage:\n  quant_modifier:\n    GPTQModifier: {scheme: W4A16}\n",
            2,
            "no group of modifiers `quant_modifier`",
        ),
        ("a_stage:\n  run_type: train\n", 2, "only oneshot"),
        ("a_stage: [1]\n", 1, "a map of groups"),
        ("a_stage:\n  q_modifiers: [GPTQModifier]\n", 2, "a map of modifiers by name"),
        ("a_stage:\n  q_modifiers:\n    SparseGPTModifier: {sparsity: 0.5}\n", 3, "it prunes weights"),
        (
            "a_stage:\n  q_modifiers:\n    GPTQModifier:\n      scheme: W4A16\n      end: 3.0\n",
            5,
            "a schedule of epochs",
        ),
        (
            "a_stage:\n  q_modifiers:\n    SmoothQuantModifier:\n      ignore: [x]\n  b_modifiers:\n    GPTQModifier: {ignore: [y]}\n",
            4,
            "`ignore` of `SmoothQuantModifier`",
        ),
        (
            "a_stage:\n  q_modifiers:\n    GPTQModifier: {scheme: W4A16}\nb_stage:\n  q_modifiers:\n    GPTQModifier:\n      targets: ['re:.*x']\n      schema: W8A16\n",
            8,
            "no option `schema`",
        ),
        ("args: {lr: 1}\na_stage:\n  q_modifiers: {GPTQModifier: {scheme: W4A16}}\n", 1, "no option `args`"),
    ] {
        let error = read("s.yaml", text).unwrap_err();
        assert!(error.message.contains(message), "{error}");
        let place = error.location.as_ref().unwrap();
        assert_eq!((place.file.as_str(), place.line), ("s.yaml", line), "{text}{error}");
    }
}
