//! What must hold for every grid: idempotence, error bounds, equal results at any number of threads, clear errors.

use serde_json::{Value, json};
use workbench_quant::{Compute, Conventions, Grid, QuantParams, RangeConvention, StorageDtype};

use crate::fixtures::{args, bell, bits, dequantized, faked, grid, matrix};

/// One grid of each kind, for a matrix of 64 columns.
pub(crate) fn kinds() -> Vec<Value> {
    let mut kinds: Vec<Value> = (2..=8).map(|bits| json!({"num_bits": bits, "group_size": 32})).collect();
    kinds.extend((2..=8).map(|bits| json!({"num_bits": bits, "symmetric": false, "strategy": "channel"})));
    kinds.extend([
        json!({"num_bits": 8, "strategy": "tensor"}),
        json!({"num_bits": 5, "symmetric": false, "strategy": "tensor"}),
        json!({"num_bits": 4, "strategy": "block", "block_structure": [3, 24]}),
        json!({"num_bits": 8, "type": "float", "strategy": "channel"}),
        json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [16, 16]}),
        json!({"num_bits": 4, "type": "float", "group_size": 16}),
        json!({"num_bits": 4, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8"}),
        json!({"num_bits": 8, "type": "float", "group_size": 32, "scale_dtype": "torch.uint8"}),
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}),
    ]);
    kinds
}

fn precisions() -> [(StorageDtype, Compute); 3] {
    [(StorageDtype::F32, Compute::F32), (StorageDtype::Bf16, Compute::F32), (StorageDtype::Bf16, Compute::Bf16)]
}

/// Whether quantizing twice is the same as once: bfloat16 is too coarse for integers of seven and eight bits.
fn is_exact(grid: &Grid) -> bool {
    let fine = grid.code_range().is_some() && grid.args().num_bits > 6;
    !(fine && grid.conventions().compute == Compute::Bf16)
}

/// Every kind of grid in every precision.
pub(crate) fn grids() -> Vec<Grid> {
    let all = kinds().into_iter().flat_map(|json| {
        precisions().map(|(stored, compute)| {
            Grid::new(&args(json.clone()), stored, Conventions { compute, ..Conventions::default() }).unwrap()
        })
    });
    all.collect()
}

#[test]
fn quantizing_twice_changes_nothing() {
    let x = bell(16 * 64, 1);
    for grid in grids().into_iter().filter(is_exact) {
        let p = grid.parameters(matrix(&x, 16, 64)).unwrap();
        let once = faked(&grid, &x, 16, 64, &p);
        assert_eq!(faked(&grid, &once, 16, 64, &p), once, "{} {:?}", grid.args(), grid.conventions());
    }
}

#[test]
fn the_code_of_a_fake_quantized_value_is_the_code() {
    let x = bell(16 * 64, 2);
    for grid in grids() {
        let (codes, p) = grid.round_to_nearest(matrix(&x, 16, 64)).unwrap();
        let fake = faked(&grid, &x, 16, 64, &p);
        assert_eq!(bits(&fake), bits(&dequantized(&grid, &codes, 16, 64, &p)), "{}", grid.args());
        let again = grid.quantize(matrix(&fake, 16, 64), &p).unwrap();
        if !is_exact(&grid) {
            let largest = again.iter().zip(&codes).map(|(again, code)| again.abs_diff(*code)).max();
            assert!(largest <= Some(1), "{}: codes move by {largest:?}", grid.args());
        } else if grid.code_range().is_some() {
            assert_eq!(again, codes, "{} {:?}", grid.args(), grid.conventions());
        } else {
            // Floats have two codes for zero: small negative values get the negative one, zeros of either sign the other.
            let negative_zero = if grid.args().num_bits == 4 { 8 } else { i8::MIN };
            let same =
                again.iter().zip(&codes).all(|(again, code)| again == code || (*again, *code) == (0, negative_zero));
            assert!(same, "{} {:?}", grid.args(), grid.conventions());
        }
    }
}

#[test]
fn inside_the_range_no_value_moves_by_more_than_half_a_step() {
    let x = bell(32 * 64, 3);
    for symmetric in [true, false] {
        for num_bits in 2..=8 {
            let grid = grid(json!({"num_bits": num_bits, "symmetric": symmetric, "group_size": 32}));
            let p = grid.parameters(matrix(&x, 32, 64)).unwrap();
            let fake = faked(&grid, &x, 32, 64, &p);
            for (index, (v, fake)) in x.iter().zip(&fake).enumerate() {
                let step = p.scales[index / 32];
                // Rounding of quotient and product, in units of the value.
                let slack = v.abs() * 4e-7;
                // A rounded zero-point shifts the range by up to half a step, past which values are clipped.
                let bound = if symmetric { 0.5 } else { 1.0 };
                assert!(
                    (v - fake).abs() <= bound * step + slack,
                    "int{num_bits} {symmetric}: {v} -> {fake}, step {step}"
                );
            }
        }
    }
}

#[test]
fn floats_keep_their_relative_precision() {
    let x = bell(32 * 64, 4);
    for (json, relative) in [
        (json!({"num_bits": 8, "type": "float", "strategy": "channel"}), 1.0 / 16.0),
        (json!({"num_bits": 4, "type": "float", "group_size": 16}), 1.0 / 4.0),
    ] {
        let grid = grid(json);
        let p = grid.parameters(matrix(&x, 32, 64)).unwrap();
        let fake = faked(&grid, &x, 32, 64, &p);
        let width = 64 / p.shape[1];
        for (index, (v, fake)) in x.iter().zip(&fake).enumerate() {
            // Half a step of the mantissa, or of the spacing of the subnormals.
            let spacing = p.scales[index / width] * if relative < 0.1 { 1.0 / 512.0 } else { 0.5 };
            assert!(
                (v - fake).abs() <= (v.abs() * relative).max(spacing / 2.0) * 1.000_001,
                "{}: {v} -> {fake}",
                grid.args()
            );
        }
    }
}

