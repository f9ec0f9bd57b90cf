//! Scales and zero-points from shares of the ranges of values: each end of a range is multiplied by a factor of its own, which can be
//! learned (Cheng et al. 2023, Optimize Weight Rounding via Signed Gradient Descent, arXiv:2309.05516, equation 3).

use rayon::prelude::*;

use crate::args::NumberType;
use crate::conventions::RangeConvention;
use crate::derive::{TensorRange, tensor_range};
use crate::error::GridError;
use crate::grid::{Grid, QuantParams};
use crate::matrix::{Matrix, check_len};

/// Smallest and largest value of every rectangle of a tensor that shares a scale, in the order of the scales. Zero lies in each.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightRanges {
    range: TensorRange,
}

/// The factors of the lower and the upper ends of ranges, in the order of the scales.
#[derive(Clone, Copy, Debug)]
pub struct RangeShares<'a> {
    /// Of the smallest values.
    pub low: &'a [f32],
    /// Of the largest values.
    pub high: &'a [f32],
}

impl WeightRanges {
    /// Rows and columns of the scales.
    pub fn shape(&self) -> [usize; 2] {
        self.range.shape
    }

    fn shared(&self, shares: RangeShares<'_>) -> Result<TensorRange, GridError> {
        let [low, high] = [(&self.range.min, shares.low), (&self.range.max, shares.high)].map(|(ends, shares)| {
            (ends.len() == shares.len()).then(|| ends.iter().zip(shares).map(|(end, share)| end * share).collect())
        });
        let (Some(min), Some(max)) = (low, high) else {
            let (low, high, all) = (shares.low.len(), shares.high.len(), self.range.min.len());
            return Err(GridError::Shape(format!("{low} and {high} shares of {all} ranges")));
        };
        Ok(TensorRange { min, max, shape: self.range.shape })
    }
}

impl Grid {
    /// The ranges of a weight, [rows, columns], whatever the observer.
    ///
    /// # Errors
    /// When a value is not finite or the group size does not divide the columns.
    pub fn ranges(&self, x: Matrix<'_>) -> Result<WeightRanges, GridError> {
        let layout = self.layout(x.rows(), x.columns())?;
        let mut range = tensor_range(x, &layout, false)?;
        range.min.iter_mut().for_each(|min| *min = min.min(0.0));
        range.max.iter_mut().for_each(|max| *max = max.max(0.0));
        Ok(WeightRanges { range })
    }

    /// Scales and zero-points of shares of ranges. With shares of 1 they are those of [`Grid::parameters`] with the smallest and
    /// largest value for an observer.
    ///
    /// # Errors
    /// When there are not as many shares as ranges.
    pub fn parameters_of_shares(
        &self,
        ranges: &WeightRanges,
        shares: RangeShares<'_>,
    ) -> Result<QuantParams, GridError> {
        self.parameters_of(&ranges.shared(shares)?, None)
    }

    /// The gradients by the shares of the lower and of the upper ends, given those by the scales ([`Grid::scale_gradient`]) and, on
    /// an asymmetric grid, by the zero-points ([`Grid::zero_point_gradient`]) of `p`, which these shares gave. The rounding of
    /// scales and zero-points is passed straight through. Where both ends of a symmetric range are as large, each has half.
    ///
    /// # Errors
    /// When slices do not fit, or the grid is none of integers with one scale for each rectangle.
    pub fn share_gradients(
        &self,
        ranges: &WeightRanges,
        shares: RangeShares<'_>,
        p: &QuantParams,
        by_scale: &[f32],
        by_zero_point: Option<&[f32]>,
    ) -> Result<[Vec<f32>; 2], GridError> {
        let used = ranges.shared(shares)?;
        let count = used.min.len();
        let points = by_zero_point.map_or(count, <[f32]>::len);
        if self.args().r#type != NumberType::Int || self.is_two_level() {
            return Err(GridError::Shape(format!("the ranges of {} are not learned", self.args())));
        }
        if [p.scales.len(), by_scale.len(), points] != [count; 3] || by_zero_point.is_some() == self.args().symmetric {
            return Err(GridError::Shape(format!("gradients do not fit {count} scales of {}", self.args())));
        }
        let slopes = |i: usize| -> [f64; 2] {
            let [min, max, low, high] =
                [ranges.range.min[i], ranges.range.max[i], used.min[i], used.max[i]].map(f64::from);
            // Nothing is left of the range, and the scale is the least there is.
            if low == high {
                return [0.0; 2];
            }
            let by_scale = f64::from(by_scale[i]);
            let slopes = self.scale_slopes([min, max], [low, high]);
            let Some(by_point) = by_zero_point.map(|points| f64::from(points[i])) else {
                return slopes.map(|slope| slope * by_scale);
            };
            // The zero-point is lowest - low / s.
            let scale = f64::from(p.scales[i]);
            let [by_low, by_high] = slopes.map(|slope| slope * (by_scale + by_point * low / (scale * scale)));
            [by_low - by_point * min / scale, by_high]
        };
        let (low, high) = (0..count).map(slopes).map(|[low, high]| (low as f32, high as f32)).unzip();
        Ok([low, high])
    }

    /// Adds so many steps to each value of `x`, [rows, columns]: a number in `steps` times the scale that the value shares. With steps
    /// of at most a half, the nearest code is one of the two beside the value.
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape, or there is a tensor-wide scale as well.
    pub fn add_steps(
        &self,
        x: &mut [f32],
        steps: &[f32],
        p: &QuantParams,
        [rows, columns]: [usize; 2],
    ) -> Result<(), GridError> {
        check_len("values", x.len(), rows, columns)?;
        check_len("steps", steps.len(), rows, columns)?;
        let layout = self.layout(rows, columns)?;
        p.check(self, &layout)?;
        if p.shape != layout.shape() || self.is_two_level() || layout.is_empty() {
            return Err(GridError::Shape(format!("steps of {} are not those of its scales", self.args())));
        }
        let across = p.shape[1];
        x.par_chunks_mut(columns).zip(steps.par_chunks(columns)).enumerate().for_each(|(row, (x, steps))| {
            let scales = &p.scales[row / layout.height * across..];
            let tiles = x.chunks_mut(layout.width).zip(steps.chunks(layout.width)).zip(scales);
            for ((x, steps), scale) in tiles {
                x.iter_mut().zip(steps).for_each(|(x, steps)| *x += steps * scale);
            }
        });
        Ok(())
    }

    /// How a scale grows with the shares of its range, whose ends are now `low` and `high`.
    fn scale_slopes(&self, [min, max]: [f64; 2], [low, high]: [f64; 2]) -> [f64; 2] {
        let (first, last) = self.rule().limits();
        let (first, last) = (f64::from(first), f64::from(last));
        if !self.args().symmetric {
            return [-min / (last - first), max / (last - first)];
        }
        let of_high = match high.total_cmp(&-low) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        match self.conventions().range {
            RangeConvention::Full => [-min * (1.0 - of_high), max * of_high].map(|end| end / ((last - first) / 2.0)),
            RangeConvention::Restricted => [-min * (1.0 - of_high), max * of_high].map(|end| end / last),
            // The sign is that of the extreme; of equal ones the lower is taken.
            RangeConvention::SignedExtreme if high > -low => [0.0, max / first],
            RangeConvention::SignedExtreme => [min / first, 0.0],
        }
    }
}
