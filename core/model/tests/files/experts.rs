//! Experts in separate tensors, in stacks, and in stacks of MXFP4 codes: read, and written as their families publish them.

use safetensors::SafeTensors;
use serde_json::{Value, json};
use workbench_model::checkpoint::{CheckpointWriter, Dtype};
use workbench_model::{Checkpoint, WeightSource};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, StorageDtype, preset};

use crate::common::{Tensors, assert_holds, f32_bytes, open_error, parse, tiny_tensors, values, write_model};

fn qwen() -> Value {
    json!({
        "architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "hidden_size": 32, "intermediate_size": 48,
        "moe_intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "vocab_size": 40, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "num_experts": 3,
        "num_experts_per_tok": 2, "norm_topk_prob": true, "mlp_only_layers": [1], "tie_word_embeddings": false,
    })
}

fn oss() -> Value {
    json!({
        "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40,
        "max_position_embeddings": 64, "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 8,
        "tie_word_embeddings": false, "swiglu_limit": 7.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "truncate": false},
    })
}

/// Stacks the separate experts of block 0 by the definitions of the two families, one number at a time.
fn stacked(mut tensors: Tensors, experts: usize, is_oss: bool) -> Tensors {
    for (stack, parts) in [("gate_up_proj", &["gate_proj", "up_proj"][..]), ("down_proj", &["down_proj"])] {
        for block in 0..2 {
            let name = |expert: usize, part: &str, kind: &str| {
                format!("model.layers.{block}.mlp.experts.{expert}.{part}.{kind}")
            };
            if !tensors.contains_key(&name(0, parts[0], "weight")) {
                continue;
            }
            let (dtype, shape, _) = tensors[&name(0, parts[0], "weight")].clone();
            let (rows, columns) = (shape[0], shape[1]);
            let outputs = rows * parts.len();
            let mut all = vec![[0_u8; 4]; experts * outputs * columns];
            let mut biases = vec![[0_u8; 4]; experts * outputs];
            for expert in 0..experts {
                for (place, part) in parts.iter().enumerate() {
                    let (_, _, data) = tensors.remove(&name(expert, part, "weight")).unwrap();
                    let output = |row: usize| if is_oss { row * parts.len() + place } else { place * rows + row };
                    for (index, value) in data.as_chunks::<4>().0.iter().enumerate() {
                        let (row, column) = (index / columns, index % columns);
                        let at = if is_oss { column * outputs + output(row) } else { output(row) * columns + column };
                        all[expert * outputs * columns + at] = *value;
                    }
                    if let Some((_, _, data)) = tensors.remove(&name(expert, part, "bias")) {
                        for (row, value) in data.as_chunks::<4>().0.iter().enumerate() {
                            biases[expert * outputs + output(row)] = *value;
                        }
                    }
                }
            }
            let shape = if is_oss { [experts, columns, outputs] } else { [experts, outputs, columns] };
            let prefix = format!("model.layers.{block}.mlp.experts.{stack}");
            tensors.insert(prefix.clone(), (dtype, shape.to_vec(), all.concat()));
            if is_oss {
                tensors.insert(format!("{prefix}_bias"), (dtype, vec![experts, outputs], biases.concat()));
            }
        }
    }
    tensors
}

#[test]
fn separate_and_stacked_experts_are_the_same_model() {
    for (config, is_oss) in [(qwen(), false), (oss(), true)] {
        let tensors = tiny_tensors(&config);
        let apart = write_model(&config, &tensors);
        let together = write_model(&config, &stacked(tensors.clone(), 3, is_oss));
        let (apart, together) = (Checkpoint::open(apart.path()).unwrap(), Checkpoint::open(together.path()).unwrap());
        assert_eq!(apart.names(), together.names());
        for name in apart.names() {
            assert_eq!(apart.values(&name).unwrap(), together.values(&name).unwrap(), "{name}");
            assert_eq!(apart.raw(&name).unwrap().bytes, together.raw(&name).unwrap().bytes, "{name}");
        }
        assert_eq!(apart.bits_per_parameter(), together.bits_per_parameter());
        together.check_finite().unwrap();
    }
}

