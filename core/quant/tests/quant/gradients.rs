//! Gradients through rounding.

use serde_json::{Value, json};
use workbench_quant::{Grid, Matrix, QuantParams};

use crate::fixtures::{Fixture, bell, faked, grid, large_fixtures};

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

/// Values, their rounded ones and a gradient, for a grid.
struct Case {
    x: Vec<f32>,
    rounded: Vec<f32>,
    gradient: Vec<f32>,
}

fn case(grid: &Grid, rows: usize, columns: usize, p: &QuantParams) -> Case {
    let x = bell(rows * columns, 5);
    let rounded = faked(grid, &x, rows, columns, p);
    Case { x, rounded, gradient: bell(rows * columns, 6) }
}

/// Against the definition in f64, code by code, with scales that clip.
#[test]
fn gradients_by_scales_are_those_of_learned_step_sizes() {
    let (rows, columns) = (6, 64);
    for args in [
        json!({"num_bits": 3, "strategy": "group", "group_size": 16}),
        json!({"num_bits": 4, "symmetric": false, "strategy": "group", "group_size": 32}),
        json!({"num_bits": 4, "strategy": "channel"}),
        json!({"num_bits": 8, "strategy": "tensor"}),
        json!({"num_bits": 4, "strategy": "block", "block_structure": [4, 32]}),
        json!({"num_bits": 4, "type": "float", "strategy": "channel"}),
    ] {
        let grid = grid(args);
        let x = bell(rows * columns, 5);
        let mut p = grid.parameters(Matrix::new(&x, rows, columns).unwrap()).unwrap();
        p.scales.iter_mut().for_each(|scale| *scale *= 0.6);
        let Case { x, rounded, gradient } = case(&grid, rows, columns, &p);
        let mut passed = vec![0.0; x.len()];
        grid.straight_through(&x, rows, columns, &p, &gradient, &mut passed).unwrap();
        let found = grid.scale_gradient(&x, &rounded, &p, &gradient, &passed, [rows, columns]).unwrap();
        let [height, width] = grid.tile(rows, columns).unwrap();
        let mut expected = vec![0f64; p.scales.len()];
        let mut clipped = 0;
        for (i, value) in x.iter().enumerate() {
            let tile = i / columns / height * p.shape[1] + i % columns / width;
            let scale = f64::from(p.scales[tile]);
            // What one more step of the scale makes of the code, and how far the value is from it in steps.
            let point = f64::from(rounded[i]) / scale;
            let inside = passed[i] != 0.0 || gradient[i] == 0.0;
            clipped += usize::from(!inside);
            let slope = if inside { point - f64::from(*value) / scale } else { point };
            expected[tile] += f64::from(gradient[i]) * slope;
        }
        assert!(clipped > 10 && clipped < x.len() / 2, "{clipped} of {} values are clipped", x.len());
        for (found, expected) in found.iter().zip(&expected) {
            assert!(
                (f64::from(*found) - expected).abs() <= 2e-6 * (1.0 + expected.abs()),
                "{}: {found} for {expected}",
                grid.args()
            );
        }
    }
}

/// The quantizer of EfficientQAT, whose scales and zero-points are made so that values are clipped.
#[test]
fn gradients_by_scales_are_those_of_efficientqat() {
    let Some(path) =
        large_fixtures("gradients_by_scales_are_those_of_efficientqat", "efficientqat_quantizer.safetensors")
    else {
        return;
    };
    let (numbers, base) = (Fixture::open(&path), Fixture::open(&path.with_file_name("base.safetensors")));
    let x = base.get("W").values;
    let (rows, columns) = (48, 256);
    for (name, bits, group) in [("w2g64", 2, 64), ("w3g128", 3, 128), ("w4g128", 4, 128), ("w4g32", 4, 32)] {
        let get = |key: &str| numbers.get(&format!("{name}.{key}")).values;
        let grid = grid(json!({"num_bits": bits, "symmetric": false, "strategy": "group", "group_size": group}));
        let half = 1 << (bits - 1);
        // Theirs keeps zero-points among the codes.
        let zero_point = |point: &f32| (point.round_ties_even() as i32).clamp(0, 2 * half - 1) - half;
        let zero_points = get("zero_point").iter().map(zero_point).collect();
        let p = QuantParams {
            scales: get("scale"),
            zero_points: Some(zero_points),
            global_scale: None,
            shape: [rows, columns / group],
        };
        let (rounded, up, y) = (faked(&grid, &x, rows, columns, &p), get("up"), get("y"));
        let mut passed = vec![0.0; x.len()];
        grid.straight_through(&x, rows, columns, &p, &up, &mut passed).unwrap();
        // Theirs adds the zero-point behind the rounding: the same but at ties.
        let same = |i: usize| (rounded[i] - y[i]).abs() <= 1e-6 * y[i].abs().max(1e-3);
        let odd = (0..x.len()).filter(|i| !same(*i)).count();
        assert!(odd * 200 < x.len(), "{name}: {odd} values round otherwise");
        // Theirs stops gradients at the last codes of either end as well, clipped or not.
        let by_x = get("dW");
        let codes = grid.quantize(Matrix::new(&x, rows, columns).unwrap(), &p).unwrap();
        for i in (0..x.len()).filter(|i| same(*i)) {
            let last = i32::from(codes[i]) == -half || i32::from(codes[i]) == half - 1;
            let expected = if last { 0.0 } else { passed[i] };
            assert!((by_x[i] - expected).abs() <= 1e-6, "{name}, value {i}: {} for {expected}", by_x[i]);
        }
        // With the same values taken for clipped, the scales' gradients are theirs.
        let found = grid.scale_gradient(&x, &rounded, &p, &up, &by_x, [rows, columns]).unwrap();
        for (tile, (found, expected)) in found.iter().zip(get("dscale")).enumerate() {
            if (tile * group..(tile + 1) * group).all(same) {
                assert!(
                    (found - expected).abs() <= 2e-5 * (1.0 + expected.abs()),
                    "{name}, scale {tile}: {found} for {expected}"
                );
            }
        }
        // And so are those of the zero-points, but where theirs is clamped itself and passes nothing.
        let found = grid.zero_point_gradient(&p, &up, &by_x, [rows, columns]).unwrap();
        let (expected, points, mut compared) = (get("dzp"), get("zero_point"), 0);
        for (tile, (found, expected)) in found.iter().zip(expected).enumerate() {
            let within =
                points[tile].round_ties_even() >= 0.0 && points[tile].round_ties_even() <= (2 * half - 1) as f32;
            if within && (tile * group..(tile + 1) * group).all(same) {
                let close = (found - expected).abs() <= 2e-5 * (1.0 + expected.abs());
                assert!(close, "{name}, zero-point {tile}: {found} for {expected}");
                compared += usize::from(expected != 0.0);
            }
        }
        assert!(compared > 20, "{name}: {compared} gradients by zero-points");
    }
}

