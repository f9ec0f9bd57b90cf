//! Scales from shares of ranges, and their gradients.

use serde_json::json;
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, RangeConvention, RangeShares, StorageDtype};

use crate::fixtures::bell;

const ROWS: usize = 6;
const COLUMNS: usize = 64;

fn grids() -> Vec<Grid> {
    let mut all = Vec::new();
    for (range, symmetric) in [
        (RangeConvention::Full, false),
        (RangeConvention::Full, true),
        (RangeConvention::Restricted, true),
        (RangeConvention::SignedExtreme, true),
    ] {
        for args in [
            json!({"num_bits": 3, "symmetric": symmetric, "strategy": "group", "group_size": 16}),
            json!({"num_bits": 4, "symmetric": symmetric, "strategy": "channel"}),
            json!({"num_bits": 4, "symmetric": symmetric, "strategy": "tensor"}),
            json!({"num_bits": 2, "symmetric": symmetric, "strategy": "block", "block_structure": [4, 32]}),
        ] {
            let args: QuantizationArgs = serde_json::from_value(args).unwrap();
            let conventions = Conventions { range, ..Conventions::default() };
            all.push(Grid::new(&args, StorageDtype::F32, conventions).unwrap());
        }
    }
    all
}

#[test]
fn whole_ranges_give_the_scales_of_the_extremes() {
    let mut x = bell(ROWS * COLUMNS, 5);
    x[..COLUMNS].fill(0.0);
    x[COLUMNS..2 * COLUMNS].iter_mut().for_each(|v| *v = v.abs());
    let matrix = Matrix::new(&x, ROWS, COLUMNS).unwrap();
    for grid in grids() {
        let ranges = grid.ranges(matrix).unwrap();
        let ones = vec![1.0; ranges.shape().iter().product()];
        let shares = RangeShares { low: &ones, high: &ones };
        assert_eq!(grid.parameters_of_shares(&ranges, shares).unwrap(), grid.parameters(matrix).unwrap());
        let short = RangeShares { low: &ones[1..], high: &ones };
        assert!(grid.parameters_of_shares(&ranges, short).is_err());
    }
}

/// A surrogate in f64 in which only the rounding of codes and of zero-points is left out, by finite differences.
#[test]
fn gradients_by_shares_are_the_slopes_of_scales_and_zero_points() {
    let x = bell(ROWS * COLUMNS, 5);
    let matrix = Matrix::new(&x, ROWS, COLUMNS).unwrap();
    for grid in grids() {
        let ranges = grid.ranges(matrix).unwrap();
        let count: usize = ranges.shape().iter().product();
        let share = |i: usize, phase: f32| 0.7 + 0.2 * (i as f32 + phase).sin();
        let [low, high] = [0.0, 1.7].map(|phase| (0..count).map(|i| share(i, phase)).collect::<Vec<f32>>());
        let shares = RangeShares { low: &low, high: &high };
        let p = grid.parameters_of_shares(&ranges, shares).unwrap();
        let [by_scale, by_point] = [11, 12].map(|seed| bell(count, seed));
        let points = (!grid.args().symmetric).then_some(by_point.as_slice());
        let found = grid.share_gradients(&ranges, shares, &p, &by_scale, points).unwrap();
        let [height, width] = grid.tile(ROWS, COLUMNS).unwrap();
        let across = COLUMNS.div_ceil(width);
        for tile in 0..count {
            let (mut min, mut max) = (0f64, 0f64);
            for row in (tile / across * height)..((tile / across + 1) * height).min(ROWS) {
                for column in (tile % across * width)..((tile % across + 1) * width).min(COLUMNS) {
                    let value = f64::from(x[row * COLUMNS + column]);
                    (min, max) = (min.min(value), max.max(value));
                }
            }
            let half = f64::from(1u16 << (grid.args().num_bits - 1));
            let f = |low: f64, high: f64| {
                let (low, high) = (min * low, max * high);
                let scale = match (grid.args().symmetric, grid.conventions().range) {
                    (false, _) => (high - low) / (2.0 * half - 1.0),
                    (true, RangeConvention::Full) => high.max(-low) / (half - 0.5),
                    (true, RangeConvention::Restricted) => high.max(-low) / (half - 1.0),
                    (true, RangeConvention::SignedExtreme) => (if high > -low { high } else { low }) / -half,
                };
                let point = points.map_or(0.0, |points| f64::from(points[tile]) * (-half - low / scale));
                (f64::from(by_scale[tile]) * scale + point, scale)
            };
            let (a, b) = (f64::from(low[tile]), f64::from(high[tile]));
            assert!((f(a, b).1 / f64::from(p.scales[tile]) - 1.0).abs() < 1e-5, "{}: scale {tile}", grid.args());
            let slopes = [(f(a + 1e-6, b).0 - f(a - 1e-6, b).0) / 2e-6, (f(a, b + 1e-6).0 - f(a, b - 1e-6).0) / 2e-6];
            for (end, slope) in slopes.into_iter().enumerate() {
                let found = f64::from(found[end][tile]);
                assert!((found - slope).abs() < 1e-4 * (1.0 + slope.abs()), "{}: {found} for {slope}", grid.args());
            }
        }
    }
}

#[test]
fn a_step_is_a_scale() {
    let x = bell(ROWS * COLUMNS, 5);
    let steps = bell(ROWS * COLUMNS, 9);
    for grid in grids() {
        let p = grid.parameters(Matrix::new(&x, ROWS, COLUMNS).unwrap()).unwrap();
        let mut moved = x.clone();
        grid.add_steps(&mut moved, &steps, &p, [ROWS, COLUMNS]).unwrap();
        let [height, width] = grid.tile(ROWS, COLUMNS).unwrap();
        for i in 0..x.len() {
            let tile = i / COLUMNS / height * p.shape[1] + i % COLUMNS / width;
            assert_eq!(moved[i], x[i] + steps[i] * p.scales[tile], "{}: {i}", grid.args());
        }
        assert!(grid.add_steps(&mut moved[1..], &steps, &p, [ROWS, COLUMNS]).is_err());
    }
}
