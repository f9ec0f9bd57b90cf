//! FP8, MX and NVFP4 grids and activations against compressed-tensors and torchao, bit for bit.

use serde_json::{Value, json};
use workbench_quant::float::{e2m1, e8m0, f8e4m3};
use workbench_quant::{Compute, Conventions, Grid, MxRule, StorageDtype, pack};

use crate::fixtures::{Fixture, args, dequantized, faked, matrix};
use crate::golden::precisions;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../golden/vectors.json")).unwrap()
}

pub(crate) fn float_args(name: &str) -> Value {
    match name {
        "fp8_channel" => json!({"num_bits": 8, "type": "float", "strategy": "channel"}),
        "fp8_tensor" => json!({"num_bits": 8, "type": "float", "strategy": "tensor"}),
        "fp8_block" => json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}),
        "mxfp4" => json!({"num_bits": 4, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8"}),
        "mxfp8" => json!({"num_bits": 8, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8"}),
        "nvfp4" => json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
                          "scale_dtype": "torch.float8_e4m3fn"}),
        other => panic!("no arguments for {other}"),
    }
}

pub(crate) const FLOAT_CASES: [&str; 6] = ["fp8_channel", "fp8_tensor", "fp8_block", "mxfp4", "mxfp8", "nvfp4"];

#[test]
fn floating_point_scales_and_codes_equal_those_of_compressed_tensors() {
    let golden = Fixture::bundled();
    for (precision, weight, stored, conventions) in precisions() {
        let w = golden.get(weight).values;
        for name in FLOAT_CASES {
            let case = format!("{name}.{precision}");
            let grid = Grid::new(&args(float_args(name)), stored, conventions).unwrap();
            let p = grid.parameters(matrix(&w, 48, 256)).unwrap();
            let scale = golden.get(&format!("{case}.scale")).values;
            assert_eq!(p.scales[..scale.len()], scale, "{case}: scales");
            if name == "nvfp4" {
                let global = golden.get(&format!("{case}.global_scale")).values;
                assert_eq!(p.global_scale, Some(global[0]), "{case}: tensor-wide scale");
            }
            if name.starts_with("mx") && precision == "f32" {
                let expected = golden.get(&format!("{case}.scale_bytes")).integers;
                let bytes: Vec<i32> = scale.iter().map(|scale| i32::from(e8m0::encode(*scale))).collect();
                assert_eq!(bytes, expected, "{case}: exponents");
            }
            let codes = grid.quantize(matrix(&w, 48, 256), &p).unwrap();
            let stored_codes = if name.ends_with("fp4") {
                pack::pack_fp4(&codes, 48, 256).unwrap()
            } else {
                codes.iter().map(|code| *code as u8).collect()
            };
            let expected = golden.get(&format!("{case}.codes")).integers;
            let found: Vec<i32> = stored_codes[..expected.len()].iter().map(|byte| i32::from(*byte)).collect();
            assert_eq!(found, expected, "{case}: codes");
            assert_eq!(
                grid.round_to_nearest(matrix(&w, 48, 256)).unwrap(),
                (codes.clone(), p.clone()),
                "{case}: fused"
            );
            let fake = faked(&grid, &w, 48, 256, &p);
            assert_eq!(fake, dequantized(&grid, &codes, 48, 256, &p), "{case}: fake");
            if name == "nvfp4" || case == "fp8_channel.bf16" {
                let expected = golden.get(&format!("{case}.fake")).values;
                assert_eq!(fake[..expected.len()], expected, "{case}: fake quantization");
            }
        }
    }
}

