//! What must hold for every grid: idempotence, error bounds, equal results at any number of threads, clear errors.

use serde_json::{Value, json};
use workbench_quant::observer::for_activations;
use workbench_quant::{
    Compute, Conventions, Grid, GridError, Matrix, Parameters, RangeConvention, StorageDtype, dividing_group_sizes,
};

use crate::fixtures::{args, bell, bits, dequantized, faked, grid, matrix};

/// One grid of each kind, for a matrix of 64 columns.
fn kinds() -> Vec<Value> {
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
fn grids() -> Vec<Grid> {
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
            let mut results: Vec<(Vec<i8>, Parameters, Vec<u32>)> = Vec::new();
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
fn gradients_pass_where_values_are_rounded_and_stop_where_they_are_clipped() {
    let p = |grid: &Grid| grid.parameters_from_range(&[-7.5], &[7.5]).unwrap();
    let cases: [(Value, &[f32], &[f32]); 4] = [
        // Scale 1, codes -8 to 7: the tie 7.5 rounds to 8 and is clipped, -8.5 rounds to -8.
        (
            json!({"num_bits": 4, "strategy": "tensor"}),
            &[0.0, 7.0, 7.49, 7.5, 7.51, 100.0, -8.0, -8.5, -8.51, -100.0],
            &[1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0],
        ),
        // Scale 1 again, zero-point 0 after rounding -0.5 to even: the same codes.
        (
            json!({"num_bits": 4, "symmetric": false, "strategy": "tensor"}),
            &[7.2, 9.0, -8.4, -9.0],
            &[1.0, 0.0, 1.0, 0.0],
        ),
        // Scale 1.25, so 7 on the scale of the codes is 8.75.
        (json!({"num_bits": 4, "type": "float", "strategy": "tensor"}), &[7.5, 8.7, 8.8, -9.0], &[1.0, 1.0, 0.0, 0.0]),
        (json!({"num_bits": 8, "type": "float", "strategy": "tensor"}), &[7.5, 7.7, 8.0, -8.0], &[1.0, 1.0, 0.0, 0.0]),
    ];
    for (json, x, mask) in cases {
        let grid = grid(json);
        let (mut grad_in, grad_out) = (vec![f32::NAN; x.len()], vec![1.0; x.len()]);
        grid.straight_through(x, 1, x.len(), &p(&grid), &grad_out, &mut grad_in).unwrap();
        assert_eq!(grad_in, mask, "{}", grid.args());
    }
}

#[test]
fn the_gradient_is_that_of_the_loss_on_average() {
    // Inside the range a step of exactly one grid width moves the rounded value by exactly that: the straight-through
    // slope of 1 is the average slope. Outside, the rounded value stands still.
    let grid = grid(json!({"num_bits": 4, "symmetric": false, "strategy": "tensor"}));
    let p = grid.parameters_from_range(&[-1.0], &[2.0]).unwrap();
    let step = p.scales[0];
    let x: Vec<f32> = (-40..60).map(|i| i as f32 * 0.05 + 0.013).collect();
    let moved: Vec<f32> = x.iter().map(|v| v + step).collect();
    let (here, there) = (faked(&grid, &x, 1, 100, &p), faked(&grid, &moved, 1, 100, &p));
    let ones = vec![1.0; 100];
    let (mut from, mut to) = (vec![0.0; 100], vec![0.0; 100]);
    grid.straight_through(&x, 1, 100, &p, &ones, &mut from).unwrap();
    grid.straight_through(&moved, 1, 100, &p, &ones, &mut to).unwrap();
    for i in 0..100 {
        if from[i] == to[i] {
            let slope = (there[i] - here[i]) / step;
            assert!((slope - from[i]).abs() < 1e-5, "{}: slope {slope}, gradient {}", x[i], from[i]);
        }
    }
    assert!(from.contains(&0.0) && from.contains(&1.0));
}

#[test]
fn values_that_are_not_finite_are_named() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for (rows, columns) in [(8, 64), (300, 512)] {
            for json in kinds() {
                let grid = grid(json);
                let mut x = bell(rows * columns, 7);
                x[5 * columns + 33] = bad;
                x[6 * columns + 2] = bad;
                let expected = |error: GridError| match error {
                    GridError::NonFinite { row: 5, column: 33, value } => value.to_bits() == bad.to_bits(),
                    _ => false,
                };
                assert!(expected(grid.parameters(matrix(&x, rows, columns)).unwrap_err()), "{}", grid.args());
                assert!(expected(grid.round_to_nearest(matrix(&x, rows, columns)).unwrap_err()), "{}", grid.args());
                assert!(expected(grid.fake_quantize_dynamic(&mut x, rows, columns).unwrap_err()), "{}", grid.args());
            }
        }
    }
}

