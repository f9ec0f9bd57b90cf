//! Every tensor of the full reference files, where they are at hand: fake quantization, packed and unpacked checkpoints.

use workbench_quant::float::e8m0;
use workbench_quant::{Grid, QuantParams, pack};

use crate::fixtures::{Fixture, args, dequantized, faked, large_fixtures, matrix};
use crate::golden::{CASES, case_args, precisions};
use crate::golden_float::{FLOAT_CASES, float_args};

#[test]
fn integer_checkpoints_of_compressed_tensors() {
    let test = "integer_checkpoints_of_compressed_tensors";
    let Some(base) = large_fixtures(test, "base.safetensors") else { return };
    let base = Fixture::open(&base);
    for (precision, weight, stored, conventions) in precisions() {
        let Some(path) = large_fixtures(test, &format!("rtn_ct_{precision}.safetensors")) else { return };
        let golden = Fixture::open(&path);
        let w = base.get(weight).values;
        for (name, bits, symmetric, group) in CASES {
            let context = format!("{name} {precision}");
            let get = |suffix: &str| golden.get(&format!("{name}.{suffix}"));
            let grid = Grid::new(&case_args(bits, symmetric, group), stored, conventions).unwrap();
            let (codes, p) = grid.round_to_nearest(matrix(&w, 48, 256)).unwrap();
            assert_eq!(p.scales, get("weight_scale").values, "{context}");
            let points = p.zero_points.clone().unwrap_or_else(|| vec![0; p.scales.len()]);
            assert_eq!(points, get("weight_zero_point").integers, "{context}");
            assert_eq!(
                codes.iter().map(|code| i32::from(*code)).collect::<Vec<_>>(),
                get("q_int8").integers,
                "{context}"
            );
            assert_eq!(faked(&grid, &w, 48, 256, &p), get("fake_quant").values, "{context}");
            assert_eq!(dequantized(&grid, &codes, 48, 256, &p), get("decompressed").values, "{context}");
            let packed = get("compressed.weight_packed").integers;
            assert_eq!(pack::pack_rows(&codes, 48, 256, bits).unwrap(), packed, "{context}");
            assert_eq!(pack::unpack_rows(&packed, 48, 256, bits).unwrap(), codes, "{context}");
        }
    }
}

#[test]
fn float_checkpoints_of_compressed_tensors() {
    let test = "float_checkpoints_of_compressed_tensors";
    let Some(base) = large_fixtures(test, "base.safetensors") else { return };
    let base = Fixture::open(&base);
    for (precision, weight, stored, conventions) in precisions() {
        let Some(path) = large_fixtures(test, &format!("fp_ct_{precision}.safetensors")) else { return };
        let golden = Fixture::open(&path);
        let w = base.get(weight).values;
        for name in FLOAT_CASES {
            let context = format!("{name} {precision}");
            let get = |suffix: &str| golden.get(&format!("{name}.{suffix}"));
            let grid = Grid::new(&args(float_args(name)), stored, conventions).unwrap();
            let (codes, p) = grid.round_to_nearest(matrix(&w, 48, 256)).unwrap();
            assert_eq!(p.scales, get("weight_scale").values, "{context}");
            let fake = faked(&grid, &w, 48, 256, &p);
            assert_eq!(fake, get("fake_quant").values, "{context}");
            let stored_codes: Vec<i32> = if name.ends_with("fp4") {
                assert_eq!(get("compressed.weight_packed").shape, [48, 128]);
                pack::pack_fp4(&codes, 48, 256).unwrap().into_iter().map(i32::from).collect()
            } else {
                codes.iter().map(|code| i32::from(*code as u8)).collect()
            };
            let key = if name.ends_with("fp4") { "compressed.weight_packed" } else { "compressed.weight" };
            assert_eq!(stored_codes, get(key).integers, "{context}");
            if name.starts_with("mx") {
                let bytes: Vec<i32> = p.scales.iter().map(|scale| i32::from(e8m0::encode(*scale))).collect();
                assert_eq!(bytes, get("compressed.weight_scale").integers, "{context}");
            }
            // The package decompresses the FP4 and MX formats to bfloat16.
            let dense = get("decompressed").values;
            let ours = dequantized(&grid, &codes, 48, 256, &p);
            let rounded =
                ours.iter().map(|v| if name.starts_with("fp8") { *v } else { half::bf16::from_f32(*v).to_f32() });
            assert_eq!(rounded.collect::<Vec<_>>(), dense, "{context}");
        }
    }
}

#[test]
fn dynamic_activations_of_compressed_tensors() {
    let test = "dynamic_activations_of_compressed_tensors";
    let Some(path) = large_fixtures(test, "act_ct.safetensors") else { return };
    let golden = Fixture::open(&path);
    let x = golden.get("x").values;
    for (precision, _, stored, conventions) in precisions() {
        let x: Vec<f32> = match precision {
            "bf16" => x.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect(),
            _ => x.clone(),
        };
        for (name, json) in [
            ("int8_token", serde_json::json!({"num_bits": 8, "strategy": "tensor", "dynamic": true})),
            ("fp8_token", serde_json::json!({"num_bits": 8, "type": "float", "strategy": "tensor", "dynamic": true})),
            ("fp8_g128", serde_json::json!({"num_bits": 8, "type": "float", "group_size": 128, "dynamic": true})),
            ("mxfp4_g32", float_args("mxfp4")),
        ] {
            let grid = Grid::new(&args(json), stored, conventions).unwrap();
            let mut fake = x.clone();
            grid.fake_quantize_dynamic(&mut fake, 32, 256).unwrap();
            assert_eq!(fake, golden.get(&format!("{name}.{precision}.fake_quant")).values, "{name} {precision}");
        }
    }
}

#[test]
fn a_checkpoint_of_compressed_tensors_is_read() {
    let test = "a_checkpoint_of_compressed_tensors_is_read";
    let Some(path) = large_fixtures(test, "rtn_ct_f32.safetensors") else { return };
    let golden = Fixture::open(&path);
    for (name, bits, symmetric, group) in CASES {
        let get = |suffix: &str| golden.get(&format!("{name}.{suffix}"));
        let grid =
            Grid::new(&case_args(bits, symmetric, group), workbench_quant::StorageDtype::F32, Default::default())
                .unwrap();
        let shape = grid.parameters_shape(48, 256).unwrap();
        let zero_points = (!symmetric).then(|| {
            let packed = get("compressed.weight_zero_point").integers;
            pack::unpack_zero_points(&packed, 48, shape[1], bits).unwrap()
        });
        let scales = get("compressed.weight_scale").values;
        let p = QuantParams { scales, zero_points, global_scale: None, shape };
        let codes = pack::unpack_rows(&get("compressed.weight_packed").integers, 48, 256, bits).unwrap();
        assert_eq!(dequantized(&grid, &codes, 48, 256, &p), get("decompressed").values, "{name}");
    }
}
