//! Folders in the layouts of compressed-tensors, as that package writes them.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::checkpoint::CheckpointWriter;
use workbench_model::{Checkpoint, WeightSource};
use workbench_quant::{Grid, Matrix};

use crate::common::{
    Stored, Tensors, assert_holds, f32_bytes, fixture, open_error, tiny_config, tiny_tensors, write_config, write_model,
};

pub(crate) const MODULE: &str = "model.layers.0.self_attn.k_proj";

/// A Llama whose k_proj has this shape; heads of `rows` values, one of them for keys.
pub(crate) fn config_for(rows: usize, columns: usize, quantization: Value) -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "hidden_size": columns, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": rows, "vocab_size": 16,
        "max_position_embeddings": 64, "tie_word_embeddings": true, "quantization_config": quantization})
}

/// Only k_proj is quantized: the module's name wins over the pattern that ignores the rest.
pub(crate) fn quantization(format: &str, weights: Value, inputs: Value) -> Value {
    json!({"quant_method": "compressed-tensors", "format": format, "quantization_status": "compressed",
        "ignore": ["re:.*(q|v|o)_proj", "re:.*mlp\\..*", "lm_head"], "kv_cache_scheme": null, "sparsity_config": {},
        "transform_config": {}, "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights,
            "input_activations": inputs, "output_activations": null}}})
}

pub(crate) fn args(bits: u8, kind: &str, symmetric: bool, strategy: &str, group_size: Option<usize>) -> Value {
    json!({"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group_size,
        "dynamic": false, "actorder": null, "block_structure": null, "scale_dtype": null, "zp_dtype": null,
        "observer": "memoryless_minmax", "observer_kwargs": {}})
}