#[test]
fn dynamic_activations_equal_those_of_compressed_tensors() {
    let golden = Fixture::bundled();
    let x = golden.get("x").values;
    // On two-dimensional input the package takes `token` to mean the whole tensor, as the one scale it returns shows.
    let cases = [
        ("int8_token", json!({"num_bits": 8, "strategy": "tensor", "dynamic": true})),
        ("fp8_token", json!({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": true})),
        ("fp8_g128", json!({"num_bits": 8, "type": "float", "group_size": 128, "dynamic": true})),
        (
            "mxfp4_g32",
            json!({"num_bits": 4, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8", "dynamic": true}),
        ),
    ];
    for (precision, _, stored, conventions) in precisions() {
        let x: Vec<f32> = match stored {
            StorageDtype::Bf16 => x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect(),
            _ => x.clone(),
        };
        for (name, json) in &cases {
            let case = format!("act.{name}.{precision}");
            let grid = Grid::new(&args(json.clone()), stored, conventions).unwrap();
            let p = grid.parameters(matrix(&x, 32, 256)).unwrap();
            assert_eq!(p.scales, golden.get(&format!("{case}.scale")).values, "{case}: scales");
            let expected = golden.get(&format!("{case}.fake_quant")).values;
            let mut fake = x.clone();
            grid.fake_quantize_dynamic(&mut fake, 32, 256).unwrap();
            assert_eq!(fake[..expected.len()], expected, "{case}: dynamic");
            assert_eq!(faked(&grid, &x, 32, 256, &p), fake, "{case}: static with the same scales");
        }
    }
}

#[test]
fn a_token_alone_has_the_scale_of_its_own_tensor() {
    let golden = Fixture::bundled();
    let x = golden.get("x").values;
    let token = Grid::new(
        &args(json!({"num_bits": 8, "strategy": "token", "dynamic": true})),
        StorageDtype::F32,
        Conventions::default(),
    )
    .unwrap();
    let tensor = Grid::new(
        &args(json!({"num_bits": 8, "strategy": "tensor", "dynamic": true})),
        StorageDtype::F32,
        Conventions::default(),
    )
    .unwrap();
    let mut by_token = x.clone();
    token.fake_quantize_dynamic(&mut by_token, 32, 256).unwrap();
    for (row, token) in x.chunks(256).zip(by_token.chunks(256)) {
        let mut alone = row.to_vec();
        tensor.fake_quantize_dynamic(&mut alone, 1, 256).unwrap();
        assert_eq!(alone, token);
    }
}

#[test]
fn mx_rules_equal_those_of_torchao() {
    let golden = Fixture::bundled();
    let w = golden.get("W").values;
    let rules = [("floor", MxRule::Floor), ("ceil", MxRule::Ceil), ("rceil", MxRule::Rceil), ("even", MxRule::Even)];
    for (format, element) in [("mxfp4", "mxfp4"), ("mxfp8", "mxfp8_e4m3")] {
        for (name, mx_exponent) in rules {
            if (format, mx_exponent) == ("mxfp8", MxRule::Even) {
                // torchao rounds up from 1.9375 here, the middle of the last step of E4M3; compressed-tensors, whose rule
                // this is, from 1.75 for both element formats.
                continue;
            }
            let case = format!("torchao.{element}.{name}");
            let conventions = Conventions { mx_exponent, ..Conventions::default() };
            let grid = Grid::new(&args(float_args(format)), StorageDtype::F32, conventions).unwrap();
            let (codes, p) = grid.round_to_nearest(matrix(&w, 48, 256)).unwrap();
            let expected = golden.get(&format!("{case}.scale")).integers;
            let bytes: Vec<i32> = p.scales.iter().map(|scale| i32::from(e8m0::encode(*scale))).collect();
            assert_eq!(bytes[..expected.len()], expected, "{case}: exponents");
            let bytes = if format == "mxfp4" {
                pack::pack_fp4(&codes, 48, 256).unwrap()
            } else {
                codes.iter().map(|code| *code as u8).collect()
            };
            let expected = golden.get(&format!("{case}.codes")).integers;
            let found: Vec<i32> = bytes[..expected.len()].iter().map(|byte| i32::from(*byte)).collect();
            assert_eq!(found, expected, "{case}: codes");
        }
    }
}

#[test]
fn mx_exponents_of_single_magnitudes() {
    let vectors = vectors();
    let amax: Vec<f32> = serde_json::from_value(vectors["mx_code_CT"]["amax"].clone()).unwrap();
    let listed = |value: &Value| -> Vec<Option<f64>> { serde_json::from_value(value.clone()).unwrap() };
    let cases = [
        (MxRule::Even, listed(&vectors["mx_code_CT"]["code"])),
        (MxRule::Floor, listed(&vectors["mx_code_FLOOR"])),
        (MxRule::Rceil, listed(&vectors["mx_code_RCEIL"])),
    ];
    for (mx_exponent, expected) in cases {
        let conventions = Conventions { mx_exponent, ..Conventions::default() };
        let grid = Grid::new(&args(float_args("mxfp4")), StorageDtype::F32, conventions).unwrap();
        for (amax, expected) in amax.iter().zip(expected) {
            let p = grid.parameters_from_range(&[-amax / 3.0], &[*amax]).unwrap();
            let expected = expected.map_or(0, |code| code as u8);
            assert_eq!(e8m0::encode(p.scales[0]), expected, "{mx_exponent:?} of {amax}");
            assert_eq!(e8m0::decode(expected), p.scales[0]);
        }
    }
}

#[test]
fn casts_round_to_nearest_even_and_saturate() {
    let vectors = vectors();
    let floats = |value: &Value| -> Vec<f32> { serde_json::from_value(value.clone()).unwrap() };
    let cast = &vectors["fp8_cast"];
    let bits: Vec<String> = serde_json::from_value(cast["bits"].clone()).unwrap();
    for ((x, expected), bits) in floats(&cast["in"]).iter().zip(floats(&cast["out"])).zip(bits) {
        let value = f8e4m3::saturate(*x);
        assert_eq!(value, expected, "{x}");
        assert_eq!(format!("{:#x}", f8e4m3::encode(value)), bits, "{x}");
    }
    // A row whose largest magnitude is 6 has the scale 1 in plain FP4 groups.
    let cast = &vectors["fp4_cast"];
    let (x, expected) = (floats(&cast["in"]), floats(&cast["out"]));
    let grid = Grid::new(
        &args(json!({"num_bits": 4, "type": "float", "strategy": "channel"})),
        StorageDtype::F32,
        Conventions::default(),
    )
    .unwrap();
    let (codes, p) = grid.round_to_nearest(matrix(&x, 1, x.len())).unwrap();
    assert_eq!(p.scales, [1.0]);
    let values = dequantized(&grid, &codes, 1, x.len(), &p);
    assert_eq!(crate::fixtures::bits(&values), crate::fixtures::bits(&expected));
}

#[test]
fn every_bit_pattern_survives() {
    for code in 0..=255u8 {
        let value = f8e4m3::decode(code);
        if value.is_nan() {
            assert_eq!(code & 0x7f, 0x7f);
            continue;
        }
        assert_eq!(f8e4m3::encode(value), code);
        assert_eq!(f8e4m3::round(value).to_bits(), value.to_bits());
        // The format's own definition: (-1)^s 2^(e-7) (1 + m/8), and 2^-6 m/8 below.
        let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7) / 8.0);
        let magnitude =
            if exponent == 0 { mantissa * 2f64.powi(-6) } else { (1.0 + mantissa) * 2f64.powi(exponent - 7) };
        assert_eq!(f64::from(value.abs()), magnitude);
    }
    let magnitudes = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];
    for code in 0..16u8 {
        let value = e2m1::decode(code);
        assert_eq!(value.abs(), magnitudes[usize::from(code & 7)]);
        assert_eq!(value.is_sign_negative(), code >= 8);
        assert_eq!(e2m1::encode(value), code);
    }
    for code in 0..255u8 {
        assert_eq!(e8m0::encode(e8m0::decode(code)), code);
        assert_eq!(f64::from(e8m0::decode(code)), 2f64.powi(i32::from(code) - 127));
    }
}

#[test]
fn an_nvfp4_row_by_the_book() {
    let golden = &vectors()["nvfp4"];
    let floats = |key: &str| -> Vec<f32> { serde_json::from_value(golden[key].clone()).unwrap() };
    let (w, q, dq) = (floats("w"), floats("q"), floats("dq"));
    let grid = Grid::new(&args(float_args("nvfp4")), StorageDtype::F32, Conventions::default()).unwrap();
    let p = grid.parameters(matrix(&w, 1, 32)).unwrap();
    assert_eq!(p.global_scale, Some(golden["global_scale"][0].as_f64().unwrap() as f32));
    assert_eq!(p.scales, [352.0, 448.0]);
    let codes = grid.quantize(matrix(&w, 1, 32), &p).unwrap();
    let values: Vec<f32> = codes.iter().map(|code| e2m1::decode(*code as u8)).collect();
    assert_eq!(crate::fixtures::bits(&values), crate::fixtures::bits(&q));
    assert_eq!(faked(&grid, &w, 1, 32, &p), dq);
    // A shared, larger tensor-wide range gives smaller group scales.
    let shared = grid.parameters_with_global(matrix(&w, 1, 32), Some(grid.global_scale(10.0))).unwrap();
    // As torch divides: 2688 times the rounded reciprocal of 10.
    assert_eq!(shared.global_scale, Some(268.800_02));
    assert!(shared.scales.iter().zip(&p.scales).all(|(shared, own)| shared < own));
}

#[test]
fn local_activation_scales_follow_a_static_tensor_scale() {
    let mut json = float_args("nvfp4");
    json["dynamic"] = json!("local");
    let conventions = Conventions { compute: Compute::F32, ..Conventions::default() };
    let local = Grid::new(&args(json), StorageDtype::F32, conventions).unwrap();
    let weights = Grid::new(&args(float_args("nvfp4")), StorageDtype::F32, conventions).unwrap();
    let x = crate::fixtures::bell(4 * 64, 3);
    let p = local.parameters_from_range(&[-3.0], &[2.0]).unwrap();
    assert_eq!((p.global_scale, p.scales.len()), (Some(448.0 * 6.0 / 3.0), 0));
    let mut fake = x.clone();
    local.fake_quantize_local(&mut fake, 4, 64, 448.0 * 6.0 / 3.0).unwrap();
    let expected = weights.parameters_with_global(matrix(&x, 4, 64), Some(896.0)).unwrap();
    assert_eq!(fake, faked(&weights, &x, 4, 64, &expected));
    let error = local.fake_quantize_dynamic(&mut fake, 4, 64).unwrap_err();
    assert!(error.to_string().contains("static scale"), "{error}");
}
