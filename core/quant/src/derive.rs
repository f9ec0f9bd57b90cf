//! Scales and zero-points from a tensor or from an observed range.

use rayon::prelude::*;

use crate::error::GridError;
use crate::grid::{Grid, QuantParams};
use crate::kernel::{self, Ranges};
use crate::matrix::{Layout, Matrix};
use crate::observer::{self, Method, mse, percentile};

/// Ranges of all rectangles of a tensor, in the order of its scales.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TensorRange {
    pub(crate) min: Vec<f32>,
    pub(crate) max: Vec<f32>,
    pub(crate) shape: [usize; 2],
}

impl Grid {
    /// Scales and zero-points of a weight by the observer that the arguments name: smallest and largest value by default,
    /// or the range with the least error (`mse`). x is [rows, columns].
    ///
    /// # Errors
    /// When a value is not finite, the group size does not divide the columns, or the observer is unknown.
    pub fn parameters(&self, x: Matrix<'_>) -> Result<QuantParams, GridError> {
        self.parameters_with_global(x, None)
    }

    /// As [`Grid::parameters`], with a tensor-wide scale that tensors share because a server fuses them (q, k and v;
    /// gate and up): see [`Grid::global_scale`] and [`Grid::with_global_scale`]. Ignored unless the strategy is
    /// `tensor_group`.
    ///
    /// # Errors
    /// As for [`Grid::parameters`].
    pub fn parameters_with_global(&self, x: Matrix<'_>, global: Option<f32>) -> Result<QuantParams, GridError> {
        let options = observer::Options::from_args(self.args())?;
        let layout = self.layout(x.rows(), x.columns())?;
        let range = match options.method {
            Method::MinMax => tensor_range(x, &layout, self.rule().needs_only_absmax())?,
            Method::Mse => mse::search(self, x, &layout, &options)?,
            Method::Percentile => percentile::range(x, &layout, &options)?,
        };
        self.parameters_of(&range, global)
    }

    /// Scales and zero-points from observed ranges, for static activations: one range per scale of a row (one in all for
    /// `tensor`, one per group for `group`). With `dynamic: "local"` only the tensor-wide scale is derived.
    ///
    /// # Errors
    /// When the ranges are not finite, crossed, or of different lengths.
    pub fn parameters_from_range(&self, min: &[f32], max: &[f32]) -> Result<QuantParams, GridError> {
        if min.len() != max.len() || min.is_empty() {
            return Err(GridError::Shape(format!("ranges with {} minima and {} maxima", min.len(), max.len())));
        }
        if let Some((column, (low, high))) = min
            .iter()
            .zip(max)
            .enumerate()
            .find(|(_, (low, high))| !(low.is_finite() && high.is_finite() && low <= high))
        {
            return Err(GridError::Shape(format!("range {column} from {low} to {high} is not a range")));
        }
        let range = TensorRange { min: min.to_vec(), max: max.to_vec(), shape: [1, min.len()] };
        let parameters = self.parameters_of(&range, None)?;
        if self.is_local() {
            return Ok(QuantParams { global_scale: parameters.global_scale, ..QuantParams::default() });
        }
        Ok(parameters)
    }

    /// The tensor-wide scale of `tensor_group` for a tensor, or several that share one, with this largest magnitude.
    pub fn global_scale(&self, absmax: f32) -> f32 {
        self.rule().global_scale(absmax)
    }

    pub(crate) fn parameters_of(&self, range: &TensorRange, global: Option<f32>) -> Result<QuantParams, GridError> {
        let rule = self.rule();
        let global_scale = self.is_two_level().then(|| {
            let absmax = range.min.iter().chain(&range.max).fold(0f32, |absmax, bound| absmax.max(bound.abs()));
            global.or(self.given_global_scale()).unwrap_or_else(|| rule.global_scale(absmax))
        });
        let (scales, zero_points) =
            range.min.iter().zip(&range.max).map(|(min, max)| rule.scale(*min, *max, global_scale)).unzip();
        let zero_points = (!self.args().symmetric).then_some(zero_points);
        Ok(QuantParams { scales, zero_points, global_scale, shape: range.shape })
    }
}

/// Smallest and largest value of every rectangle. With `only_absmax` they are -absmax and absmax.
pub(crate) fn tensor_range(x: Matrix<'_>, layout: &Layout, only_absmax: bool) -> Result<TensorRange, GridError> {
    let [down, across] = layout.shape();
    if layout.is_empty() {
        return Ok(TensorRange { min: vec![0.0; down * across], max: vec![0.0; down * across], shape: [down, across] });
    }
    let mut min = vec![0f32; x.rows() * across];
    let mut max = vec![0f32; x.rows() * across];
    let rows = layout.rows_per_task();
    let task = |index: usize, values: &[f32], min: &mut [f32], max: &mut [f32]| {
        let out = Ranges { min, max, width: layout.width };
        kernel::ranges(values, x.columns(), only_absmax, out).map(|offset| index * rows * x.columns() + offset)
    };
    let bad = if layout.is_large() {
        let tasks = x.values().par_chunks(rows * x.columns());
        let outputs = min.par_chunks_mut(rows * across).zip(max.par_chunks_mut(rows * across));
        tasks.zip(outputs).enumerate().filter_map(|(index, (values, (min, max)))| task(index, values, min, max)).min()
    } else {
        task(0, x.values(), &mut min, &mut max)
    };
    if let Some(offset) = bad {
        return Err(not_finite(x.values(), x.columns(), offset));
    }
    if layout.height > 1 {
        (min, max) = (merge(&min, layout, f32::min), merge(&max, layout, f32::max));
    }
    Ok(TensorRange { min, max, shape: [down, across] })
}

/// Combines the bounds of the rows of each rectangle.
fn merge(rows: &[f32], layout: &Layout, combine: fn(f32, f32) -> f32) -> Vec<f32> {
    let across = layout.shape()[1];
    let mut merged = Vec::with_capacity(rows.len().div_ceil(layout.height));
    for band in rows.chunks(layout.height * across) {
        let mut band = band.chunks(across);
        let mut bounds = band.next().unwrap_or_default().to_vec();
        for row in band {
            for (bound, value) in bounds.iter_mut().zip(row) {
                *bound = combine(*bound, *value);
            }
        }
        merged.append(&mut bounds);
    }
    merged
}

/// The error for the value at `offset`.
pub(crate) fn not_finite(values: &[f32], columns: usize, offset: usize) -> GridError {
    let value = values.get(offset).copied().unwrap_or(f32::NAN);
    GridError::NonFinite { row: offset / columns, column: offset % columns, value }
}
