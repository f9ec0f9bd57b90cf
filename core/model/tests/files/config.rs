//! `config.json` in every spelling, and configurations that lie.

use serde_json::{Value, json};
use workbench_model::config::{Architecture, RopeScaling};

use crate::common::{assert_holds, parse, tiny_config};

fn with(changes: &[(&str, Value)]) -> Value {
    let mut config = tiny_config();
    for (key, value) in changes {
        config[*key] = value.clone();
    }
    config
}

fn error(changes: &[(&str, Value)]) -> String {
    let error = parse(&with(changes)).unwrap_err();
    format!("{error} | {}", error.hint().unwrap_or_default())
}

#[test]
fn both_spellings_of_rope_mean_the_same() {
    let old =
        parse(&with(&[("rope_theta", json!(500000.0)), ("rope_scaling", json!({"type": "linear", "factor": 4}))]));
    let mut new = with(&[("rope_parameters", json!({"rope_theta": 500000, "rope_type": "linear", "factor": 4.0}))]);
    new.as_object_mut().unwrap().remove("rope_theta");
    let old = old.unwrap();
    assert_eq!(old, parse(&new).unwrap());
    assert_eq!((old.rope_theta, old.rope_scaling), (500000.0, RopeScaling::Linear { factor: 4.0 }));
}

#[test]
fn llama3_scaling_is_read_whole() {
    let scaling = json!({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192});
    let config = parse(&with(&[("rope_scaling", scaling.clone())])).unwrap();
    let expected =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
    assert_eq!(config.rope_scaling, expected);
    for key in ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"] {
        let mut broken = scaling.clone();
        broken.as_object_mut().unwrap().remove(key);
        assert_holds(&error(&[("rope_scaling", broken)]), &[key, "lacks"]);
    }
    let mut swapped = scaling;
    swapped["low_freq_factor"] = json!(4.0);
    assert_holds(&error(&[("rope_scaling", swapped)]), &["low_freq_factor", "high_freq_factor"]);
}

#[test]
fn absent_and_null_keys_take_the_defaults_of_the_architecture() {
    let mut config = with(&[
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("rope_scaling", Value::Null),
    ]);
    for key in ["head_dim", "num_key_value_heads", "rope_theta", "tie_word_embeddings", "eos_token_id"] {
        config.as_object_mut().unwrap().remove(key);
    }
    let llama = parse(&config).unwrap();
    assert_eq!((llama.head_dim, llama.num_kv_heads, llama.rope_theta), (4, 4, 10000.0));
    assert!(!llama.tie_word_embeddings && !llama.qkv_bias && !llama.qk_norm && llama.eos_token_ids.is_empty());

    config["architectures"] = json!(["Qwen3ForCausalLM"]);
    config["model_type"] = Value::Null;
    let qwen3 = parse(&config).unwrap();
    assert_eq!((qwen3.architecture, qwen3.head_dim, qwen3.qk_norm), (Architecture::Qwen3, 128, true));
    config["architectures"] = Value::Null;
    config["model_type"] = json!("qwen2");
    let qwen2 = parse(&config).unwrap();
    assert_eq!((qwen2.architecture, qwen2.qkv_bias, qwen2.output_bias), (Architecture::Qwen2, true, false));
}

#[test]
fn end_tokens_are_one_or_a_list() {
    assert_eq!(parse(&with(&[("eos_token_id", json!(7))])).unwrap().eos_token_ids, [7]);
    assert_eq!(parse(&with(&[("eos_token_id", json!([7, 5]))])).unwrap().eos_token_ids, [7, 5]);
    assert_holds(&error(&[("eos_token_id", json!("</s>"))]), &["eos_token_id", "</s>"]);
}

#[test]
fn tensors_and_biases_follow_the_architecture() {
    let names = |config: &Value| parse(config).unwrap().tensors().into_iter().map(|spec| spec.name).collect::<Vec<_>>();
    let qwen3 = names(&tiny_config());
    // Embedding, norm, head; per layer two norms, two head norms and seven linears.
    assert_eq!(qwen3.len(), 3 + 2 * 11);
    assert!(qwen3.contains(&"model.layers.1.self_attn.k_norm.weight".into()));
    let qwen2 = names(&with(&[
        ("architectures", json!(["Qwen2ForCausalLM"])),
        ("model_type", json!("qwen2")),
        ("tie_word_embeddings", json!(true)),
    ]));
    assert_eq!(qwen2.len(), 2 + 2 * 12);
    assert!(qwen2.contains(&"model.layers.0.self_attn.v_proj.bias".into()));
    assert!(!qwen2.contains(&"model.layers.0.self_attn.o_proj.bias".into()));
    let biased = json!(true);
    let llama = with(&[
        ("architectures", json!(["LlamaForCausalLM"])),
        ("model_type", json!("llama")),
        ("mlp_bias", biased.clone()),
        ("attention_bias", biased),
    ]);
    assert_eq!(names(&llama).len(), 3 + 2 * (2 + 14));
}

