//! Input at the edge of what makes sense, and past it: clear errors, no panics.

use serde_json::json;
use workbench_quant::{
    Conventions, Grid, GridError, Matrix, QuantParams, RangeConvention, StorageDtype, dividing_group_sizes,
};

use crate::fixtures::{args, bell, faked, grid, matrix};
use crate::properties::{grids, kinds};

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
    assert!(grid.quantize(matrix(&x, 4, 64), &QuantParams { zero_points: Some(vec![1; 8]), ..p.clone() }).is_err());
    assert!(grid.quantize(matrix(&x, 4, 64), &QuantParams { scales: p.scales[1..].to_vec(), ..p.clone() }).is_err());
    // One row of scales serves every token.
    let shared = QuantParams { scales: p.scales[..2].to_vec(), shape: [1, 2], ..p.clone() };
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
