//! AWQ's clip search: each group of weights gives up its largest values where that costs its output less than they cost the
//! others of the group in resolution. From the code of llm-awq (Lin et al. 2023, arXiv:2306.00978) and AutoAWQ.

use rayon::prelude::*;
use workbench_quant::{Grid, GridError, Matrix, QuantizedWeight};

/// Which bounds the search tries: the largest magnitude times `1 - i / n_grid`, for i from 0 to below `max_shrink * n_grid`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Steps {
    pub(crate) n_grid: usize,
    pub(crate) max_shrink: f64,
}

impl Steps {
    pub(crate) fn shares(self) -> Vec<f64> {
        let steps = ((self.max_shrink * self.n_grid as f64) as usize).max(1);
        (0..steps).map(|i| 1.0 - i as f64 / self.n_grid as f64).collect()
    }
}

/// `XᵀX` of a linear's input over its calibration tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inputs<'a> {
    /// `[columns, columns]` row by row.
    pub(crate) gram: &'a [f32],
    pub(crate) tokens: f64,
}

/// A weight and what the search gained.
#[derive(Debug)]
pub(crate) struct Clipped {
    pub(crate) weight: QuantizedWeight,
    /// Mean squared error of a group's output, summed over the groups of a row and averaged over rows, without clipping.
    pub(crate) loss_before: f64,
    /// The same with the bounds that were found.
    pub(crate) loss_after: f64,
    /// Groups whose bound is below their largest magnitude.
    pub(crate) clipped: usize,
    /// Groups in all.
    pub(crate) groups: usize,
    /// Input channels that no token excited.
    pub(crate) silent: Vec<usize>,
}

/// Rounds a weight `W` after clipping each group of `width` neighbours in a row:
///
/// ```text
/// 1. m_i = (1 - i / n_grid) max |W_g|                      candidate bounds of group g, widest first
/// 2. Δ_i = Q(clamp(W_g, -m_i, m_i)) - W_g                  the range of Q is that of the clamped values
/// 3. L_i = mean over tokens of (Δ_i · x_g)² = Δ_i (XᵀX)_gg Δ_iᵀ / tokens
/// 4. W_g is clamped to the bound with the smallest L, and rounded
/// ```
///
/// The references average over 512 sampled tokens; the Gram matrix's diagonal block gives the mean over all of them. Of equal
/// losses the wider bound wins, so a group is clipped only where that helps.
///
/// The weight of a channel that no token excited costs nothing in any of them, and is no reason to clip it: no bound lies below
/// such a weight. (The references would give away up to half of it, which the first text that excites the channel finds missing.)
///
/// # Errors
/// A value is not finite, or the grid's group size does not divide the columns.
pub(crate) fn clip_and_round(
    weight: Matrix<'_>,
    inputs: Inputs<'_>,
    grid: &Grid,
    steps: Steps,
) -> Result<Clipped, GridError> {
    let (rows, columns) = (weight.rows(), weight.columns());
    let [_, width] = grid.tile(rows, columns)?;
    let groups = rows * columns.div_ceil(width);
    let most: Vec<f32> =
        weight.values().chunks(width.max(1)).map(|g| g.iter().fold(0.0, |m: f32, w| m.max(w.abs()))).collect();

    let silent: Vec<usize> = (0..columns).filter(|channel| inputs.gram[channel * (columns + 1)] == 0.0).collect();
    let floors = floors(weight.values(), columns, width, &silent);

    // 1. to 3. All groups at a time, step by step.
    let mut bounds = most.clone();
    let mut best = vec![f64::INFINITY; groups];
    let mut loss_before = 0.0;
    for (step, share) in steps.shares().into_iter().enumerate() {
        let candidate = |(most, floor): (&f32, &f32)| ((f64::from(*most) * share) as f32).max(*floor);
        let candidates: Vec<f32> = most.iter().zip(&floors).map(candidate).collect();
        let mut change = clamped(weight.values(), &candidates, width);
        let parameters = grid.parameters(Matrix::new(&change, rows, columns)?)?;
        grid.fake_quantize(&mut change, rows, columns, &parameters)?;
        change.par_iter_mut().zip(weight.values()).for_each(|(q, w)| *q -= w);
        let losses = group_losses(&change, columns, width, inputs);
        if step == 0 {
            loss_before = losses.iter().sum();
        }
        for (group, loss) in losses.into_iter().enumerate() {
            if loss < best[group] {
                (best[group], bounds[group]) = (loss, candidates[group]);
            }
        }
    }

    // 4. Codes with the bounds found.
    let values = clamped(weight.values(), &bounds, width);
    let weight = QuantizedWeight::round_to_nearest(Matrix::new(&values, rows, columns)?, grid)?;
    let clipped = bounds.iter().zip(&most).filter(|(bound, most)| bound < most).count();
    let mean = |sum: f64| sum / rows.max(1) as f64;
    let loss_after = best.iter().sum();
    Ok(Clipped { weight, loss_before: mean(loss_before), loss_after: mean(loss_after), clipped, groups, silent })
}

