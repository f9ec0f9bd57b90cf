//! The straight-through gradient.

use serde_json::{Value, json};
use workbench_quant::Grid;

use crate::fixtures::{faked, grid};

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