/// Against what a zero-point moved by one code makes of the values: nothing but of those that are clipped before and after.
#[test]
fn gradients_by_zero_points_are_those_of_clipped_values() {
    let (rows, columns) = (6, 64);
    let grid = grid(json!({"num_bits": 3, "symmetric": false, "strategy": "group", "group_size": 16}));
    let x = bell(rows * columns, 5);
    let mut p = grid.parameters(Matrix::new(&x, rows, columns).unwrap()).unwrap();
    p.scales.iter_mut().for_each(|scale| *scale *= 0.5);
    p.zero_points.iter_mut().flatten().for_each(|point| *point = (*point).clamp(-3, 2));
    let Case { x, rounded, gradient } = case(&grid, rows, columns, &p);
    let mut passed = vec![0.0; x.len()];
    grid.straight_through(&x, rows, columns, &p, &gradient, &mut passed).unwrap();
    let found = grid.zero_point_gradient(&p, &gradient, &passed, [rows, columns]).unwrap();
    let mut moved = p.clone();
    moved.zero_points.iter_mut().flatten().for_each(|point| *point += 1);
    let there = faked(&grid, &x, rows, columns, &moved);
    let mut stopped = vec![0.0; x.len()];
    grid.straight_through(&x, rows, columns, &moved, &gradient, &mut stopped).unwrap();
    let (mut expected, mut clipped) = (vec![0f64; p.scales.len()], 0);
    for i in 0..x.len() {
        let tile = i / columns * (columns / 16) + i % columns / 16;
        let scale = f64::from(p.scales[tile]);
        let slope = f64::from(there[i]) - f64::from(rounded[i]);
        match (passed[i] == 0.0, stopped[i] == 0.0) {
            (true, true) => {
                assert!((slope + scale).abs() < 1e-5 * scale.max(1.0), "{i}: {slope} for {}", -scale);
                clipped += 1;
            }
            (false, false) => assert!(slope.abs() < 1e-5 * scale.max(1.0), "{i}: {slope} for nothing"),
            // It comes to be clipped, or to be so no longer: between the two.
            _ => {}
        }
        if passed[i] == 0.0 {
            expected[tile] -= scale * f64::from(gradient[i]);
        }
    }
    assert!(clipped > 20, "{clipped} values are clipped");
    for (found, expected) in found.iter().zip(expected) {
        assert!((f64::from(*found) - expected).abs() <= 2e-6 * (1.0 + expected.abs()), "{found} for {expected}");
    }
    let symmetric = self::grid(json!({"num_bits": 3, "strategy": "group", "group_size": 16}));
    let p = symmetric.parameters(Matrix::new(&x, rows, columns).unwrap()).unwrap();
    assert!(symmetric.zero_point_gradient(&p, &gradient, &passed, [rows, columns]).is_err());
}

#[test]
fn zero_points_are_codes() {
    let grid = grid(json!({"num_bits": 3, "symmetric": false, "strategy": "channel"}));
    let found = [0.4, 0.5, 1.5, -0.6, 3.4, 9.0, -9.0, f32::NAN].map(|point| grid.round_zero_point(point));
    assert_eq!(found, [0, 0, 2, -1, 3, 3, -4, 0]);
}

