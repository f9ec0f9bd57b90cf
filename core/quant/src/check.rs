//! What codes, scales and zero-points can be: asked of everything that comes from outside, before a number is made of it.
//!
//! ```text
//! value = (code - zero_point) · scale                    integers; no zero-point where the grid is symmetric
//! value = element(code) · scale                          FP8, FP4, MX
//! value = element(code) · scale / global_scale           NVFP4
//! ```
//!
//! A scale that is zero, negative, infinite or not a number is none of any range of values, and a zero-point outside of the
//! codes stands for no value of the grid: such numbers compute, and what they compute is nothing that anybody stored.

use crate::args::{NumberType, ScaleDtype};
use crate::conventions::RangeConvention;
use crate::error::GridError;
use crate::float::{e8m0, f8e4m3};
use crate::grid::{Grid, QuantParams};
use crate::scale;

/// Steps of a wide code that are looked at at once: enough for vector code, few enough to find the culprit soon.
const PIECE: usize = 1 << 12;

impl Grid {
    /// Checks scales, zero-points and the tensor-wide scale of a tensor on this grid: every scale is finite and positive (not
    /// zero, where the convention `signed_extreme` makes it negative), every zero-point a code of the grid, and 0 where the
    /// grid is symmetric.
    ///
    /// Shapes are not looked at, so that the scales of an input, of keys and of values are checked alike.
    ///
    /// # Errors
    /// [`GridError::Value`] with the first that cannot be, and its place in row-major order.
    pub fn check_parameters(&self, p: &QuantParams) -> Result<(), GridError> {
        self.check_scales(&p.scales, p.global_scale)?;
        self.check_zero_points(p.zero_points.as_deref().unwrap_or_default())
    }

    /// The part of [`Grid::check_parameters`] that is about scales.
    ///
    /// # Errors
    /// [`GridError::Value`] with the first scale that cannot be.
    pub fn check_scales(&self, scales: &[f32], global: Option<f32>) -> Result<(), GridError> {
        let is_positive = |scale: f32| scale.is_finite() && scale > 0.0;
        if let Some(global) = global.filter(|global| !is_positive(*global)) {
            return Err(GridError::Value(format!("the global scale is {global}, not a positive number")));
        }
        let signed = self.conventions().range == RangeConvention::SignedExtreme;
        let fits = |scale: f32| if signed { scale.is_finite() && scale != 0.0 } else { is_positive(scale) };
        if let Some(index) = scales.iter().position(|scale| !fits(*scale)) {
            let wanted = if signed { "a finite number other than 0" } else { "a positive number" };
            return Err(GridError::Value(format!("scale {index} is {}, not {wanted}", scales[index])));
        }
        // What divides the values.
        let whole = |scale: f32| global.map_or(scale, |global| scale / global);
        match scales.iter().position(|scale| !whole(*scale).is_finite() || whole(*scale) == 0.0) {
            Some(index) => {
                let (scale, global) = (scales[index], global.unwrap_or(1.0));
                Err(GridError::Value(format!("scale {index} is {scale}, and over the global scale {global} no number")))
            }
            None => Ok(()),
        }
    }

    /// The part of [`Grid::check_parameters`] that is about zero-points.
    ///
    /// # Errors
    /// [`GridError::Value`] with the first zero-point that cannot be.
    pub fn check_zero_points(&self, zero_points: &[i32]) -> Result<(), GridError> {
        let (low, high) = self.zero_point_range();
        match zero_points.iter().position(|point| !(low..=high).contains(point)) {
            Some(index) if low == high => Err(GridError::Value(format!(
                "zero-point {index} is {}, but the grid is symmetric",
                zero_points[index]
            ))),
            Some(index) => {
                let found = zero_points[index];
                Err(GridError::Value(format!("zero-point {index} is {found}, outside {low}..={high}")))
            }
            None => Ok(()),
        }
    }