/// Below which the bound of each group may not fall: its largest weight on a silent channel.
fn floors(values: &[f32], columns: usize, width: usize, silent: &[usize]) -> Vec<f32> {
    let across = columns / width.max(1);
    let mut floors = vec![0.0_f32; values.len() / width.max(1)];
    for (row, floors) in values.chunks_exact(columns.max(1)).zip(floors.chunks_exact_mut(across.max(1))) {
        for channel in silent {
            let floor = &mut floors[channel / width];
            *floor = floor.max(row[*channel].abs());
        }
    }
    floors
}

/// The values of each group of `width` between -bound and bound. What is not finite stays, so that rounding refuses it.
fn clamped(values: &[f32], bounds: &[f32], width: usize) -> Vec<f32> {
    let clamp = |(group, bound): (&[f32], &f32)| -> Vec<f32> {
        let clamp = |w: &f32| if w.is_finite() && bound.is_finite() { w.clamp(-bound, *bound) } else { *w };
        group.iter().map(clamp).collect()
    };
    values.chunks(width.max(1)).zip(bounds).flat_map(clamp).collect()
}

/// `Δ_g (XᵀX)_gg Δ_gᵀ / tokens` of every group of every row.
fn group_losses(change: &[f32], columns: usize, width: usize, inputs: Inputs<'_>) -> Vec<f64> {
    let of_row = |row: &[f32]| -> Vec<f64> {
        let groups = row.chunks(width.max(1)).enumerate();
        groups.map(|(group, change)| quadratic(inputs.gram, columns, group * width, change) / inputs.tokens).collect()
    };
    change.par_chunks(columns.max(1)).flat_map_iter(of_row).collect()
}

/// `d B dᵀ` with B the diagonal block of the Gram matrix that begins at `start`. It cannot be negative but by rounding.
fn quadratic(gram: &[f32], columns: usize, start: usize, d: &[f32]) -> f64 {
    let row = |i: usize| &gram[(start + i) * columns + start..][..d.len()];
    let sum: f64 = d.iter().enumerate().map(|(i, di)| f64::from(*di) * f64::from(dot(row(i), d))).sum();
    sum.max(0.0)
}

