//! Which scales, zero-points and codes can be, and how a scale is rounded to what it is stored in.

use serde_json::json;
use workbench_quant::{Conventions, Grid, QuantParams, RangeConvention, ScaleDtype, StorageDtype, float};

use crate::fixtures::{args, bell, grid, matrix};
use crate::properties::{grids, kinds};

fn with_scales(scales: &[f32]) -> QuantParams {
    QuantParams { scales: scales.to_vec(), shape: [1, scales.len()], ..QuantParams::default() }
}

fn refused(grid: &Grid, p: &QuantParams) -> String {
    grid.check_parameters(p).unwrap_err().to_string()
}

/// Of values of any size, of zeros, and of the tiniest numbers there are.
#[test]
fn what_a_grid_makes_itself_passes() {
    for grid in grids() {
        for factor in [1.0, 0.0, 1e-42, 1e30] {
            let x: Vec<f32> = bell(8 * 64, 3).iter().map(|v| v * factor).collect();
            let (codes, p) = grid.round_to_nearest(matrix(&x, 8, 64)).unwrap();
            let found = grid.check_parameters(&p).and_then(|()| grid.check_codes(&codes));
            let found = found.and_then(|()| grid.check_rounding(&p.scales));
            assert_eq!(found, Ok(()), "{} {:?} times {factor}", grid.args(), grid.conventions());
        }
    }
}

#[test]
fn scales_are_positive_numbers() {
    for json in kinds() {
        let grid = grid(json);
        for bad in [0.0, -0.0, -0.5, f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let found = refused(&grid, &with_scales(&[1.0, bad, 1.0]));
            assert_eq!(found, format!("scale 1 is {bad}, not a positive number"), "{}", grid.args());
            let p = QuantParams { global_scale: Some(bad), ..with_scales(&[1.0]) };
            assert_eq!(refused(&grid, &p), format!("the global scale is {bad}, not a positive number"));
        }
        // 448 / 1e-38 is beyond f32.
        let p = QuantParams { global_scale: Some(1e-38), ..with_scales(&[448.0]) };
        assert!(refused(&grid, &p).ends_with("no number"), "{}", refused(&grid, &p));
    }
    let signed = Conventions { range: RangeConvention::SignedExtreme, ..Conventions::default() };
    let signed = Grid::new(&args(json!({ "num_bits": 4, "group_size": 32 })), StorageDtype::F32, signed).unwrap();
    assert_eq!(signed.check_parameters(&with_scales(&[-0.5, 0.5])), Ok(()));
    assert_eq!(refused(&signed, &with_scales(&[0.0])), "scale 0 is 0, not a finite number other than 0");
}

#[test]
fn zero_points_are_codes() {
    for (bits, low, high) in [(2, -2, 1), (4, -8, 7), (8, -128, 127)] {
        let grid = grid(json!({ "num_bits": bits, "symmetric": false, "strategy": "channel" }));
        assert_eq!(grid.zero_point_range(), (low, high));
        assert_eq!(grid.check_zero_points(&[low, 0, high]), Ok(()));
        for bad in [low - 1, high + 1, i32::MAX] {
            let found = grid.check_zero_points(&[0, bad]).unwrap_err().to_string();
            assert_eq!(found, format!("zero-point 1 is {bad}, outside {low}..={high}"));
        }
    }
    let symmetric = grid(json!({ "num_bits": 4, "strategy": "channel" }));
    assert_eq!(symmetric.check_zero_points(&[0, 0]), Ok(()), "as some files store them");
    let found = symmetric.check_zero_points(&[0, 3]).unwrap_err().to_string();
    assert_eq!(found, "zero-point 1 is 3, but the grid is symmetric");
}

#[test]
fn codes_are_those_of_the_grid() {
    let all: Vec<i8> = (i8::MIN..=i8::MAX).collect();
    for (args, expected) in [
        (json!({ "num_bits": 8, "strategy": "channel" }), None),
        (json!({ "num_bits": 3, "strategy": "channel" }), Some("code 0 is -128, outside -4..=3")),
        (
            json!({ "num_bits": 4, "type": "float", "strategy": "channel" }),
            Some("code 0 is -128, not a code of four bits"),
        ),
        (
            json!({ "num_bits": 8, "type": "float", "strategy": "channel" }),
            Some("code 127 is -1, the bit pattern of NaN"),
        ),
    ] {
        let found = grid(args).check_codes(&all).err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    }
    // Behind the first piece that is looked at.
    let mut codes = vec![7; 10_000];
    codes[9_000] = 8;
    let four = grid(json!({ "num_bits": 4, "strategy": "channel" }));
    assert_eq!(four.check_codes(&codes).unwrap_err().to_string(), "code 9000 is 8, outside -8..=7");
}

#[test]
fn scales_are_rounded_as_they_are_stored() {
    let grids = [ScaleDtype::F32, ScaleDtype::Bf16, ScaleDtype::F16, ScaleDtype::F8E4M3].map(|dtype| {
        let mut args = args(json!({ "num_bits": 4, "group_size": 32 }));
        args.scale_dtype = Some(dtype);
        Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
    });
    let fp8: Vec<f32> = (0..=126).map(float::f8e4m3::decode).collect();
    for value in bell(500, 5).into_iter().map(f32::abs).chain([1e-6, 300.0, 459.0]) {
        let nearest = fp8.iter().copied().min_by(|a, b| (a - value).abs().total_cmp(&(b - value).abs())).unwrap();
        let expected = [value, half::bf16::from_f32(value).to_f32(), half::f16::from_f32(value).to_f32(), nearest];
        for (grid, expected) in grids.iter().zip(expected) {
            assert_eq!(grid.scale_dtype().round(value), expected, "{value} {:?}", grid.scale_dtype());
            if expected != value {
                let found = grid.check_rounding(&[1.0, value]).unwrap_err().to_string();
                assert!(
                    found.starts_with(&format!("scale 1 is {value}, which {} ", grid.scale_dtype().name())),
                    "{found}"
                );
            }
        }
    }
    // Nothing is divided by zero: the least steps of compressed-tensors.
    assert_eq!(grids.map(|grid| grid.round_scale(0.0)), [f32::EPSILON, 0.0078125, 0.0009765625, 0.125]);
    let power = |scale| ScaleDtype::E8M0.round(scale);
    assert_eq!([power(1.0), power(1.9), power(3e-39), power(0.0)], [1.0, 1.0, 2f32.powi(-127), 2f32.powi(-127)]);
    assert!(power(f32::NAN).is_nan() && power(f32::INFINITY).is_nan());
}