#[test]
fn results_are_the_same_at_any_number_of_threads() {
    // Large enough to be shared among threads, with an odd number of rows per task.
    let (rows, columns) = (259, 768);
    let x = bell(rows * columns, 5);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut results: Vec<(Vec<i8>, QuantParams, Vec<u32>)> = Vec::new();
            for mut json in kinds() {
                for observer in ["memoryless_minmax", "mse"] {
                    json["observer"] = json!(observer);
                    if json["strategy"] == "block" {
                        json["block_structure"] = json!([50, 100]);
                    }
                    let grid = grid(json.clone());
                    let (codes, p) = grid.round_to_nearest(matrix(&x, rows, columns)).unwrap();
                    let mut fake = x.clone();
                    grid.fake_quantize(&mut fake, rows, columns, &p).unwrap();
                    let mut grad = vec![0.0; x.len()];
                    grid.straight_through(&x, rows, columns, &p, &fake, &mut grad).unwrap();
                    grid.fake_quantize_dynamic(&mut fake, rows, columns).unwrap();
                    fake.append(&mut grad);
                    results.push((codes, p, bits(&fake)));
                }
            }
            results
        })
    };
    let alone = run(1);
    for threads in [2, 5] {
        for (index, (a, b)) in alone.iter().zip(run(threads)).enumerate() {
            assert!(*a == b, "grid {index} differs at {threads} threads");
        }
    }
}

#[test]
fn large_and_small_tensors_take_the_same_path_to_the_same_codes() {
    let (rows, columns) = (300, 512);
    let x = bell(rows * columns, 6);
    for json in kinds() {
        if !matches!(json["strategy"].as_str(), Some("channel") | None) {
            continue;
        }
        let grid = grid(json);
        let (codes, p) = grid.round_to_nearest(matrix(&x, rows, columns)).unwrap();
        for row in [0, 17, 299] {
            let values = &x[row * columns..(row + 1) * columns];
            let (alone, own) = grid.round_to_nearest(matrix(values, 1, columns)).unwrap();
            assert_eq!(alone, codes[row * columns..(row + 1) * columns], "{}", grid.args());
            let across = p.shape[1];
            assert_eq!(own.scales, p.scales[row * across..(row + 1) * across]);
        }
    }
}

#[test]
fn the_signed_extreme_reaches_the_lowest_code() {
    let conventions = Conventions { range: RangeConvention::SignedExtreme, ..Conventions::default() };
    let args = args(json!({"num_bits": 4, "strategy": "channel"}));
    let grid = Grid::new(&args, StorageDtype::F32, conventions).unwrap();
    let x = [0.8, -0.3, 0.1, 0.0, -0.8, 0.3, 0.1, 0.0];
    let (codes, p) = grid.round_to_nearest(matrix(&x, 2, 4)).unwrap();
    assert_eq!(p.scales, [-0.1, 0.1]);
    assert_eq!(codes, [-8, 3, -1, 0, -8, 3, 1, 0]);
    let values = dequantized(&grid, &codes, 2, 4, &p);
    assert!(values.iter().zip(x).all(|(value, x)| (value - x).abs() < 1e-7));
}

#[test]
fn rows_by_themselves_have_the_codes_of_the_whole() {
    let (rows, columns) = (24, 64);
    let x = bell(rows * columns, 31);
    for grid in grids() {
        let p = grid.parameters(matrix(&x, rows, columns)).unwrap();
        let whole = grid.quantize(matrix(&x, rows, columns), &p).unwrap();
        for count in [1, 8, rows] {
            for first in (0..rows).step_by(count) {
                let cut = grid.parameters_of_rows(&p, [rows, columns], first, count);
                let Ok(part) = cut else {
                    let block = grid.args().block_structure.unwrap();
                    assert!(first % block[0] != 0 || count % block[0] != 0, "{}: {first} + {count}", grid.args());
                    continue;
                };
                let piece = &x[first * columns..(first + count) * columns];
                let codes = grid.quantize(matrix(piece, count, columns), &part).unwrap();
                assert_eq!(codes, whole[first * columns..(first + count) * columns], "{}", grid.args());
            }
        }
        assert!(grid.parameters_of_rows(&p, [rows, columns], rows, 1).is_err());
        assert!(grid.parameters_of_rows(&p, [rows, columns], 0, 0).is_err());
        if grid.rows_are_independent() {
            let own = grid.parameters(matrix(&x[8 * columns..16 * columns], 8, columns)).unwrap();
            assert_eq!(own, grid.parameters_of_rows(&p, [rows, columns], 8, 8).unwrap(), "{}", grid.args());
        }
    }
    let mse = grid(json!({"num_bits": 4, "group_size": 32, "observer": "mse"}));
    let whole = grid(json!({"num_bits": 4, "strategy": "tensor"}));
    assert!(!mse.rows_are_independent() && !whole.rows_are_independent());
    assert!(grid(json!({"num_bits": 4, "group_size": 32})).rows_are_independent());
}