#[test]
fn a_static_grid_passes_nan_on() {
    for grid in grids() {
        let x = bell(4 * 64, 8);
        let p = grid.parameters(matrix(&x, 4, 64)).unwrap();
        let mut with_nan = x;
        with_nan[70] = f32::NAN;
        let fake = faked(&grid, &with_nan, 4, 64, &p);
        assert!(fake[70].is_nan() && fake.iter().filter(|v| v.is_nan()).count() == 1, "{}", grid.args());
    }
}

#[test]
fn group_sizes_that_do_not_divide_are_answered_with_those_that_do() {
    let grid = grid(json!({"num_bits": 4, "group_size": 128}));
    let x = bell(2 * 576, 9);
    let error = grid.parameters(matrix(&x, 2, 576)).unwrap_err();
    assert_eq!(error.to_string(), "group_size 128 does not divide the 576 columns of the tensor");
    let hint = error.hint().unwrap();
    assert_eq!(hint, "group sizes that divide 576: 8, 16, 24, 32, 48, 64, 72, 96, 144, 192, 288, 576");
    assert_eq!(dividing_group_sizes(64), [8, 16, 32, 64]);
    assert_eq!(dividing_group_sizes(9), [3, 9]);
    assert!(dividing_group_sizes(0).is_empty());
    assert!(grid.parameters(matrix(&x[..64], 1, 64)).is_err(), "a row shorter than a group");
}

#[test]
fn empty_tensors_are_no_error() {
    for json in kinds() {
        let grid = grid(json);
        for (rows, columns) in [(0, 64), (3, 0), (0, 0)] {
            let (codes, p) = grid.round_to_nearest(matrix(&[], rows, columns)).unwrap();
            assert!(codes.is_empty(), "{}", grid.args());
            assert_eq!(p.scales.len(), p.shape[0] * p.shape[1]);
            assert_eq!(p.shape, grid.parameters_shape(rows, columns).unwrap());
            grid.fake_quantize(&mut [], rows, columns, &p).unwrap();
            grid.fake_quantize_dynamic(&mut [], rows, columns).unwrap();
            grid.dequantize(&[], rows, columns, &p, &mut []).unwrap();
        }
    }
}

#[test]
fn slices_and_parameters_that_do_not_fit_are_refused() {
    let grid = grid(json!({"num_bits": 4, "group_size": 32}));
    let x = bell(4 * 64, 10);
    let p = grid.parameters(matrix(&x, 4, 64)).unwrap();
    assert!(Matrix::new(&x, 5, 64).is_err());
    assert!(grid.fake_quantize(&mut x.clone(), 3, 64, &p).is_err(), "too many values");
    assert!(grid.quantize(matrix(&x, 8, 32), &p).is_err(), "parameters of another shape");
    assert!(grid.quantize(matrix(&x, 4, 64), &Parameters { zero_points: Some(vec![1; 8]), ..p.clone() }).is_err());
    assert!(grid.quantize(matrix(&x, 4, 64), &Parameters { scales: p.scales[1..].to_vec(), ..p.clone() }).is_err());
    // One row of scales serves every token.
    let shared = Parameters { scales: p.scales[..2].to_vec(), shape: [1, 2], ..p.clone() };
    let fake = faked(&grid, &x, 4, 64, &shared);
    assert_eq!(fake[..64], faked(&grid, &x, 4, 64, &p)[..64]);
    assert_eq!(fake[192..], faked(&grid, &x[192..], 1, 64, &shared)[..]);
    let asymmetric = crate::fixtures::grid(json!({"num_bits": 4, "symmetric": false, "group_size": 32}));
    assert!(asymmetric.quantize(matrix(&x, 4, 64), &p).is_err(), "zero-points are missing");
    for (min, max) in [(&[1.0][..], &[0.5][..]), (&[f32::NAN], &[0.5]), (&[], &[]), (&[-1.0], &[1.0, 2.0])] {
        assert!(grid.parameters_from_range(min, max).is_err());
    }
}

