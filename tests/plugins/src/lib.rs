//! What the test plugins share: a quantizer that rounds nothing.
//!
//! Each row of a weight becomes its signs times one scale, and the scale is the one that changes the linear's output the
//! least. Simple enough to be solved on paper, and it wants the same things of a host that real methods want.

use workbench_api::sdk::{Error, QuantizedLinear};
use workbench_api::serde_json::{self, Value};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

/// The grid on which signs lie: 8-bit integers with a scale per row.
///
/// # Errors
/// The grid kernel refuses it.
pub fn sign_grid() -> Result<Value, Error> {
    let args = QuantizationArgs { strategy: Strategy::Channel, ..QuantizationArgs::default() };
    Ok(serde_json::to_value(Grid::new(&args, StorageDtype::F32, Conventions::default())?)?)
}

/// -1 or 1.
pub fn signs(weight: &[f32]) -> Vec<i8> {
    weight.iter().map(|&w| if w < 0.0 { -1 } else { 1 }).collect()
}

/// Signs of a weight `[rows, columns]` and, per row, the scale `a` that minimises `|Y w - a X s|²` over all tokens, where
/// the plugin's inputs are `X` and those that it should imitate are `Y`: `a = sᵀ C w / sᵀ H s` with `H = XᵀX` (`gram`) and
/// `C = XᵀY` (`cross`), both `[columns, columns]`.
///
/// # Errors
/// The shapes do not agree, or a row of inputs is zero throughout.
pub fn sign_quantize(
    weight: &[f32],
    [rows, columns]: [usize; 2],
    gram: &[f32],
    cross: &[f32],
    grid: Value,
) -> Result<QuantizedLinear, Error> {
    if weight.len() != rows * columns || gram.len() != columns * columns || cross.len() != columns * columns {
        return Err(Error::input(format!("a weight of {rows} x {columns} with statistics of {} values", gram.len())));
    }
    let codes = signs(weight);
    let product = |matrix: &[f32], left: &[f64], right: &[f64]| -> f64 {
        let row = |i: usize| -> f64 { (0..columns).map(|j| f64::from(matrix[i * columns + j]) * right[j]).sum() };
        (0..columns).map(|i| left[i] * row(i)).sum()
    };
    let mut scales = Vec::with_capacity(rows);
    for row in 0..rows {
        let at = row * columns..(row + 1) * columns;
        let s: Vec<f64> = codes[at.clone()].iter().map(|&code| f64::from(code)).collect();
        let w: Vec<f64> = weight[at].iter().map(|&w| f64::from(w)).collect();
        let energy = product(gram, &s, &s);
        if energy <= 0.0 {
            return Err(Error::numeric(format!("the inputs of row {row} are zero")));
        }
        // A scale is positive: where the opposite signs would serve better, the least one serves best.
        scales.push(((product(cross, &s, &w) / energy) as f32).max(f32::EPSILON));
    }
    Ok(QuantizedLinear { codes, shape: [rows, columns], scale_shape: [rows, 1], scales, grid, ..Default::default() })
}

/// Adds `XᵀY` of `[tokens, columns]` inputs to a `[columns, columns]` sum.
pub fn add_product(sum: &mut [f32], left: &[f32], right: &[f32], columns: usize) {
    for (x, y) in left.chunks_exact(columns).zip(right.chunks_exact(columns)) {
        for (i, xi) in x.iter().enumerate() {
            for (j, yj) in y.iter().enumerate() {
                sum[i * columns + j] += xi * yj;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_other_scale_changes_the_output_less() {
        let (weight, columns) = ([0.5f32, -2.0, 1.0, 3.0, 0.25, -0.125], 3);
        let inputs = [1.0f32, 2.0, -1.0, 0.5, -3.0, 2.0, 4.0, 0.0, 1.0, -1.0, 1.0, 5.0];
        let mut gram = vec![0.0; 9];
        add_product(&mut gram, &inputs, &inputs, columns);
        let found = sign_quantize(&weight, [2, 3], &gram, &gram, Value::Null).unwrap();
        for row in 0..2 {
            let loss = |scale: f32| -> f32 {
                let output = |x: &[f32]| -> f32 {
                    (0..3).map(|j| x[j] * (weight[row * 3 + j] - scale * f32::from(found.codes[row * 3 + j]))).sum()
                };
                inputs.chunks(3).map(|x| output(x).powi(2)).sum()
            };
            let best = loss(found.scales[row]);
            assert!(best < loss(found.scales[row] + 0.01) && best < loss(found.scales[row] - 0.01));
        }
    }
}
