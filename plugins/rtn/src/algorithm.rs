//! Round-to-nearest: each weight to the nearest point of its grid, without looking at data.

use rayon::prelude::*;
use workbench_quant::{Grid, GridError, Matrix, QuantizedWeight};

/// A weight `[out_features, in_features]` and what its rounding cost.
pub(crate) struct Rounded {
    pub(crate) weight: QuantizedWeight,
    /// `|W - Ŵ|² / |W|²` in the Frobenius norm; 0 for a weight of zeros.
    pub(crate) relative_error: f64,
}

/// Rounds a weight `W` to its grid.
///
/// For every rectangle of the weight that shares a scale (a row, or a group of neighbours in it):
///
/// ```text
/// 1. s = range(W) / number of steps          the range as the grid's observer finds it, s rounded to its stored dtype
///    z = zero-point that maps 0 to a code     asymmetric grids only
/// 2. Q = clamp(round(W / s) + z)              ties to even
/// 3. Ŵ = s (Q - z)
/// ```
///
/// Equation 1 of Jacob et al. 2018, arXiv:1712.05877, whose scheme this is; the baseline of every later method.
///
/// # Errors
/// A value is not finite, or the grid's group size does not divide the columns.
pub(crate) fn round_to_nearest(weight: Matrix<'_>, grid: &Grid) -> Result<Rounded, GridError> {
    // 1. and 2. Scales, zero-points and codes.
    let made = QuantizedWeight::round_to_nearest(weight, grid)?;
    // 3. What the codes stand for, some rows at a time: that of a vocabulary would take as much memory again as its weight.
    let (rows, columns) = (weight.rows(), weight.columns());
    let height = rows_together(grid.tile(rows, columns)?[0], rows, columns);
    let mut restored = vec![0.0; height.min(rows) * columns];
    let (mut lost, mut energy) = (0.0, 0.0);
    for first in (0..rows).step_by(height) {
        let count = height.min(rows - first);
        let restored = &mut restored[..count * columns];
        made.dequantize_rows_into(first, count, restored)?;
        for (l, e) in squares(&weight.values()[first * columns..][..restored.len()], restored) {
            (lost, energy) = (lost + l, energy + e);
        }
    }
    let relative_error = if energy > 0.0 { lost / energy } else { 0.0 };
    Ok(Rounded { weight: made, relative_error })
}

/// Values of a task. Their sums are added up in order: threads must not change the result.
const PIECE: usize = 1 << 16;

/// Rows that are looked at together: whole tasks, and whole rectangles that share a scale, so that cutting a weight into such
/// rows changes no sum.
fn rows_together(tile: usize, rows: usize, columns: usize) -> usize {
    let whole_tasks = PIECE >> columns.max(1).trailing_zeros().min(PIECE.trailing_zeros());
    // All rows that share one scale can be cut anywhere.
    let together = if tile < rows { tile } else { 1 };
    // Enough to share among threads.
    (whole_tasks * together).max((1 << 20) / columns.max(1)).next_multiple_of(whole_tasks * together)
}

/// `|a - b|²` and `|a|²` of each task.
fn squares(a: &[f32], b: &[f32]) -> Vec<(f64, f64)> {
    /// Partial sums, so that one addition need not wait for the one before.
    const LANES: usize = 8;
    let sums = |(a, b): (&[f32], &[f32])| {
        let (mut lost, mut energy) = ([0.0; LANES], [0.0; LANES]);
        for (a, b) in a.chunks(LANES).zip(b.chunks(LANES)) {
            for (((a, b), lost), energy) in a.iter().zip(b).zip(&mut lost).zip(&mut energy) {
                let (a, b) = (f64::from(*a), f64::from(*b));
                *lost += (a - b) * (a - b);
                *energy += a * a;
            }
        }
        (lost.iter().sum::<f64>(), energy.iter().sum::<f64>())
    };
    a.par_chunks(PIECE).zip(b.par_chunks(PIECE)).map(sums).collect()
}

#[cfg(test)]
mod tests {
    use workbench_quant::{Conventions, QuantizationArgs, StorageDtype, Strategy};

    use super::*;

    fn grid(num_bits: u8, symmetric: bool, group_size: Option<usize>) -> Grid {
        let strategy = if group_size.is_some() { Strategy::Group } else { Strategy::Channel };
        let args = QuantizationArgs { num_bits, symmetric, group_size, strategy, ..Default::default() };
        Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
    }