#[test]
fn stacks_that_do_not_fit_are_named() {
    let config = oss();
    let whole = stacked(tiny_tensors(&config), 3, true);
    let name = "model.layers.1.mlp.experts.gate_up_proj";
    let mut missing = whole.clone();
    missing.remove(name);
    let error = open_error(write_model(&config, &missing).path());
    assert_holds(&error, &["model.layers.1.mlp.experts.0.gate_proj.weight", "is missing"]);
    let mut misshapen = whole.clone();
    misshapen.get_mut(name).unwrap().1 = vec![3, 128, 32];
    let error = open_error(write_model(&config, &misshapen).path());
    assert_holds(&error, &[name, "[3, 128, 32]", "[3, 32, 128]"]);
    let mut twice = whole;
    let spare = tiny_tensors(&config);
    let expert = "model.layers.0.mlp.experts.1.up_proj.weight";
    twice.insert(expert.to_owned(), spare[expert].clone());
    let error = open_error(write_model(&config, &twice).path());
    assert_holds(
        &error,
        &["model.layers.0.mlp.experts.gate_up_proj", "holds 6 linears, of which 1 are there by themselves"],
    );
}

#[test]
fn a_family_that_stacks_is_written_in_stacks() {
    let config = oss();
    let parsed = parse(&config).unwrap();
    let expected = stacked(tiny_tensors(&config), 3, true);
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), &config).unwrap();
    for (name, (_, shape, data)) in tiny_tensors(&config) {
        writer.put_dense(&name, Dtype::F32, &shape, &data).unwrap();
    }
    let written = writer.finish().unwrap();
    let mut found = 0;
    for file in written.files.iter().filter(|file| file.name.ends_with(".safetensors")) {
        let bytes = std::fs::read(folder.path().join(&file.name)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().iter() {
            let (_, shape, data) = &expected[name];
            assert!(view.shape() == shape && view.data() == data, "{name}");
            found += 1;
        }
    }
    assert_eq!(found, expected.len());
    // A block that was written before is taken over.
    let mut again = CheckpointWriter::create(folder.path(), &config).unwrap();
    assert_eq!(again.resume(2).unwrap(), [0, 1]);
    assert_eq!(Checkpoint::open(write_model(&config, &expected).path()).unwrap().names().len(), parsed.tensors().len());
}

#[test]
fn coded_experts_are_written_as_published_and_read_back() {
    let config = oss();
    let parsed = parse(&config).unwrap();
    let args = preset("MXFP4A16").unwrap().weights.unwrap();
    let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), &config).unwrap();
    writer.code_experts().unwrap();
    let mut all = Vec::new();
    for (seed, spec) in parsed.tensors().into_iter().enumerate() {
        let data = values(seed, spec.shape.iter().product());
        let expert =
            parsed.linears().into_iter().find(|linear| linear.weight() == spec.name && linear.site.expert.is_some());
        let Some(linear) = expert else {
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &f32_bytes(&data)).unwrap();
            continue;
        };
        let weight = Matrix::new(&data, linear.out_features, linear.in_features).unwrap();
        let (codes, parameters) = grid.round_to_nearest(weight).unwrap();
        writer.put_quantized(&linear.name, &grid, &codes, &parameters).unwrap();
        all.push((linear, codes, parameters));
    }
    writer.finish().unwrap();
    let opened = Checkpoint::open(folder.path()).unwrap();
    let json = &opened.config_json()["quantization_config"];
    assert_eq!(json["quant_method"], "mxfp4");
    assert_eq!(json["modules_to_not_convert"][1], "model.layers.*.mlp.router");
    for (linear, codes, parameters) in &all {
        let found = opened.quantized_linear(&linear.name).unwrap().unwrap();
        assert!(found.codes == *codes && found.parameters == *parameters, "{}", linear.name);
        let mut values = vec![0.0; codes.len()];
        grid.dequantize(codes, linear.out_features, linear.in_features, parameters, &mut values).unwrap();
        assert_eq!(opened.values(&linear.weight()).unwrap(), values, "{}", linear.name);
    }
    assert_eq!(all.len(), 18);
    // By the published layout: row 2 r of gate_up is row r of gate, two codes a byte, the even column in the low half.
    let shard = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.into_iter().find(|path| path.to_str().unwrap().contains("model-block-00001")).unwrap();
    let bytes = std::fs::read(shard).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let blocks = file.tensor("model.layers.1.mlp.experts.gate_up_proj_blocks").unwrap();
    assert_eq!(blocks.shape(), [3, 128, 1, 16]);
    let (_, codes, _) = all.iter().find(|(linear, ..)| linear.name.ends_with("1.mlp.experts.2.up_proj")).unwrap();
    let at = (2 * 128 + 2 * 5 + 1) * 16 + 7;
    assert_eq!(blocks.data()[at], codes[5 * 32 + 14] as u8 | (codes[5 * 32 + 15] as u8) << 4);
    let mut again = CheckpointWriter::create(folder.path(), &config).unwrap();
    again.code_experts().unwrap();
    assert_eq!(again.resume(2).unwrap(), [0, 1]);
    let mut other = CheckpointWriter::create(tempfile::tempdir().unwrap().path(), &qwen()).unwrap();
    assert!(other.code_experts().is_err());
}