#[test]
fn observers_of_activations_gather_ranges() {
    let grid = grid(json!({"num_bits": 8, "strategy": "tensor"}));
    let batches = [[-1.0, 0.5, 2.0, 0.0], [-3.0, 1.0, 0.0, 0.5], [0.25, 0.5, 0.75, 1.0]];
    let range = |name: &str| {
        let mut observer = for_activations(&grid, name).unwrap();
        assert_eq!(observer.range(), None);
        for batch in &batches {
            observer.observe(matrix(batch, 2, 2)).unwrap();
        }
        observer.observe(matrix(&[], 0, 2)).unwrap();
        let (min, max) = observer.range().unwrap();
        (min[0], max[0])
    };
    assert_eq!(range("static_minmax"), (-3.0, 2.0));
    assert_eq!(range("memoryless_minmax"), (0.25, 1.0));
    let average =
        |start: f32, values: [f32; 2]| values.iter().fold(start, |mean, value| mean * 0.99f32 + value * 0.01f32);
    assert_eq!(range("minmax"), (average(-1.0, [-3.0, 0.25]), average(2.0, [1.0, 1.0])));
    let mse = range("mse");
    assert!(mse.0 <= -0.8 && mse.1 <= 2.0 && mse.1 > 1.5, "{mse:?}");

    let mut observer = for_activations(&grid, "static_minmax").unwrap();
    assert!(observer.observe(matrix(&[0.0, f32::NAN], 1, 2)).is_err());
    let grouped = crate::fixtures::grid(json!({"num_bits": 8, "group_size": 2}));
    let mut observer = for_activations(&grouped, "static_minmax").unwrap();
    observer.observe(matrix(&[1.0, -2.0, 3.0, 0.0, 5.0, 1.0, -1.0, 0.5], 2, 4)).unwrap();
    assert_eq!(observer.range(), Some((vec![-2.0, -1.0], vec![5.0, 3.0])));
    let p = grouped.parameters_from_range(&[-2.0, -1.0], &[5.0, 3.0]).unwrap();
    assert_eq!((p.scales, p.shape), (vec![5.0 / 127.5, 3.0 / 127.5], [1, 2]));
    assert!(observer.observe(matrix(&[1.0, 2.0], 1, 2)).is_err(), "another number of features");
}

#[test]
fn a_grid_survives_json() {
    for grid in grids() {
        let text = serde_json::to_string(&grid).unwrap();
        assert_eq!(serde_json::from_str::<Grid>(&text).unwrap(), grid, "{text}");
    }
    let twisted =
        r#"{"args": {"num_bits": 9}, "conventions": {}, "scale_dtype": "torch.float32", "zp_dtype": "torch.int8"}"#;
    let error = serde_json::from_str::<Grid>(twisted).unwrap_err().to_string();
    assert!(error.contains("no integer grid has 9 bits"), "{error}");
    // What cannot matter does not tell grids apart.
    let floats = args(json!({"num_bits": 8, "type": "float", "strategy": "channel"}));
    let odd = Conventions { range: RangeConvention::Restricted, ..Conventions::default() };
    let plain = Grid::new(&floats, StorageDtype::F32, Conventions::default()).unwrap();
    assert_eq!(Grid::new(&floats, StorageDtype::F32, odd).unwrap(), plain);
}