    /// Smallest and largest zero-point: those of the codes, and 0 alone where the grid is symmetric.
    pub fn zero_point_range(&self) -> (i32, i32) {
        match self.code_range() {
            Some((low, high)) if !self.args().symmetric => (low.into(), high.into()),
            _ => (0, 0),
        }
    }

    /// The zero-point next to a number, ties to even: what a learned one is used as. Not a number becomes 0.
    pub fn round_zero_point(&self, value: f32) -> i32 {
        let (low, high) = self.zero_point_range();
        value.clamp(low as f32, high as f32).round_ties_even() as i32
    }

    /// Checks that codes are codes of this grid: integers within [`Grid::code_range`], FP8 bytes that are numbers, FP4 codes
    /// of four bits.
    ///
    /// # Errors
    /// [`GridError::Value`] with the first that is none, and its place in row-major order.
    pub fn check_codes(&self, codes: &[i8]) -> Result<(), GridError> {
        let args = self.args();
        let (what, first) = match (args.r#type, args.num_bits) {
            (NumberType::Int, 8) => return Ok(()),
            (NumberType::Int, _) => {
                let Some((low, high)) = self.code_range() else { return Ok(()) };
                (format!("outside {low}..={high}"), position(codes, |code| code < low || code > high))
            }
            (NumberType::Float, 4) => ("not a code of four bits".to_owned(), position(codes, |code| code & !15 != 0)),
            // Both signs of it.
            (NumberType::Float, _) => {
                ("the bit pattern of NaN".to_owned(), position(codes, |code| code & 0x7f == f8e4m3::NAN))
            }
        };
        first.map_or(Ok(()), |index| Err(GridError::Value(format!("code {index} is {}, {what}", codes[index]))))
    }

    /// Checks that scales are numbers of the dtype that they are stored in: others would be rounded when they are written,
    /// and the codes were not made for those.
    ///
    /// # Errors
    /// [`GridError::Value`] with the first that is none, and what it would become.
    pub fn check_rounding(&self, scales: &[f32]) -> Result<(), GridError> {
        let dtype = self.scale_dtype();
        match scales.iter().position(|scale| dtype.round(*scale) != *scale) {
            Some(index) => {
                let (scale, stored) = (scales[index], dtype.round(scales[index]));
                Err(GridError::Value(format!("scale {index} is {scale}, which {} holds as {stored}", dtype.name())))
            }
            None => Ok(()),
        }
    }

    /// A scale as it is stored: [`ScaleDtype::round`] to the grid's dtype, and the grid's least step in place of 0, which is what
    /// a group of zeros has (that of compressed-tensors).
    ///
    /// A method that chooses scales itself takes them through this before it makes codes with them, and hands out what came
    /// back. A scale that is no positive number stays none.
    pub fn round_scale(&self, scale: f32) -> f32 {
        match self.scale_dtype().round(scale) {
            0.0 => scale::smallest_step(self.scale_dtype()),
            rounded => rounded,
        }
    }
}

impl ScaleDtype {
    /// The number of this dtype that a scale becomes when it is stored: the nearest, ties to even, and the largest finite one
    /// beyond that in float16 and FP8. E8M0 holds powers of two alone, and takes the one at or below the scale; its least is
    /// 2^-127.
    pub fn round(self, scale: f32) -> f32 {
        match self {
            Self::E8M0 if scale <= 0.0 => e8m0::decode(0),
            Self::E8M0 => e8m0::decode(e8m0::encode(scale)),
            other => scale::store(other, scale),
        }
    }
}

fn position(codes: &[i8], is_bad: impl Fn(i8) -> bool) -> Option<usize> {
    let bad = |piece: &[i8]| piece.iter().fold(false, |bad, code| bad | is_bad(*code));
    let (piece, codes) = codes.chunks(PIECE).enumerate().find(|(_, piece)| bad(piece))?;
    codes.iter().position(|code| is_bad(*code)).map(|index| piece * PIECE + index)
}
