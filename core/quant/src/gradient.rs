//! Gradients through rounding, beside the [straight-through](Grid::straight_through) one: what scales add to it.
//!
//! Rounding has no useful derivative, and what takes its place decides what is learned. Let s be the step of a rectangle that
//! shares a scale, q = s round(x / s) the rounded value of x, and ε = (q - x) / s its rounding error in steps.
//!
//! - Straight through, q moves as x does: s ε is a constant.
//! - Where s is taken from the range of the values, and ε is the constant, q moves with s besides: ∂q/∂x = 1 + ε ∂s/∂x, and only
//!   the extremes of a rectangle move s ([`Grid::range_terms`]).
//! - Where s is learned itself, ∂q/∂s = ε for a value that is rounded, and the number that its code stands for where it is clipped
//!   ([`Grid::scale_gradient`]; Esser et al. 2020, Learned Step Size Quantization, equation 3).
//! - Where a zero-point z is learned, q = s (clamp(round(x / s + z)) - z): what z adds to a code that is not clipped it takes away
//!   again, and ∂q/∂z = 0; a clipped code stands still, and ∂q/∂z = -s ([`Grid::zero_point_gradient`]).
//! - Where codes stay and their scales are learned, a weight is linear in its scale: ∂q/∂s = q / s
//!   ([`Grid::scale_gradient_of_codes`]; Chen et al. 2024, EfficientQAT, section 3.3).

use rayon::prelude::*;

use crate::args::ScaleDtype;
use crate::conventions::RangeConvention;
use crate::error::GridError;
use crate::grid::{Grid, QuantParams};
use crate::matrix::check_len;

/// A value's place in its tensor, and what its gradient gets on top of what passes straight through.
pub type RangeTerm = (usize, f32);

