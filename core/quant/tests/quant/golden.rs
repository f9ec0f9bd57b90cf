//! Integer grids against compressed-tensors, bit for bit, in f32 and in bfloat16.

use serde_json::json;
use workbench_quant::{Compute, Conventions, Grid, QuantizationArgs, StorageDtype, pack};

use crate::fixtures::{Fixture, args, dequantized, faked, grid, matrix};

/// All twelve cases: name, bits, symmetric, group size (0: one scale per row, -1: one in all).
pub(crate) const CASES: [(&str, u8, bool, i32); 12] = [
    ("w2_asym_g64", 2, false, 64),
    ("w2_sym_g64", 2, true, 64),
    ("w3_sym_g128", 3, true, 128),
    ("w4_asym_channel", 4, false, 0),
    ("w4_asym_g128", 4, false, 128),
    ("w4_asym_g32", 4, false, 32),
    ("w4_sym_channel", 4, true, 0),
    ("w4_sym_g128", 4, true, 128),
    ("w4_sym_g32", 4, true, 32),
    ("w8_sym_channel", 8, true, 0),
    ("w8_sym_g128", 8, true, 128),
    ("w8_sym_tensor", 8, true, -1),
];

pub(crate) fn case_args(bits: u8, symmetric: bool, group: i32) -> QuantizationArgs {
    match group {
        0 => args(json!({"num_bits": bits, "symmetric": symmetric, "strategy": "channel"})),
        -1 => args(json!({"num_bits": bits, "symmetric": symmetric, "strategy": "tensor"})),
        size => args(json!({"num_bits": bits, "symmetric": symmetric, "group_size": size})),
    }
}

/// The weight in both precisions, with the grid's stored dtype and conventions.
pub(crate) fn precisions() -> [(&'static str, &'static str, StorageDtype, Conventions); 2] {
    [
        ("f32", "W", StorageDtype::F32, Conventions::default()),
        ("bf16", "W_bf16", StorageDtype::Bf16, Conventions { compute: Compute::Bf16, ..Conventions::default() }),
    ]
}

#[test]
fn integer_scales_zero_points_and_codes_equal_those_of_compressed_tensors() {
    let golden = Fixture::bundled();
    for (precision, weight, stored, conventions) in precisions() {
        let w = golden.get(weight).values;
        for (name, bits, symmetric, group) in CASES {
            let case = format!("{name}.{precision}");
            let grid = Grid::new(&case_args(bits, symmetric, group), stored, conventions).unwrap();
            let p = grid.parameters(matrix(&w, 48, 256)).unwrap();
            let scale = golden.get(&format!("{case}.scale"));
            assert_eq!(p.scales[..scale.values.len()], scale.values, "{case}: scales");
            match &p.zero_points {
                Some(points) => {
                    let expected = golden.get(&format!("{case}.zero_point")).integers;
                    assert_eq!(points[..expected.len()], expected, "{case}: zero-points");
                }
                None => assert!(symmetric, "{case}: no zero-points"),
            }
            let codes = grid.quantize(matrix(&w, 48, 256), &p).unwrap();
            let expected = golden.get(&format!("{case}.codes")).integers;
            let found: Vec<i32> = codes[..expected.len()].iter().map(|code| i32::from(*code)).collect();
            assert_eq!(found, expected, "{case}: codes");
            assert_eq!(
                grid.round_to_nearest(matrix(&w, 48, 256)).unwrap(),
                (codes.clone(), p.clone()),
                "{case}: fused"
            );
            assert_eq!(faked(&grid, &w, 48, 256, &p), dequantized(&grid, &codes, 48, 256, &p), "{case}: fake");
        }
    }
}

#[test]
fn packed_codes_and_zero_points_equal_those_of_compressed_tensors() {
    let golden = Fixture::bundled();
    let w = golden.get("W").values;
    for (name, bits, symmetric, group) in CASES {
        let grid = Grid::new(&case_args(bits, symmetric, group), StorageDtype::F32, Conventions::default()).unwrap();
        let (codes, p) = grid.round_to_nearest(matrix(&w, 48, 256)).unwrap();
        if ["w2_asym_g64", "w3_sym_g128", "w4_sym_g32", "w8_sym_channel"].contains(&name) {
            let expected = golden.get(&format!("{name}.packed")).integers;
            assert_eq!(pack::pack_rows(&codes, 48, 256, bits).unwrap()[..expected.len()], expected, "{name}");
        }
        if let Some(points) = p.zero_points {
            let expected = golden.get(&format!("{name}.packed_zero_point"));
            let groups = p.shape[1];
            let packed = pack::pack_zero_points(&points, 48, groups, bits).unwrap();
            assert_eq!(expected.shape, [pack::words_per_row(48, bits), groups], "{name}");
            assert_eq!(packed, expected.integers, "{name}");
            assert_eq!(pack::unpack_zero_points(&packed, 48, groups, bits).unwrap(), points, "{name}");
        }
    }
}

#[test]
fn small_rows_by_hand() {
    let mixed = [-1.0, -0.75, -0.5, -0.25, 0.0, 0.3, 0.6, 0.9];
    let positive: Vec<f32> = (1..=8).map(|i| i as f32 * 0.05).collect();
    let cases = [
        (true, &mixed[..], 0.133_333_34, None, [-7, -6, -4, -2, 0, 2, 4, 7]),
        (false, &mixed[..], 0.126_666_67, Some(0), [-8, -6, -4, -2, 0, 2, 5, 7]),
        (true, &positive[..], 0.053_333_335, None, [1, 2, 3, 4, 5, 6, 7, 7]),
        (false, &positive[..], 0.026_666_667, Some(-8), [-6, -4, -2, 0, 1, 3, 5, 7]),
    ];
    for (symmetric, row, scale, zero_point, expected) in cases {
        let grid = grid(json!({"num_bits": 4, "symmetric": symmetric, "strategy": "channel"}));
        let (codes, p) = grid.round_to_nearest(matrix(row, 1, 8)).unwrap();
        assert_eq!((p.scales, p.zero_points), (vec![scale], zero_point.map(|point| vec![point])));
        assert_eq!(codes, expected);
    }
}

#[test]
fn a_bfloat16_row_differs_by_the_precision_of_the_arithmetic() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../golden/vectors.json")).unwrap();
    let row: Vec<f32> = serde_json::from_value(vectors["bf16_rtn"]["w"][0].clone()).unwrap();
    let args = args(json!({"num_bits": 4, "strategy": "channel"}));
    let cases = [
        ("q_bf16", StorageDtype::Bf16, Compute::Bf16),
        ("q_fp32w", StorageDtype::Bf16, Compute::F32),
        ("q_fp32all", StorageDtype::F32, Compute::F32),
    ];
    for (key, stored, compute) in cases {
        let grid = Grid::new(&args, stored, Conventions { compute, ..Conventions::default() }).unwrap();
        let (codes, p) = grid.round_to_nearest(matrix(&row, 1, row.len())).unwrap();
        let expected: Vec<i8> = serde_json::from_value(vectors["bf16_rtn"][key][0].clone()).unwrap();
        assert_eq!(codes, expected, "{key}");
        if stored == StorageDtype::Bf16 {
            assert_eq!(f64::from(p.scales[0]), vectors["bf16_rtn"]["scale"].as_f64().unwrap(), "{key}");
        }
    }
}