/// Dense tensors of the configuration with the parts of the quantized linear in place of its weight.
pub(crate) fn tensors_with(config: &Value, parts: &[(&str, Stored)]) -> Tensors {
    let mut tensors = tiny_tensors(config);
    tensors.remove(&format!("{MODULE}.weight"));
    tensors.extend(parts.iter().map(|(suffix, tensor)| (format!("{MODULE}.{suffix}"), tensor.clone())));
    tensors
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn check(folder: &TempDir, codes: &[i8], values: &[u8]) {
    let model = Checkpoint::open(folder.path()).unwrap();
    let linear = model.quantized_linear(MODULE).unwrap().unwrap();
    assert_eq!(linear.codes, codes);
    assert_eq!(f32_bytes(&model.values(&format!("{MODULE}.weight")).unwrap()), values);
    assert!(model.quantized_linear("model.layers.0.self_attn.q_proj").unwrap().is_none());
    model.check_finite().unwrap();
}

#[test]
fn integer_layouts_agree_with_compressed_tensors() {
    let golden: BTreeMap<String, Value> =
        serde_json::from_str(include_str!("../golden/compressed_tensors.json")).unwrap();
    for (name, case) in golden {
        let (rows, columns) = (8, 64);
        let bits = case["num_bits"].as_u64().unwrap() as u8;
        let groups = hex(&case["scales"]).len() / 4 / rows;
        let strategy = if case["group_size"].is_null() { "channel" } else { "group" };
        let symmetric = case["symmetric"] == true;
        let weights = args(bits, "int", symmetric, strategy, case["group_size"].as_u64().map(|size| size as usize));
        let codes = hex(&case["codes"]).into_iter().map(|byte| byte as i8).collect::<Vec<_>>();
        let shape = [8_i64, 64].into_iter().flat_map(i64::to_le_bytes).collect();
        let mut parts = vec![
            ("weight_packed", (Dtype::I32, vec![rows, columns * usize::from(bits) / 32], hex(&case["packed"]))),
            ("weight_scale", (Dtype::F32, vec![rows, groups], hex(&case["scales"]))),
            ("weight_shape", (Dtype::I64, vec![2], shape)),
        ];
        if !symmetric {
            parts.push(("weight_zero_point", (Dtype::I32, vec![1, groups], hex(&case["zero_points"]))));
        }
        let config = config_for(rows, columns, quantization("pack-quantized", weights.clone(), Value::Null));
        let folder = write_model(&config, &tensors_with(&config, &parts));
        check(&folder, &codes, &hex(&case["values"]));
        let model = Checkpoint::open(folder.path()).unwrap();
        assert!(model.input_quantizer(MODULE).unwrap().is_none(), "{name}");
        if symmetric {
            // The same codes a byte each.
            let dynamic =
                json!({"num_bits": 8, "type": "int", "symmetric": true, "strategy": "token", "dynamic": true});
            let config = config_for(rows, columns, quantization("int-quantized", weights, dynamic));
            parts.retain(|(suffix, _)| *suffix == "weight_scale");
            parts.push(("weight", (Dtype::I8, vec![rows, columns], hex(&case["codes"]))));
            let folder = write_model(&config, &tensors_with(&config, &parts));
            check(&folder, &codes, &hex(&case["values"]));
            let input = Checkpoint::open(folder.path()).unwrap().input_quantizer(MODULE).unwrap().unwrap();
            assert_eq!((input.parameters, input.grid.args().num_bits), (None, 8));
        }
    }
}

/// A stored tensor of `float_layouts.json`.
fn stored(tensor: &Value) -> Stored {
    let dtype = match tensor["dtype"].as_str().unwrap() {
        "float32" => Dtype::F32,
        "float8_e4m3fn" => Dtype::F8_E4M3,
        "uint8" => Dtype::U8,
        other => panic!("unexpected {other}"),
    };
    (dtype, serde_json::from_value(tensor["shape"].clone()).unwrap(), hex(&tensor["bytes"]))
}

fn floats(text: &Value) -> Vec<f32> {
    hex(text).as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[test]
fn floating_point_layouts_agree_with_compressed_tensors() {
    let golden: Value = serde_json::from_str(include_str!("../golden/float_layouts.json")).unwrap();
    let weight = floats(&golden["weight"]);
    for (name, case) in golden["cases"].as_object().unwrap() {
        let layout = case["format"].as_str().unwrap();
        let tensors: BTreeMap<&str, Stored> =
            case["stored"].as_object().unwrap().iter().map(|(part, tensor)| (part.as_str(), stored(tensor))).collect();
        let parts: Vec<(&str, Stored)> = tensors.iter().map(|(part, tensor)| (*part, tensor.clone())).collect();
        let config = config_for(8, 64, quantization(layout, case["weights"].clone(), Value::Null));
        let folder = write_model(&config, &tensors_with(&config, &parts));
        let model = Checkpoint::open(folder.path()).unwrap();
        let values = model.values(&format!("{MODULE}.weight")).unwrap();
        // The package gives some layouts out in bfloat16 alone.
        let rounded: Vec<f32> = match case["values_dtype"].as_str().unwrap() {
            "bfloat16" => values.iter().map(|value| half::bf16::from_f32(*value).to_f32()).collect(),
            _ => values.clone(),
        };
        assert_eq!(rounded, floats(&case["values"]), "{name}");
        model.check_finite().unwrap();

        // The other way: our grid gives the weight the same codes and scales, and the writer lays them out alike.
        let args: workbench_quant::QuantizationArgs = serde_json::from_value(case["weights"].clone()).unwrap();
        let grid =
            Grid::new(&args, workbench_quant::StorageDtype::F32, workbench_quant::Conventions::default()).unwrap();
        let (codes, parameters) = grid.round_to_nearest(Matrix::new(&weight, 8, 64).unwrap()).unwrap();
        let again = tempfile::tempdir().unwrap();
        let mut writer = CheckpointWriter::create(again.path(), &config).unwrap();
        writer.put_quantized(MODULE, &grid, &codes, &parameters).unwrap();
        for name in model.names().iter().filter(|name| !name.starts_with(MODULE)) {
            let raw = model.raw(name).unwrap();
            writer.put_dense(name, raw.dtype, raw.shape, &raw.bytes).unwrap();
        }
        let written = writer.finish().unwrap();
        let block = written.files.iter().find(|file| file.name.starts_with("model-block")).unwrap();
        let bytes = std::fs::read(again.path().join(&block.name)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        for (part, (dtype, shape, data)) in tensors {
            let found = file.tensor(&format!("{MODULE}.{part}")).unwrap();
            assert_eq!((found.dtype(), found.shape()), (dtype, &shape[..]), "{name}: {part}");
            assert!(found.data() == data, "{name}: {part} differs");
        }
    }
}

/// Tensors of a linear by suffix.
type Parts = Vec<(&'static str, Stored)>;

/// The parts of k_proj in NVFP4, all codes and scales one.
fn nvfp4_parts() -> Parts {
    vec![
        ("weight_packed", (Dtype::U8, vec![8, 32], vec![0x22; 8 * 32])),
        ("weight_scale", (Dtype::F8_E4M3, vec![8, 4], vec![0x38; 8 * 4])),
        ("weight_global_scale", (Dtype::F32, vec![1], f32_bytes(&[4.0]))),
    ]
}

fn nvfp4_args(dynamic: Value) -> Value {
    let mut args = args(4, "float", true, "tensor_group", Some(16));
    args["dynamic"] = dynamic;
    args
}

#[test]
fn tensor_wide_input_scales_are_read() {
    let quantization = quantization("nvfp4-pack-quantized", nvfp4_args(json!(false)), nvfp4_args(json!("local")));
    let config = config_for(8, 64, quantization);
    let mut parts = nvfp4_parts();
    parts.push(("input_global_scale", (Dtype::F32, vec![1], f32_bytes(&[672.0]))));
    let folder = write_model(&config, &tensors_with(&config, &parts));
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.values(&format!("{MODULE}.weight")).unwrap(), vec![0.25; 8 * 64]);
    let input = model.input_quantizer(MODULE).unwrap().unwrap();
    assert_eq!(input.parameters.unwrap().global_scale, Some(672.0));
    parts.pop();
    let folder = write_model(&config, &tensors_with(&config, &parts));
    assert_holds(&open_error(folder.path()), &[MODULE, "input_global_scale", "missing"]);
}

#[test]
fn fp4_folders_that_lie_are_refused_by_name() {
    let error = |change: &dyn Fn(&mut Parts)| {
        let config = config_for(8, 64, quantization("nvfp4-pack-quantized", nvfp4_args(json!(false)), Value::Null));
        let mut parts = nvfp4_parts();
        change(&mut parts);
        let folder = write_model(&config, &tensors_with(&config, &parts));
        match Checkpoint::open(folder.path()) {
            Err(error) => error.to_string(),
            Ok(model) => model.check_finite().unwrap_err().to_string(),
        }
    };
    assert_holds(&error(&|parts| drop(parts.remove(0))), &[MODULE, "weight_packed", "missing"]);
    assert_holds(&error(&|parts| drop(parts.remove(2))), &[MODULE, "weight_global_scale", "missing"]);
    assert_holds(&error(&|parts| parts[0].1.1 = vec![32, 8]), &[MODULE, "[32, 8]", "[8, 32]"]);
    assert_holds(&error(&|parts| parts[0].1.0 = Dtype::I8), &[MODULE, "I8", "U8"]);
    assert_holds(&error(&|parts| parts[1].1.0 = Dtype::U8), &[MODULE, "weight_scale", "U8", "F8_E4M3"]);
    assert_holds(&error(&|parts| parts[1].1.1 = vec![4, 8]), &[MODULE, "weight_scale", "[4, 8]", "[8, 4]"]);
    assert_holds(&error(&|parts| parts[1].1.2[3] = 0x7f), &[MODULE, "weight_scale", "NaN"]);
    let global = |values: &[f32]| (Dtype::F32, vec![values.len()], f32_bytes(values));
    assert_holds(&error(&|parts| parts[2].1 = global(&[1.0, 2.0])), &[MODULE, "weight_global_scale", "[2]"]);
    for wrong in [0.0, -1.0] {
        assert_holds(&error(&|parts| parts[2].1 = global(&[wrong])), &[MODULE, "weight_global_scale", "positive"]);
    }
    assert_holds(&error(&|parts| parts[2].1 = global(&[f32::NAN])), &[MODULE, "weight_global_scale", "NaN"]);
}

#[test]
fn mx_scales_may_be_left_unsaid() {
    let mut weights = args(4, "float", true, "group", Some(32));
    let parts = [
        ("weight_packed", (Dtype::U8, vec![8, 32], vec![0x22; 8 * 32])),
        ("weight_scale", (Dtype::U8, vec![8, 2], vec![128; 8 * 2])),
    ];
    for dtype in [Value::Null, json!("torch.uint8")] {
        weights["scale_dtype"] = dtype;
        let config = config_for(8, 64, quantization("mxfp4-pack-quantized", weights.clone(), Value::Null));
        let folder = write_model(&config, &tensors_with(&config, &parts));
        let model = Checkpoint::open(folder.path()).unwrap();
        assert_eq!(model.values(&format!("{MODULE}.weight")).unwrap(), vec![2.0; 8 * 64]);
    }
}

#[test]
fn every_case_of_the_large_fixtures_agrees() {
    let test = "every_case_of_the_large_fixtures_agrees";
    for (file, layout) in
        [("golden/rtn_ct_f32.safetensors", "pack-quantized"), ("golden/fp_ct_f32.safetensors", "float-quantized")]
    {
        let Some(path) = fixture(test, file) else { return };
        let bytes = std::fs::read(path).unwrap();
        let golden = SafeTensors::deserialize(&bytes).unwrap();
        let names =
            golden.names().into_iter().filter_map(|name| name.strip_suffix(".decompressed")).collect::<Vec<_>>();
        let mut seen = 0;
        for case in names {
            let fields = case.split('_').collect::<Vec<_>>();
            let weights = match fields[..] {
                ["fp8", "block"] => {
                    let mut block = args(8, "float", true, "block", None);
                    block["block_structure"] = json!([128, 128]);
                    block
                }
                ["fp8", strategy] => args(8, "float", true, strategy, None),
                ["mxfp4" | "mxfp8"] => {
                    let mut mx = args(if case == "mxfp4" { 4 } else { 8 }, "float", true, "group", Some(32));
                    mx["scale_dtype"] = json!("torch.uint8");
                    mx
                }
                ["nvfp4"] => nvfp4_args(json!(false)),
                [bits, symmetry, groups] if bits.starts_with('w') => {
                    let size = groups.strip_prefix('g').and_then(|size| size.parse().ok());
                    let strategy = if size.is_some() { "group" } else { groups };
                    args(bits[1..].parse().unwrap(), "int", symmetry == "sym", strategy, size)
                }
                _ => continue,
            };
            let prefix = format!("{case}.compressed.");
            let parts = golden.names().into_iter().filter_map(|name| {
                let view = golden.tensor(name).unwrap();
                Some((name.strip_prefix(&prefix)?, (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
            });
            let parts = parts.collect::<Vec<_>>();
            let layout = match case {
                "mxfp4" => "mxfp4-pack-quantized",
                "mxfp8" => "mxfp8-quantized",
                "nvfp4" => "nvfp4-pack-quantized",
                _ => layout,
            };
            let config = config_for(48, 256, quantization(layout, weights, Value::Null));
            let folder = write_model(&config, &tensors_with(&config, &parts));
            let model = Checkpoint::open(folder.path()).unwrap();
            let values = model.values(&format!("{MODULE}.weight")).unwrap();
            let expected = golden.tensor(&format!("{case}.decompressed")).unwrap();
            let values = match expected.dtype() {
                Dtype::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
                _ => f32_bytes(&values),
            };
            assert!(values == expected.data(), "{case}");
            if let Ok(codes) = golden.tensor(&format!("{case}.q_int8")) {
                let found = model.quantized_linear(MODULE).unwrap().unwrap().codes;
                assert_eq!(found.iter().map(|code| *code as u8).collect::<Vec<_>>(), codes.data(), "{case}");
            }
            seen += 1;
        }
        assert!(seen >= 3, "{file} holds only {seen} cases");
    }
}

/// k_proj of 8 x 64 in signed bytes with a scale per row.
fn byte_parts() -> Vec<(&'static str, Stored)> {
    let codes = (0..8 * 64).map(|i| (i * 31 % 255 - 127) as i8 as u8).collect();
    let scales = (1..=8).map(|row| row as f32 / 256.0).collect::<Vec<_>>();
    vec![("weight", (Dtype::I8, vec![8, 64], codes)), ("weight_scale", (Dtype::F32, vec![8, 1], f32_bytes(&scales)))]
}

fn byte_weights() -> Value {
    args(8, "int", true, "channel", None)
}

#[test]
fn static_input_scales_are_read() {
    let (symmetric, asymmetric) = (args(8, "int", true, "tensor", None), args(8, "int", false, "tensor", None));
    let scale = |value: f32| (Dtype::F32, vec![1], f32_bytes(&[value]));
    for (inputs, points) in [(symmetric, None), (asymmetric, Some(-7_i8))] {
        let mut parts = byte_parts();
        parts.push(("input_scale", scale(0.03125)));
        parts.extend(points.map(|point| ("input_zero_point", (Dtype::I8, vec![1], vec![point as u8]))));
        let config = config_for(8, 64, quantization("int-quantized", byte_weights(), inputs.clone()));
        let folder = write_model(&config, &tensors_with(&config, &parts));
        let model = Checkpoint::open(folder.path()).unwrap();
        let input = model.input_quantizer(MODULE).unwrap().unwrap();
        let parameters = input.parameters.unwrap();
        assert_eq!((parameters.scales, parameters.shape), (vec![0.03125], [1, 1]));
        assert_eq!(parameters.zero_points, points.map(|point| vec![i32::from(point)]));
        assert!(model.input_quantizer("model.layers.0.self_attn.q_proj").unwrap().is_none());
        // Eight bits a code and 32 a scale for k; the other six linears stay f32.
        let dense = 16 * 64 + 8 * 64 + 64 * 16 + 3 * 64 * 32;
        let bits = (dense * 32 + 8 * 64 * 8 + 8 * 32) as f64 / f64::from(dense + 8 * 64);
        assert_eq!(model.bits_per_weight(), bits);

        let missing = write_model(&config, &tensors_with(&config, &byte_parts()));
        assert_holds(&open_error(missing.path()), &[MODULE, "input_scale", "missing"]);
    }
}

#[test]
fn a_dense_checkpoint_has_the_bits_of_its_type() {
    let folder = write_model(&tiny_config(), &tiny_tensors(&tiny_config()));
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.bits_per_weight(), 32.0);
    assert!(model.quantization().is_none());
    assert!(model.quantized_linear("model.layers.0.mlp.up_proj").unwrap().is_none());
    assert!(model.quantized_linear("model.layers.9.mlp.up_proj").is_err());
}

#[test]
fn targets_and_ignore_choose_as_in_the_format() {
    let mut quantization = quantization("int-quantized", byte_weights(), Value::Null);
    quantization["config_groups"]["group_0"]["targets"] = json!(["re:.*proj"]);
    quantization["config_groups"]["group_1"] =
        json!({"targets": ["model.layers.0.self_attn.k_proj"], "weights": args(4, "int", true, "channel", None)});
    let config = config_for(8, 64, quantization);
    let folder = write_model(&config, &tensors_with(&config, &byte_parts()));
    // The exact name beats the pattern, so that k_proj is expected in 4 bits and its byte codes are out of range.
    let model = Checkpoint::open(folder.path()).unwrap();
    let (scheme, _) = model.quantization().unwrap().scheme(MODULE).unwrap();
    assert_eq!(scheme.weights.as_ref().unwrap().num_bits, 4);
    assert!(model.quantization().unwrap().scheme("model.layers.0.self_attn.v_proj").is_none());
    let error = model.values(&format!("{MODULE}.weight")).unwrap_err().to_string();
    assert_holds(&error, &[MODULE, "outside -8 to 7"]);
}

/// compressed-tensors 0.19: `match_targets` sorts patterns by their text over all groups, and of one text the last group stays.
#[test]
fn of_several_patterns_the_first_in_the_alphabet_wins() {
    let bits = |of_first: &[&str], of_second: &[&str]| {
        let mut quantization = quantization("int-quantized", byte_weights(), Value::Null);
        quantization["config_groups"]["group_0"]["targets"] = json!(of_first);
        quantization["config_groups"]["group_1"] =
            json!({"targets": of_second, "weights": args(4, "int", true, "channel", None)});
        let config = config_for(8, 64, quantization);
        let folder = write_model(&config, &tensors_with(&config, &byte_parts()));
        let model = Checkpoint::open(folder.path()).unwrap();
        let (scheme, _) = model.quantization().unwrap().scheme(MODULE).unwrap();
        scheme.weights.as_ref().unwrap().num_bits
    };
    assert_eq!(bits(&["re:.*k_proj"], &["re:.*self_attn.k_proj"]), 8);
    assert_eq!(bits(&["re:.*self_attn.k_proj"], &["re:.*k_proj"]), 4);
    assert_eq!(bits(&["re:.*k_proj", "re:.*x"], &["re:.*(k|x)_proj"]), 4);
    assert_eq!(bits(&["re:.*k_proj"], &["re:.*k_proj"]), 4);
}

#[test]
fn quantized_folders_that_lie_are_refused_by_name() {
    let error = |change: &dyn Fn(&mut Value, &mut Parts)| {
        let mut config = config_for(8, 64, quantization("int-quantized", byte_weights(), Value::Null));
        let mut parts = byte_parts();
        change(&mut config["quantization_config"], &mut parts);
        let folder = write_model(&config, &tensors_with(&config, &parts));
        match Checkpoint::open(folder.path()) {
            Err(error) => format!("{error} | {}", error.hint().unwrap_or_default()),
            Ok(model) => model.check_finite().unwrap_err().to_string(),
        }
    };
    let weights = "/config_groups/group_0/weights";
    assert_holds(&error(&|q, _| q["quant_method"] = json!("gptq")), &["config.json", "gptq", "compressed-tensors"]);
    assert_holds(&error(&|q, _| q["quantization_status"] = json!("frozen")), &["config.json", "frozen"]);
    assert_holds(&error(&|q, _| q["format"] = json!("marlin-24")), &["config.json", "marlin-24", "pack-quantized"]);
    assert_holds(
        &error(&|q, _| q["format"] = json!("nvfp4-pack-quantized")),
        &[MODULE, "int8", "nvfp4-pack-quantized"],
    );
    assert_holds(&error(&|q, _| q["kv_cache_scheme"] = json!({"num_bits": 9})), &["config.json", "KV cache", "9 bits"]);
    assert_holds(&error(&|q, _| q["kv_cache_scheme"] = json!({"num_bits": 8})), &["k_scale", "missing"]);
    assert_holds(&error(&|q, _| q["sparsity_config"] = json!({"format": "sparse-24-bitmask"})), &["sparse"]);
    assert_holds(&error(&|q, _| q["ignore"] = json!(["re:("])), &["config.json", "re:("]);
    assert_holds(&error(&|q, _| q["config_groups"] = json!(3)), &["config.json", "config_groups"]);
    assert_holds(&error(&|q, _| q["ignore"] = json!(["lm_head"])), &["q_proj", "F32", "I8"]);
    assert_holds(
        &error(&|q, _| *q.pointer_mut(&format!("{weights}/num_bits")).unwrap() = json!(9)),
        &["group_0", "9 bits"],
    );
    assert_holds(&error(&|q, _| q.pointer_mut(weights).unwrap()["surprise"] = json!(1)), &["group_0", "surprise"]);
    assert_holds(
        &error(&|q, _| q.pointer_mut(weights).unwrap()["actorder"] = json!("group")),
        &["group_0", "actorder"],
    );
    assert_holds(
        &error(&|q, _| {
            q.pointer_mut(weights)
                .unwrap()
                .as_object_mut()
                .unwrap()
                .extend(json!({"strategy": "group", "group_size": 48}).as_object().unwrap().clone())
        }),
        &[MODULE, "48", "64"],
    );
    assert_holds(
        &error(&|q, _| q.pointer_mut(weights).unwrap()["symmetric"] = json!(false)),
        &[MODULE, "weight_zero_point", "missing"],
    );
    assert_holds(&error(&|q, _| q.pointer_mut(weights).unwrap()["type"] = json!("float")), &[MODULE, "I8", "F8_E4M3"]);
    assert_holds(&error(&|q, _| q["format"] = json!("pack-quantized")), &[MODULE, "weight_packed", "missing"]);
    assert_holds(&error(&|_, parts| drop(parts.remove(1))), &[MODULE, "weight_scale", "missing"]);
    assert_holds(&error(&|_, parts| parts[1].1.1 = vec![4, 2]), &[MODULE, "weight_scale", "[4, 2]", "[8, 1]"]);
    assert_holds(&error(&|_, parts| parts[0].1.1 = vec![64, 8]), &[MODULE, "[64, 8]", "[8, 64]"]);
    let nan = f32::NAN.to_le_bytes();
    assert_holds(&error(&|_, parts| parts[1].1.2[4..8].copy_from_slice(&nan)), &[MODULE, "weight_scale", "NaN"]);
    let indices = (Dtype::I32, vec![64], vec![0; 256]);
    assert_holds(&error(&|_, parts| parts.push(("weight_g_idx", indices.clone()))), &[MODULE, "weight_g_idx"]);
    let scale = (Dtype::F32, vec![1], f32_bytes(&[1.0]));
    assert_holds(
        &error(&|_, parts| parts.push(("input_scale", scale.clone()))),
        &[MODULE, "input_scale", "belongs to no part"],
    );
    assert_holds(&error(&|_, parts| parts.push(("k_scale", scale.clone()))), &["k_scale"]);
    let shape = [8_i64, 65].into_iter().flat_map(i64::to_le_bytes).collect::<Vec<_>>();
    let shape = (Dtype::I64, vec![2], shape);
    assert_holds(&error(&|_, parts| parts.push(("weight_shape", shape.clone()))), &[MODULE, "[8, 65]", "[8, 64]"]);
    let points = (Dtype::I8, vec![8, 1], vec![0, 0, 3, 0, 0, 0, 0, 0]);
    assert_holds(&error(&|_, parts| parts.push(("weight_zero_point", points.clone()))), &[MODULE, "3", "symmetric"]);
}

/// A folder whose cache has these arguments and these tensors beside the attention.
pub(crate) fn kv_folder(args: &Value, parts: &[(&str, Stored)]) -> TempDir {
    let mut config = tiny_config();
    config["quantization_config"] = json!({"quant_method": "compressed-tensors", "format": "dense",
        "quantization_status": "compressed", "config_groups": {}, "ignore": [], "kv_cache_scheme": args});
    let mut tensors = tiny_tensors(&config);
    for block in 0..2 {
        tensors.extend(
            parts.iter().map(|(part, tensor)| (format!("model.layers.{block}.self_attn.{part}"), tensor.clone())),
        );
    }
    write_model(&config, &tensors)
}

#[test]
fn scales_of_a_kv_cache_are_read() {
    let scale = |shape: &[usize], values: &[f32]| (Dtype::F32, shape.to_vec(), f32_bytes(values));
    let by_tensor = json!({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": false, "symmetric": true});
    let folder = kv_folder(&by_tensor, &[("k_scale", scale(&[1], &[0.5])), ("v_scale", scale(&[1], &[0.25]))]);
    let found = Checkpoint::open(folder.path()).unwrap().kv_quantizer(1).unwrap().unwrap();
    assert_eq!((found.key.unwrap().scales, found.value.unwrap().scales), (vec![0.5], vec![0.25]));
    let by_head = json!({"num_bits": 4, "strategy": "attn_head"});
    let parts = [("k_scale", scale(&[2, 1, 1], &[0.5, 2.0])), ("v_scale", scale(&[2, 1, 1], &[1.0, 3.0]))];
    let folder = kv_folder(&by_head, &parts);
    let model = Checkpoint::open(folder.path()).unwrap();
    let found = model.kv_quantizer(0).unwrap().unwrap();
    assert_eq!((found.value.clone().unwrap().scales, found.value.unwrap().shape), (vec![1.0, 3.0], [1, 2]));
    assert_eq!(found.grid.of_heads(8).args().group_size, Some(8));
    assert!(model.kv_quantizer(2).unwrap().is_none());
    let dynamic = json!({"num_bits": 8, "group_size": 8, "dynamic": true});
    let found = Checkpoint::open(kv_folder(&dynamic, &[]).path()).unwrap().kv_quantizer(0).unwrap().unwrap();
    assert_eq!((found.key, found.value), (None, None));

    let error = |args: &Value, parts: &[(&str, Stored)]| {
        let folder = kv_folder(args, parts);
        match Checkpoint::open(folder.path()) {
            Err(error) => error.to_string(),
            Ok(model) => model.kv_quantizer(0).unwrap_err().to_string(),
        }
    };
    assert_holds(&error(&by_head, &parts[..1]), &["layers.0.self_attn.v_scale", "missing"]);
    assert_holds(&error(&by_tensor, &parts), &["k_scale", "[2, 1, 1]", "[1]"]);
    assert_holds(&error(&dynamic, &parts), &["k_scale", "dynamically"]);
    let nan = [parts[0].clone(), ("v_scale", scale(&[2, 1, 1], &[1.0, f32::NAN]))];
    assert_holds(&error(&by_head, &nan), &["v_scale", "NaN"]);
    let asymmetric = json!({"num_bits": 8, "strategy": "tensor", "symmetric": false});
    let both = [("k_scale", scale(&[1], &[0.5])), ("v_scale", scale(&[1], &[0.5]))];
    assert_holds(&error(&asymmetric, &both), &["k_scale", "no zero-point"]);
    let token = json!({"num_bits": 8, "strategy": "token", "dynamic": true});
    assert_holds(&error(&token, &[]), &["config.json", "KV cache", "later tokens"]);
}

#[test]
fn zero_points_of_symmetric_weights_may_be_stored_if_they_are_zero() {
    let config = config_for(8, 64, quantization("int-quantized", byte_weights(), Value::Null));
    let mut parts = byte_parts();
    parts.push(("weight_zero_point", (Dtype::I8, vec![8, 1], vec![0; 8])));
    let folder = write_model(&config, &tensors_with(&config, &parts));
    let codes = parts[0].1.2.iter().map(|byte| *byte as i8).collect::<Vec<_>>();
    let values = codes.iter().enumerate().map(|(i, code)| f32::from(*code) * ((i / 64 + 1) as f32 / 256.0));
    check(&folder, &codes, &f32_bytes(&values.collect::<Vec<_>>()));
    // The key that an older exporter uses means the same.
    let mut old = config.clone();
    old["compression_config"] = old.as_object_mut().unwrap().shift_remove("quantization_config").unwrap();
    write_config(folder.path(), &old);
    assert!(Checkpoint::open(folder.path()).unwrap().quantized_linear(MODULE).unwrap().is_some());
}