/// The derivative of everything but the rounding: errors in steps of the grid stay, the step follows the range.
#[test]
fn terms_of_ranges_are_the_derivative_with_errors_in_steps_kept() {
    let (rows, columns, width) = (3, 24, 8);
    for symmetric in [true, false] {
        let grid = grid(json!({"num_bits": 4, "symmetric": symmetric, "strategy": "group", "group_size": width}));
        let p = grid.parameters(Matrix::new(&bell(rows * columns, 5), rows, columns).unwrap()).unwrap();
        let Case { x, rounded, gradient } = case(&grid, rows, columns, &p);
        let x: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
        let step = |tile: &[f64]| {
            let high = tile.iter().fold(0.0, |a: f64, b| a.max(*b));
            let low = tile.iter().fold(0.0, |a: f64, b| a.min(*b));
            if symmetric { high.max(-low) / 7.5 } else { (high - low) / 15.0 }
        };
        let errors: Vec<f64> = x
            .chunks(width)
            .zip(rounded.chunks(width))
            .flat_map(|(x, q)| {
                let step = step(x);
                x.iter().zip(q).map(move |(x, q)| (f64::from(*q) - x) / step).collect::<Vec<_>>()
            })
            .collect();
        let f = |x: &[f64]| -> f64 {
            let mut sum = 0.0;
            for (tile, values) in x.chunks(width).enumerate() {
                let step = step(values);
                for (i, value) in values.iter().enumerate() {
                    let at = tile * width + i;
                    sum += f64::from(gradient[at]) * (value + step * errors[at]);
                }
            }
            sum
        };
        let narrow: Vec<f32> = x.iter().map(|v| *v as f32).collect();
        let mut by_x: Vec<f64> = gradient.iter().map(|g| f64::from(*g)).collect();
        for (at, term) in grid.range_terms(&narrow, &rounded, &gradient, [rows, columns]).unwrap() {
            by_x[at] += f64::from(term);
        }
        for (at, by_x) in by_x.iter().enumerate() {
            let moved =
                |by: f64| f(&x.iter().enumerate().map(|(i, v)| if i == at { v + by } else { *v }).collect::<Vec<_>>());
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((slope - by_x).abs() < 1e-4, "{at}: slope {slope}, gradient {by_x}");
        }
    }
}

/// By the definition: the numbers at scale 1, one sum for each scale.
#[test]
fn the_gradient_by_scales_of_codes_is_that_of_their_numbers() {
    let (rows, columns) = (6, 16);
    let x = bell(rows * columns, 7);
    let gradient = bell(rows * columns, 8);
    for json in [
        json!({"num_bits": 2, "symmetric": false, "strategy": "group", "group_size": 4}),
        json!({"num_bits": 4, "strategy": "channel"}),
        json!({"num_bits": 8, "symmetric": false, "strategy": "tensor"}),
        json!({"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [4, 5]}),
        json!({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 8}),
    ] {
        let grid = grid(json);
        let matrix = Matrix::new(&x, rows, columns).unwrap();
        let (codes, p) = grid.round_to_nearest(matrix).unwrap();
        let found = grid.scale_gradient_of_codes(&codes, &p, &gradient, [rows, columns]).unwrap();
        let [height, width] = grid.tile(rows, columns).unwrap();
        let mut values = vec![0.0; rows * columns];
        grid.dequantize(&codes, rows, columns, &p, &mut values).unwrap();
        let mut expected = vec![0.0; p.scales.len()];
        for (i, (value, gradient)) in values.iter().zip(&gradient).enumerate() {
            let scale = i / columns / height * p.shape[1] + i % columns / width;
            expected[scale] += f64::from(*gradient) * f64::from(*value) / f64::from(p.scales[scale]);
        }
        let largest = expected.iter().fold(0.0_f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 0.0 && found.len() == expected.len(), "{}", grid.args());
        for (found, expected) in found.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6 * largest, "{}: {found} for {expected}", grid.args());
        }
        // Linear in the scales: a step along them changes the sum of gradient times number by the gradient times the step.
        let moved = QuantParams { scales: p.scales.iter().map(|scale| scale * 1.5).collect(), ..p.clone() };
        let mut other = vec![0.0; rows * columns];
        grid.dequantize(&codes, rows, columns, &moved, &mut other).unwrap();
        let along = |values: &[f32]| -> f64 {
            values.iter().zip(&gradient).map(|(value, g)| f64::from(*value) * f64::from(*g)).sum()
        };
        let step: f64 = found.iter().zip(&p.scales).map(|(g, scale)| f64::from(*g) * 0.5 * f64::from(*scale)).sum();
        let change = along(&other) - along(&values);
        assert!((change - step).abs() < 1e-4 * (1.0 + change.abs()), "{}: {change} for {step}", grid.args());
        assert!(grid.scale_gradient_of_codes(&codes, &p, &gradient[1..], [rows, columns]).is_err());
    }
}
