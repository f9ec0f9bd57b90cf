//! Scales and zero-points that no quantizer writes: codes would be read as numbers that nobody meant.

use safetensors::Dtype;
use serde_json::{Value, json};
use workbench_model::Checkpoint;

use crate::common::{Stored, assert_holds, f32_bytes, write_model};
use crate::compressed::{MODULE, args, config_for, kv_folder, quantization, tensors_with};

fn floats(shape: &[usize], values: &[f32]) -> Stored {
    (Dtype::F32, shape.to_vec(), f32_bytes(values))
}

fn points(shape: &[usize], values: &[i8]) -> Stored {
    (Dtype::I8, shape.to_vec(), values.iter().map(|value| *value as u8).collect())
}

/// What reading k_proj of this folder says, and that a check of the whole checkpoint says it too.
fn error(layout: &str, weights: Value, inputs: Value, parts: &[(&str, Stored)]) -> String {
    let config = config_for(8, 64, quantization(layout, weights, inputs));
    let folder = write_model(&config, &tensors_with(&config, parts));
    let model = Checkpoint::open(folder.path()).unwrap();
    let input = model.input_quantizer(MODULE).map(drop);
    let found = input.and_then(|()| model.quantized_linear(MODULE).map(drop)).unwrap_err();
    assert_eq!(model.check_finite().unwrap_err().to_string(), found.to_string());
    found.to_string()
}

fn codes() -> (&'static str, Stored) {
    ("weight", points(&[8, 64], &[3; 512]))
}

#[test]
fn scales_of_weights_are_positive_and_finite() {
    for (bad, shown) in [(0.0, "0"), (-0.5, "-0.5"), (f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut scales = [0.5_f32; 16];
        scales[2 * 2 + 1] = bad;
        let parts = [codes(), ("weight_scale", floats(&[8, 2], &scales))];
        let found = error("int-quantized", args(8, "int", true, "group", Some(32)), Value::Null, &parts);
        assert_holds(&found, &["model.safetensors", &format!("{MODULE}.weight_scale"), shown]);
        if bad.is_finite() {
            assert_holds(&found, &["scale 5 is", "positive"]);
        }
    }
    // A negative zero in FP8, and an FP8 scale below zero.
    let mut fp4 = args(4, "float", true, "tensor_group", Some(16));
    fp4["scale_dtype"] = json!("torch.float8_e4m3fn");
    for byte in [0x00, 0x80, 0xb8] {
        let mut scales = vec![0x38_u8; 32];
        scales[5] = byte;
        let parts = [
            ("weight_packed", (Dtype::U8, vec![8, 32], vec![0x12; 256])),
            ("weight_scale", (Dtype::F8_E4M3, vec![8, 4], scales)),
            ("weight_global_scale", floats(&[1], &[2.0])),
        ];
        let found = error("nvfp4-pack-quantized", fp4.clone(), Value::Null, &parts);
        assert_holds(&found, &["weight_scale", "scale 5 is", "positive"]);
    }
}

#[test]
fn zero_points_are_codes() {
    for bad in [8_i8, -9, 127, -128] {
        let mut zeros = [0_i8; 8];
        zeros[6] = bad;
        let parts =
            [codes(), ("weight_scale", floats(&[8, 1], &[0.5; 8])), ("weight_zero_point", points(&[8, 1], &zeros))];
        let found = error("int-quantized", args(4, "int", false, "channel", None), Value::Null, &parts);
        assert_holds(&found, &[&format!("{MODULE}.weight_zero_point"), "zero-point 6 is", &bad.to_string(), "-8..=7"]);
    }
}

#[test]
fn static_inputs_and_caches_too() {
    let weights = || vec![codes(), ("weight_scale", floats(&[8, 1], &[0.5; 8]))];
    let by_tensor = |bits: u8, symmetric: bool| args(bits, "int", symmetric, "tensor", None);
    for bad in [0.0, -1.0, f32::NAN] {
        let mut parts = weights();
        parts.push(("input_scale", floats(&[1], &[bad])));
        let found = error("int-quantized", args(8, "int", true, "channel", None), by_tensor(8, true), &parts);
        assert_holds(&found, &[&format!("{MODULE}.input_scale"), &bad.to_string()]);
    }
    let mut parts = weights();
    parts.extend([("input_scale", floats(&[1], &[0.5])), ("input_zero_point", points(&[1], &[9]))]);
    let found = error("int-quantized", args(8, "int", true, "channel", None), by_tensor(4, false), &parts);
    assert_holds(&found, &[&format!("{MODULE}.input_zero_point"), "zero-point 0 is 9", "-8..=7"]);

    let cache = |args: &Value, parts: &[(&str, Stored)]| {
        let folder = kv_folder(args, parts);
        let model = Checkpoint::open(folder.path()).unwrap();
        let found = model.kv_quantizer(0).unwrap_err().to_string();
        assert_eq!(model.check_finite().unwrap_err().to_string(), found);
        found
    };
    let by_head = json!({"num_bits": 4, "strategy": "attn_head"});
    for bad in [0.0, -2.0, f32::INFINITY] {
        let parts = [("k_scale", floats(&[2, 1, 1], &[0.5, 1.0])), ("v_scale", floats(&[2, 1, 1], &[0.5, bad]))];
        assert_holds(&cache(&by_head, &parts), &["layers.0.self_attn.v_scale", &bad.to_string()]);
    }
    let asymmetric = json!({"num_bits": 4, "strategy": "tensor", "symmetric": false});
    let parts = [
        ("k_scale", floats(&[1], &[0.5])),
        ("v_scale", floats(&[1], &[0.5])),
        ("k_zero_point", points(&[1], &[8])),
        ("v_zero_point", points(&[1], &[0])),
    ];
    assert_holds(&cache(&asymmetric, &parts), &["layers.0.self_attn.k_zero_point", "is 8, outside -8..=7"]);
}