#[test]
fn settings_that_would_change_the_function_are_refused() {
    let error = |config: &Value, key: &str, value: Value| {
        let mut config = config.clone();
        config[key] = value;
        parse(&config).unwrap_err().to_string()
    };
    for (key, value, part) in [
        ("layer_types", json!(["full_attention", "chunked_attention"]), "chunked_attention"),
        ("layer_types", json!(["full_attention"]), "list of 2"),
        ("swiglu_limit", json!(5.0), "only 7 is supported"),
        ("rope_scaling", Value::Null, "neither `rope_scaling` nor `rope_parameters`"),
        ("num_experts_per_tok", json!(4), "there are 3 experts"),
        ("experts_per_token", json!(1), "`experts_per_token`"),
        ("sliding_window", json!(0), "`sliding_window`"),
    ] {
        assert_holds(&error(&oss(), key, value), &[part]);
    }
    for (key, value, part) in [
        ("num_local_experts", json!(4), "`num_local_experts`"),
        ("mlp_only_layers", json!([2]), "numbers below 2"),
        ("decoder_sparse_step", json!(0), "`decoder_sparse_step`"),
        ("norm_topk_prob", json!("yes"), "`norm_topk_prob`"),
        ("layer_types", json!(["sliding_attention", "full_attention"]), "only \"full_attention\""),
    ] {
        assert_holds(&error(&qwen(), key, value), &[part]);
    }
    let windows = parse(&oss()).unwrap().sliding_windows;
    assert_eq!(windows, [Some(8), None], "without `layer_types` every second block has a window");
    assert_eq!(parse(&qwen()).unwrap().experts.unwrap().dense_blocks, [1]);
}

/// transformers 5.17: `GptOssConfig.default_theta`; every other family begins at 10,000.
#[test]
fn each_family_has_its_own_base_of_rotary_frequencies() {
    assert_eq!(parse(&oss()).unwrap().rope_theta, 150_000.0);
    assert_eq!(parse(&qwen()).unwrap().rope_theta, 10_000.0);
    let mut both = oss();
    both["rope_parameters"] = both["rope_scaling"].clone();
    both["rope_parameters"]["rope_theta"] = 150_000.0.into();
    assert_eq!(parse(&both).unwrap().rope_theta, 150_000.0);
}

/// transformers takes the scheme of the experts from the first group that has an expression for them.
#[test]
fn a_group_with_all_experts_names_them_by_an_expression() {
    let config = qwen();
    let parsed = parse(&config).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(folder.path(), &config).unwrap();
    let grid = |preset_name: &str| {
        let args = preset(preset_name).unwrap().weights.unwrap();
        let args = QuantizationArgs { group_size: Some(8), ..args };
        Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
    };
    let (of_experts, of_others) = (grid("W4A16"), grid("W8A16"));
    for (seed, spec) in parsed.tensors().into_iter().enumerate() {
        let data = values(seed, spec.shape.iter().product());
        let Some(linear) = parsed.linears().into_iter().find(|linear| linear.weight() == spec.name) else {
            writer.put_dense(&spec.name, Dtype::F32, &spec.shape, &f32_bytes(&data)).unwrap();
            continue;
        };
        let grid = if linear.site.expert.is_some() { &of_experts } else { &of_others };
        let weight = Matrix::new(&data, linear.out_features, linear.in_features).unwrap();
        let (codes, parameters) = grid.round_to_nearest(weight).unwrap();
        writer.put_quantized(&linear.name, grid, &codes, &parameters).unwrap();
    }
    writer.finish().unwrap();
    let opened = Checkpoint::open(folder.path()).unwrap();
    let groups = &opened.config_json()["quantization_config"]["config_groups"];
    let targets = |bits: u64| {
        let mut all = groups.as_object().unwrap().values();
        all.find(|group| group["weights"]["num_bits"] == bits).unwrap()["targets"].clone()
    };
    assert_eq!(targets(4), json!([r"re:.*\.experts\..*"]));
    assert!(targets(8).as_array().unwrap().iter().all(|target| !target.as_str().unwrap().starts_with("re:")));
    for linear in parsed.linears() {
        let bits = opened.quantized_linear(&linear.name).unwrap().unwrap().grid.args().num_bits;
        assert_eq!(bits, if linear.site.expert.is_some() { 4 } else { 8 }, "{}", linear.name);
    }
}