/// A dot product in lanes, which compilers turn into vectors without reordering any sum.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16;
    let mut sums = [0.0_f32; LANES];
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use workbench_quant::{Conventions, QuantizationArgs, StorageDtype, Strategy};

    use super::*;

    const STEPS: Steps = Steps { n_grid: 20, max_shrink: 0.5 };

    fn grid(num_bits: u8, symmetric: bool, group_size: Option<usize>) -> Grid {
        let strategy = if group_size.is_some() { Strategy::Group } else { Strategy::Channel };
        let args = QuantizationArgs { num_bits, symmetric, group_size, strategy, ..Default::default() };
        Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
    }

    /// Reproducible noise with a long tail.
    fn noise(seed: u32, count: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(12345);
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next() * next() * next() * 2.0).collect()
    }

    fn gram(x: &[f32], columns: usize) -> Vec<f32> {
        let mut gram = vec![0.0_f64; columns * columns];
        for row in x.chunks(columns) {
            for i in 0..columns {
                for j in 0..columns {
                    gram[i * columns + j] += f64::from(row[i]) * f64::from(row[j]);
                }
            }
        }
        gram.into_iter().map(|v| v as f32).collect()
    }

    /// The reference's loop over tokens, group by group, in f64; rounding by the same grid on one group alone.
    fn brute_force(weight: &[f32], x: &[f32], columns: usize, width: usize, grid: &Grid) -> (Vec<f32>, f64) {
        let tokens = x.len() / columns;
        let mut bounds = Vec::new();
        let mut total = 0.0;
        for row in weight.chunks(columns) {
            for (group, w) in row.chunks(width).enumerate() {
                let most = w.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
                let (mut best, mut bound) = (f64::INFINITY, most);
                for i in 0..10 {
                    let limit = (f64::from(most) * (1.0 - f64::from(i) / 20.0)) as f32;
                    let mut q: Vec<f32> = w.iter().map(|w| w.clamp(-limit, limit)).collect();
                    grid.fake_quantize_dynamic(&mut q, 1, width).unwrap();
                    let error = |x: &[f32]| -> f64 {
                        let at = &x[group * width..(group + 1) * width];
                        let part = |((x, q), w): ((&f32, &f32), &f32)| f64::from(*x) * (f64::from(*q) - f64::from(*w));
                        at.iter().zip(&q).zip(w).map(part).sum::<f64>().powi(2)
                    };
                    let loss = x.chunks(columns).map(error).sum::<f64>() / tokens as f64;
                    if loss < best {
                        (best, bound) = (loss, limit);
                    }
                }
                bounds.push(bound);
                total += best;
            }
        }
        (bounds, total / (weight.len() / columns) as f64)
    }

    #[test]
    fn the_search_over_the_gram_matrix_is_the_one_over_tokens() {
        let (rows, columns, tokens) = (12, 64, 90);
        let (weight, x) = (noise(1, rows * columns), noise(2, tokens * columns));
        let gram = gram(&x, columns);
        let inputs = Inputs { gram: &gram, tokens: tokens as f64 };
        for (bits, symmetric, group) in [(4, false, Some(16)), (3, true, Some(32)), (2, false, None), (4, true, None)] {
            let grid = grid(bits, symmetric, group);
            let width = group.unwrap_or(columns);
            let found = clip_and_round(Matrix::new(&weight, rows, columns).unwrap(), inputs, &grid, STEPS).unwrap();
            let (bounds, loss) = brute_force(&weight, &x, columns, width, &grid);
            let case = format!("{bits} {symmetric} {group:?}");
            assert!((found.loss_after - loss).abs() < 1e-5 * loss, "{case}: {} {loss}", found.loss_after);
            let values = clamped(&weight, &bounds, width);
            let (codes, parameters) = grid.round_to_nearest(Matrix::new(&values, rows, columns).unwrap()).unwrap();
            assert_eq!((found.weight.codes, found.weight.parameters), (codes, parameters), "{case}");
            assert!(found.clipped > 0 && found.loss_after < found.loss_before, "{case}: nothing was clipped");
        }
    }

    /// The step of the reference where it must clip: one huge value on a channel that is hardly excited.
    #[test]
    fn a_large_value_that_hardly_any_input_meets_is_clipped() {
        let weight = [0.3_f32, -0.2, 0.1, 8.0];
        let mut gram = vec![0.0_f32; 16];
        (0..3).for_each(|i| gram[i * 5] = 1.0);
        gram[15] = 1e-9;
        let inputs = Inputs { gram: &gram, tokens: 1.0 };
        let found = clip_and_round(Matrix::new(&weight, 1, 4).unwrap(), inputs, &grid(4, true, None), STEPS).unwrap();
        assert_eq!((found.clipped, found.groups), (1, 1));
        // Symmetric, 4 bits: the bound over 7.5. The search shrinks to .55 of the range at most.
        assert!(
            found.weight.parameters.scales[0] <= 8.0 / 7.5
                && found.weight.parameters.scales[0] >= 0.55 * 8.0 / 7.5 * 0.999_999
        );
    }

    /// Nothing is known about the last channel of each group but its weight, which stays within half a step of what it was.
    #[test]
    fn a_value_that_no_input_meets_is_not_clipped() {
        let weight = [0.3_f32, -0.2, 0.1, 8.0, 0.7, 0.2, -0.7, -0.5];
        let mut gram = vec![0.0_f32; 64];
        [0, 1, 2, 4, 5, 6].iter().for_each(|i| gram[i * 9] = 1.0);
        let inputs = Inputs { gram: &gram, tokens: 1.0 };
        for grid in [grid(8, true, Some(4)), grid(3, false, Some(4)), grid(4, true, None)] {
            let found = clip_and_round(Matrix::new(&weight, 1, 8).unwrap(), inputs, &grid, STEPS).unwrap();
            assert_eq!(found.silent, [3, 7]);
            let mut values = [0.0; 8];
            grid.dequantize(&found.weight.codes, 1, 8, &found.weight.parameters, &mut values).unwrap();
            let step =
                |channel: usize| found.weight.parameters.scales[channel * found.weight.parameters.scales.len() / 8];
            for channel in [3, 7] {
                // The positive end of a symmetric grid lies half a step below the largest magnitude.
                let moved = (values[channel] - weight[channel]).abs();
                assert!(moved <= 0.51 * step(channel), "{} {channel}: {moved} of {}", grid.args(), step(channel));
            }
        }
        // All of them silent: round-to-nearest.
        let none = Inputs { gram: &[0.0; 64], tokens: 1.0 };
        let grid = grid(4, true, Some(4));
        let found = clip_and_round(Matrix::new(&weight, 1, 8).unwrap(), none, &grid, STEPS).unwrap();
        let (codes, parameters) = grid.round_to_nearest(Matrix::new(&weight, 1, 8).unwrap()).unwrap();
        assert_eq!((found.weight.codes, found.weight.parameters, found.clipped), (codes, parameters, 0));
        assert_eq!((found.loss_before, found.loss_after, found.silent.len()), (0.0, 0.0, 8));
    }

    #[test]
    fn what_is_on_the_grid_already_is_left_alone() {
        let weight: Vec<f32> = (-8..8).map(|i| i as f32).collect();
        let gram = gram(&noise(3, 40 * 16), 16);
        let inputs = Inputs { gram: &gram, tokens: 40.0 };
        let found = clip_and_round(Matrix::new(&weight, 1, 16).unwrap(), inputs, &grid(4, false, None), STEPS).unwrap();
        assert_eq!((found.clipped, found.loss_before, found.loss_after), (0, 0.0, 0.0));
    }

    #[test]
    fn bad_input_is_refused() {
        let inputs = Inputs { gram: &[1.0; 36], tokens: 1.0 };
        let search = |weight: &[f32], group| {
            clip_and_round(Matrix::new(weight, 1, 6).unwrap(), inputs, &grid(4, true, group), STEPS)
        };
        assert!(matches!(search(&[1.0; 6], Some(4)), Err(GridError::GroupSize { group_size: 4, columns: 6 })));
        let mut weight = [1.0; 6];
        weight[4] = f32::NAN;
        assert!(matches!(search(&weight, None), Err(GridError::NonFinite { column: 4, .. })));
        weight[4] = f32::INFINITY;
        assert!(matches!(search(&weight, None), Err(GridError::NonFinite { column: 4, .. })));
    }

    #[test]
    fn bounds_are_those_of_the_reference() {
        assert_eq!(STEPS.shares().len(), 10);
        assert_eq!((STEPS.shares()[0], STEPS.shares()[9]), (1.0, 0.55));
        assert_eq!(Steps { n_grid: 20, max_shrink: 0.0 }.shares(), [1.0]);
    }
}