#[test]
fn configurations_that_lie_are_refused_by_name() {
    assert_holds(
        &error(&[("architectures", json!(["GPT2LMHeadModel"]))]),
        &["config.json", "GPT2LMHeadModel", "LlamaForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"],
    );
    assert_holds(&error(&[("num_key_value_heads", json!(3))]), &["4 attention heads", "3 key-value heads"]);
    assert_holds(
        &error(&[
            ("architectures", json!(["LlamaForCausalLM"])),
            ("model_type", json!("llama")),
            ("head_dim", Value::Null),
            ("hidden_size", json!(18)),
        ]),
        &["`hidden_size` 18", "4 attention heads"],
    );
    assert_holds(&error(&[("head_dim", json!(7))]), &["head_dim", "7", "even"]);
    for (key, value) in [
        ("hidden_size", json!(0)),
        ("hidden_size", json!(-4)),
        ("vocab_size", json!(1.5)),
        ("num_hidden_layers", json!(u64::MAX)),
        ("num_hidden_layers", json!(100_000)),
        ("intermediate_size", json!("24")),
        ("rms_norm_eps", json!(-1.0)),
        ("rope_theta", json!(0)),
        // Positive numbers, but 0 and infinity in single precision.
        ("rms_norm_eps", json!(1e-50)),
        ("rope_theta", json!(1e300)),
        ("bos_token_id", json!(32)),
        ("eos_token_id", json!([3, 99])),
        ("eos_token_id", json!(-1)),
        ("per_layer_config", json!({"0": {"intermediate_size": 8}})),
        ("tie_word_embeddings", json!("yes")),
        ("rope_scaling", json!({"rope_type": "yarn", "factor": 4.0})),
        ("rope_scaling", json!("linear")),
        ("rope_scaling", json!({"rope_type": "linear"})),
        ("rope_parameters", json!({"full_attention": {"rope_type": "default"}})),
        ("rope_parameters", json!({"rope_type": "default", "partial_rotary_factor": 0.5})),
        ("partial_rotary_factor", json!(0.5)),
        ("hidden_act", json!("gelu")),
        ("use_sliding_window", json!(true)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
    ] {
        assert_holds(&error(&[(key, value)]), &["config.json", key]);
    }
    for key in ["hidden_size", "vocab_size", "max_position_embeddings"] {
        let mut config = tiny_config();
        config.as_object_mut().unwrap().remove(key);
        assert_holds(&parse(&config).unwrap_err().to_string(), &[key, "missing"]);
    }
    assert!(parse(&json!([1, 2])).is_err());
}

/// The values that transformers 5.17 makes of these files: `AutoConfig.from_pretrained(folder).rope_parameters`.
#[test]
fn rope_scaling_beside_default_rope_parameters_is_taken() {
    let rope = |changes: &[(&str, Value)]| {
        let mut config = with(changes);
        if changes.iter().all(|(key, _)| *key != "rope_theta") {
            config.as_object_mut().unwrap().remove("rope_theta");
        }
        parse(&config).map(|config| (config.rope_theta, config.rope_scaling))
    };
    let linear = json!({"rope_type": "linear", "factor": 4.0});
    let default = json!({"rope_type": "default", "rope_theta": 10000.0});
    let stretched = RopeScaling::Linear { factor: 4.0 };
    let both = [("rope_scaling", linear.clone()), ("rope_parameters", default.clone())];
    assert_eq!(rope(&both).unwrap(), (10000.0, stretched));
    // The length before stretching may stand beside the object, where it is asked for.
    let llama3 = json!({"rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0});
    let found = rope(&[("rope_scaling", llama3.clone()), ("original_max_position_embeddings", json!(64))]).unwrap().1;
    assert!(matches!(found, RopeScaling::Llama3 { original_max_positions: 64, .. }));
    // An empty or null object says nothing.
    for nothing in [json!({}), Value::Null] {
        let found = rope(&[("rope_scaling", nothing), ("rope_parameters", linear.clone())]).unwrap();
        assert_eq!(found, (10000.0, stretched));
    }
    // Both kinds of spelling at once, where they agree.
    let all = json!({"rope_type": "linear", "type": "linear", "factor": 4.0, "rope_theta": 7e4, "finetuned": null});
    let same = [("rope_scaling", all.clone()), ("rope_parameters", all), ("rope_theta", json!(7e4))];
    assert_eq!(rope(&same).unwrap(), (7e4, stretched));

    let yarn = json!({"rope_type": "yarn", "factor": 4.0});
    let error = |changes: &[(&str, Value)]| rope(changes).unwrap_err().to_string();
    assert_holds(
        &error(&[("rope_scaling", yarn.clone()), ("rope_parameters", default.clone())]),
        &["rope_scaling", "yarn"],
    );
    assert_holds(&error(&[("rope_parameters", yarn)]), &["rope_parameters", "yarn"]);
    let differ = [("rope_scaling", json!({"type": "linear", "factor": 2.0})), ("rope_parameters", linear.clone())];
    assert_holds(
        &error(&differ),
        &["`rope_scaling`", "linear scaling by 2", "`rope_parameters`", "linear scaling by 4"],
    );
    let undone = [("rope_scaling", json!({"rope_type": "default"})), ("rope_parameters", linear.clone())];
    assert_holds(&error(&undone), &["`rope_scaling`", "no scaling", "`rope_parameters`"]);
    // transformers drops this base and takes 10,000.
    let lost =
        [("rope_scaling", linear.clone()), ("rope_parameters", json!({"rope_type": "default", "rope_theta": 5e5}))];
    assert_holds(&error(&lost), &["`rope_parameters`", "`rope_theta` 500000", "`rope_scaling`", "10000"]);
    let bases = [("rope_theta", json!(7e4)), ("rope_parameters", default)];
    assert_holds(&error(&bases), &["`rope_theta` is 70000", "`rope_parameters`", "10000"]);
    let kinds = json!({"rope_type": "linear", "type": "dynamic", "factor": 2.0});
    assert_holds(&error(&[("rope_scaling", kinds)]), &["`rope_type` \"linear\"", "`type` \"dynamic\""]);
    let mut lengths = llama3;
    lengths["original_max_position_embeddings"] = json!(128);
    let lengths = [("rope_scaling", lengths), ("original_max_position_embeddings", json!(64))];
    assert_holds(&error(&lengths), &["`original_max_position_embeddings` is 64", "128"]);
    // What a kind does not use would be dropped without a word.
    assert_holds(&error(&[("rope_scaling", json!({"factor": 2.0}))]), &["`factor` 2.0", "\"default\""]);
    let scaled = json!({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.5});
    assert_holds(&error(&[("rope_scaling", scaled)]), &["`attention_factor` 1.5", "\"linear\""]);
}

#[test]
fn settings_with_two_names_agree_or_are_refused() {
    assert!(parse(&with(&[("dtype", json!("float32"))])).is_ok());
    assert_holds(&error(&[("dtype", json!("bfloat16"))]), &["`dtype` is \"bfloat16\"", "`torch_dtype` is \"float32\""]);
    let quantized = |bits: u8| json!({"quant_method": "compressed-tensors", "config_groups": {"a": bits}});
    let both = [("quantization_config", quantized(4)), ("compression_config", quantized(8))];
    assert_holds(&error(&both), &["`quantization_config`", "`compression_config`", "differ"]);
}

/// transformers 5.17 loads by `model_type` alone, and refuses a file without one; others go by `architectures`.
#[test]
fn architectures_and_model_type_name_one_model() {
    let read = |classes: Value, kind: Value| {
        parse(&with(&[("architectures", classes), ("model_type", kind)])).map(|config| config.architecture)
    };
    let llama = json!(["LlamaForCausalLM"]);
    assert_eq!(read(llama.clone(), json!("llama")).unwrap(), Architecture::Llama);
    assert_eq!(read(Value::Null, json!("qwen2")).unwrap(), Architecture::Qwen2);
    assert_eq!(read(json!([]), json!("qwen3")).unwrap(), Architecture::Qwen3);
    assert_eq!(read(llama.clone(), Value::Null).unwrap(), Architecture::Llama);
    let error = |classes: Value, kind: Value| {
        let error = read(classes, kind).unwrap_err();
        format!("{error} | {}", error.hint().unwrap_or_default())
    };
    assert_holds(
        &error(llama.clone(), json!("qwen2")),
        &["LlamaForCausalLM", "`model_type` is \"qwen2\"", "\"llama\""],
    );
    assert_holds(&error(llama.clone(), json!("Llama")), &["LlamaForCausalLM", "\"Llama\""]);
    assert_holds(&error(llama.clone(), json!("mistral")), &["LlamaForCausalLM", "mistral"]);
    assert_holds(&error(llama.clone(), json!(3)), &["LlamaForCausalLM", "3"]);
    assert_holds(&error(json!("LlamaForCausalLM"), json!("llama")), &["`architectures`", "a list"]);
    assert_holds(&error(json!(["LlamaForCausalLM", "Qwen2ForCausalLM"]), json!("llama")), &["different models"]);
    assert_holds(
        &error(json!(["LlamaForSequenceClassification"]), json!("llama")),
        &["LlamaForSequenceClassification"],
    );
    assert_holds(&error(Value::Null, json!("gpt2")), &["unknown architecture `gpt2`", "LlamaForCausalLM"]);
    assert_holds(&error(Value::Null, Value::Null), &["neither `architectures` nor `model_type`"]);
}