impl Grid {
    /// Why scales of this grid are not learned as numbers of their own, if they are not.
    pub fn why_scales_are_not_learned(&self) -> Option<&'static str> {
        match self.scale_dtype() {
            _ if self.args().is_mx() => Some("the scales of MX formats are powers of two, which are not learned"),
            ScaleDtype::F8E4M3 => Some("scales in FP8 lie further apart than the steps in which they would be learned"),
            _ if self.conventions().range == RangeConvention::SignedExtreme => {
                Some("scales whose sign is that of an extreme are not learned")
            }
            _ => None,
        }
    }

    /// What the extremes of each rectangle get on top of the straight-through gradient where scales are taken from the smallest
    /// and largest value: given `x` `[rows, columns]`, the rounded values and the gradient by these. Zero always lies in a range,
    /// so that a rectangle without negative values has no lower extreme.
    ///
    /// # Errors
    /// When slices do not fit the shape or the group size does not divide the columns.
    pub fn range_terms(
        &self,
        x: &[f32],
        rounded: &[f32],
        grad_out: &[f32],
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<RangeTerm>, GridError> {
        for (what, slice) in [("values", x), ("rounded values", rounded), ("gradient", grad_out)] {
            check_len(what, slice.len(), rows, columns)?;
        }
        let [height, width] = self.tile(rows, columns)?;
        let symmetric = self.args().symmetric;
        let bands: Vec<Vec<RangeTerm>> = (0..rows.div_ceil(height))
            .into_par_iter()
            .map(|band| {
                let mut terms = Vec::new();
                for left in (0..columns).step_by(width) {
                    let mut found = Extremes::default();
                    for row in band * height..((band + 1) * height).min(rows) {
                        let range = row * columns + left..row * columns + (left + width).min(columns);
                        found.see(range.start, &x[range.clone()], &rounded[range.clone()], &grad_out[range]);
                    }
                    found.terms(symmetric, &mut terms);
                }
                terms
            })
            .collect();
        Ok(bands.concat())
    }

    /// The gradient by each scale of `p`, in their order, of values `x` `[rows, columns]` that [`Grid::fake_quantize`] made
    /// `rounded`: the sum of ∂q/∂s times `grad_out` over the values that share it. `passed` is what [`Grid::straight_through`]
    /// gives for the same gradient: where it is zero, a value was clipped.
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape.
    pub fn scale_gradient(
        &self,
        x: &[f32],
        rounded: &[f32],
        p: &QuantParams,
        grad_out: &[f32],
        passed: &[f32],
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<f32>, GridError> {
        for (what, slice) in [("values", x), ("rounded values", rounded), ("gradient", grad_out), ("gradient", passed)]
        {
            check_len(what, slice.len(), rows, columns)?;
        }
        // A group scale over a tensor-wide one moves the step that values are divided by in proportion.
        self.sums(p, [rows, columns], |i, _| {
            let base = if passed[i] == 0.0 { 0.0 } else { x[i] };
            f64::from(grad_out[i]) * (f64::from(rounded[i]) - f64::from(base))
        })
        .map(|sums| sums.iter().zip(&p.scales).map(|(sum, scale)| (sum / f64::from(*scale)) as f32).collect())
    }

    /// The gradient by each zero-point of `p`, in their order, as [`scale_gradient`](Self::scale_gradient): the sum of ∂q/∂z times
    /// `grad_out`, to which values that were not clipped add nothing. In codes: a zero-point is one.
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape, or the grid has no zero-points.
    pub fn zero_point_gradient(
        &self,
        p: &QuantParams,
        grad_out: &[f32],
        passed: &[f32],
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<f32>, GridError> {
        for slice in [grad_out, passed] {
            check_len("gradient", slice.len(), rows, columns)?;
        }
        if p.zero_points.is_none() {
            return Err(GridError::Shape("a symmetric grid has no zero-points to learn".into()));
        }
        let clipped =
            |i: usize, scale: f32| if passed[i] == 0.0 { -f64::from(scale) * f64::from(grad_out[i]) } else { 0.0 };
        self.sums(p, [rows, columns], clipped).map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
    }

    /// For each scale of `p` the sum of a term over the values that share it, given a value's place and that scale.
    fn sums(
        &self,
        p: &QuantParams,
        [rows, columns]: [usize; 2],
        term: impl Fn(usize, f32) -> f64 + Sync,
    ) -> Result<Vec<f64>, GridError> {
        let layout = self.layout(rows, columns)?;
        p.check(self, &layout)?;
        if p.shape != layout.shape() {
            return Err(GridError::Shape("one row of scales for all rows has no gradient of its own".into()));
        }
        let ([height, width], across) = ([layout.height, layout.width], p.shape[1]);
        let mut all = vec![0f64; p.scales.len()];
        all.par_chunks_mut(across).enumerate().for_each(|(band, sums)| {
            for (tile, sum) in sums.iter_mut().enumerate() {
                let (left, scale) = (tile * width, p.scales[band * across + tile]);
                for row in band * height..((band + 1) * height).min(rows) {
                    for i in row * columns + left..row * columns + (left + width).min(columns) {
                        *sum += term(i, scale);
                    }
                }
            }
        });
        Ok(all)
    }

    /// The gradient by each scale of `p`, in their order, of the values `[rows, columns]` that codes stand for: the sum of `grad_out`
    /// times what a code is at scale 1, its zero-point taken off, over the codes that share the scale.
    ///
    /// # Errors
    /// When slices or parameters do not fit the shape.
    pub fn scale_gradient_of_codes(
        &self,
        codes: &[i8],
        p: &QuantParams,
        grad_out: &[f32],
        [rows, columns]: [usize; 2],
    ) -> Result<Vec<f32>, GridError> {
        check_len("gradient", grad_out.len(), rows, columns)?;
        let at_one = QuantParams { scales: vec![1.0; p.scales.len()], ..p.clone() };
        let mut steps = vec![0.0; rows * columns];
        self.dequantize(codes, rows, columns, &at_one, &mut steps)?;
        let term = |i: usize, _| f64::from(grad_out[i]) * f64::from(steps[i]);
        self.sums(p, [rows, columns], term).map(|sums| sums.into_iter().map(|sum| sum as f32).collect())
    }
}

/// What a rectangle's scale hangs on.
#[derive(Default)]
struct Extremes {
    low: (f32, Option<usize>),
    high: (f32, Option<usize>),
    /// The gradient along the errors, Σ g (q - x).
    along: f64,
}

impl Extremes {
    fn see(&mut self, start: usize, x: &[f32], rounded: &[f32], gradient: &[f32]) {
        for (i, ((x, rounded), gradient)) in x.iter().zip(rounded).zip(gradient).enumerate() {
            if *x < self.low.0 {
                self.low = (*x, Some(start + i));
            }
            if *x > self.high.0 {
                self.high = (*x, Some(start + i));
            }
            self.along += f64::from(*gradient) * f64::from(rounded - x);
        }
    }

    fn terms(&self, symmetric: bool, terms: &mut Vec<RangeTerm>) {
        // The step is proportional to the range, so that the errors change by their share of its change.
        if symmetric {
            let (extreme, at) = if -self.low.0 > self.high.0 { self.low } else { self.high };
            terms.extend(at.map(|at| (at, (self.along / f64::from(extreme)) as f32)));
            return;
        }
        let share = (self.along / f64::from(self.high.0 - self.low.0)) as f32;
        terms.extend(self.high.1.map(|at| (at, share)));
        terms.extend(self.low.1.map(|at| (at, -share)));
    }
}