    fn weight(count: usize) -> Vec<f32> {
        // Deterministic, without structure, with one outlier.
        let mut state = 0x9e37_79b9_u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let mut weight: Vec<f32> = (0..count).map(|_| next()).collect();
        weight[3] *= 6.0;
        weight
    }

    #[test]
    fn no_value_is_further_than_half_a_step_from_its_code() {
        let weight = weight(8 * 64);
        for (bits, symmetric, group) in [(4, true, None), (4, false, Some(16)), (8, true, Some(32)), (2, false, None)] {
            let grid = grid(bits, symmetric, group);
            let found = round_to_nearest(Matrix::new(&weight, 8, 64).unwrap(), &grid).unwrap();
            let [_, groups] = found.weight.parameters.shape;
            let mut restored = vec![0.0; weight.len()];
            grid.dequantize(&found.weight.codes, 8, 64, &found.weight.parameters, &mut restored).unwrap();
            for (index, (value, restored)) in weight.iter().zip(&restored).enumerate() {
                let scale = found.weight.parameters.scales[index / 64 * groups + index % 64 * groups / 64];
                // A symmetric grid has one code less above zero than below it, hence the largest value may lose more;
                // an asymmetric one moves its ends by up to half a step when zero becomes a code.
                let bound = if symmetric { 0.5 } else { 1.0 };
                assert!(
                    (value - restored).abs() <= bound * scale * 1.0001,
                    "{bits} {symmetric} {group:?}: {value} {restored}"
                );
            }
        }
    }

    #[test]
    fn the_error_falls_with_bits_and_with_smaller_groups() {
        let weight = weight(16 * 128);
        let error = |bits, group| {
            let matrix = Matrix::new(&weight, 16, 128).unwrap();
            round_to_nearest(matrix, &grid(bits, true, group)).unwrap().relative_error
        };
        let by_bits: Vec<f64> = [2, 3, 4, 6, 8].iter().map(|&bits| error(bits, None)).collect();
        assert!(by_bits.is_sorted_by(|a, b| a > b), "{by_bits:?}");
        assert!(error(4, Some(16)) < error(4, Some(64)) && error(4, Some(64)) < error(4, None));
    }

    #[test]
    fn what_is_on_the_grid_stays_there() {
        let weight = weight(4 * 32);
        let grid = grid(4, true, Some(16));
        let once = round_to_nearest(Matrix::new(&weight, 4, 32).unwrap(), &grid).unwrap();
        let mut restored = vec![0.0; weight.len()];
        grid.dequantize(&once.weight.codes, 4, 32, &once.weight.parameters, &mut restored).unwrap();
        // With the scales of the first time, since the largest value that is left may ask for a smaller one.
        let again = grid.quantize(Matrix::new(&restored, 4, 32).unwrap(), &once.weight.parameters).unwrap();
        assert_eq!(once.weight.codes, again);
    }

    #[test]
    fn the_error_is_that_of_the_whole_however_many_rows_there_are() {
        for (rows, columns, group) in [(3000, 96, Some(32)), (5, 64, None), (700, 1000, None)] {
            let (weight, grid) = (weight(rows * columns), grid(3, false, group));
            let found = round_to_nearest(Matrix::new(&weight, rows, columns).unwrap(), &grid).unwrap();
            let mut restored = vec![0.0; weight.len()];
            grid.dequantize(&found.weight.codes, rows, columns, &found.weight.parameters, &mut restored).unwrap();
            let (lost, energy) =
                squares(&weight, &restored).into_iter().fold((0.0, 0.0), |a, b| (a.0 + b.0, a.1 + b.1));
            assert_eq!(found.relative_error, lost / energy, "{rows} x {columns}");
        }
    }

    #[test]
    fn a_weight_of_zeros_costs_nothing() {
        let found = round_to_nearest(Matrix::new(&[0.0; 8], 2, 4).unwrap(), &grid(4, true, None)).unwrap();
        assert_eq!((found.weight.codes, found.relative_error), (vec![0; 8], 0.0));
    }

    #[test]
    fn values_that_are_not_finite_are_refused() {
        let error = round_to_nearest(Matrix::new(&[1.0, f32::NAN], 1, 2).unwrap(), &grid(4, true, None));
        assert!(matches!(error, Err(GridError::NonFinite { column: 1, .. })));
    }
}
