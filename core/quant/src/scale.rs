//! From the range of a group to its scale and zero-point.

use half::f16;

use crate::args::{NumberType, QuantizationArgs, ScaleDtype};
use crate::conventions::{Compute, Conventions, MxRule, RangeConvention};
use crate::float::{e2m1, e8m0, f8e4m3, round_bf16};

/// The rule that turns a range into a scale, with everything looked up that does not depend on the range.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScaleRule {
    number: NumberType,
    bits: u8,
    pub(crate) symmetric: bool,
    mx: Option<MxRule>,
    range: RangeConvention,
    bf16: bool,
    scale_dtype: ScaleDtype,
}

impl ScaleRule {
    pub(crate) fn new(args: &QuantizationArgs, conventions: &Conventions, scale_dtype: ScaleDtype) -> Self {
        Self {
            number: args.r#type,
            bits: args.num_bits,
            symmetric: args.symmetric,
            mx: args.is_mx().then_some(conventions.mx_exponent),
            range: conventions.range,
            bf16: conventions.compute == Compute::Bf16,
            scale_dtype,
        }
    }

    /// The same rule with scales kept in the precision of the arithmetic, as a search for the best range wants it.
    pub(crate) fn with_unrounded_scales(self) -> Self {
        let scale_dtype = if self.bf16 { ScaleDtype::Bf16 } else { ScaleDtype::F32 };
        Self { scale_dtype, ..self }
    }

    /// Whether the largest magnitude alone decides, so that no signs have to be looked at.
    pub(crate) fn needs_only_absmax(&self) -> bool {
        self.symmetric && self.range != RangeConvention::SignedExtreme
    }

    /// Lowest and highest code of an integer grid, largest magnitude of a floating-point one.
    pub(crate) fn limits(&self) -> (f32, f32) {
        match (self.number, self.bits) {
            (NumberType::Int, bits) => {
                let half = f32::from(1u16 << (bits - 1));
                (-half, half - 1.0)
            }
            (NumberType::Float, 4) => (-e2m1::MAX, e2m1::MAX),
            (NumberType::Float, _) => (-f8e4m3::MAX, f8e4m3::MAX),
        }
    }

    /// Rounds a result to the precision of the arithmetic.
    pub(crate) fn round(&self, x: f32) -> f32 {
        if self.bf16 { round_bf16(x) } else { x }
    }

    /// Scale and zero-point of a group with the given range, which is first widened to include zero. `global` is the
    /// tensor-wide scale of NVFP4, by which group scales are multiplied before they are rounded.
    pub(crate) fn scale(&self, min: f32, max: f32, global: Option<f32>) -> (f32, i32) {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let scale = if self.symmetric { self.symmetric_scale(min, max) } else { self.asymmetric_scale(min, max) };
        let scale = global.map_or(scale, |global| global * scale);
        let scale = store(self.scale_dtype, scale);
        let zero_point = if self.symmetric { 0 } else { self.zero_point(min, scale) };
        (if scale == 0.0 { smallest_step(self.scale_dtype) } else { scale }, zero_point)
    }

    fn symmetric_scale(&self, min: f32, max: f32) -> f32 {
        let absmax = max.max(-min);
        if let Some(rule) = self.mx {
            return mx_scale(rule, absmax, self.bits);
        }
        let (low, high) = self.limits();
        match (self.number, self.range) {
            (NumberType::Float, _) => self.round(absmax / high),
            (NumberType::Int, RangeConvention::Full) => self.round(absmax / ((high - low) / 2.0)),
            (NumberType::Int, RangeConvention::Restricted) => self.round(absmax / high),
            (NumberType::Int, RangeConvention::SignedExtreme) => {
                let extreme = if max > -min { max } else { min };
                self.round(extreme / low)
            }
        }
    }

    fn asymmetric_scale(&self, min: f32, max: f32) -> f32 {
        let (low, high) = self.limits();
        let levels = high - low;
        let width = self.round(max - min);
        // Only ranges wider than the largest float take the second form.
        if width.is_finite() { self.round(width / levels) } else { self.round(max / levels - min / levels) }
    }

    /// low - min / scale, clamped, then rounded; 0 for a group of zeros.
    fn zero_point(&self, min: f32, scale: f32) -> i32 {
        let (low, high) = self.limits();
        let exact = self.round(low - self.round(min / scale));
        if exact.is_nan() { 0 } else { exact.clamp(low, high).round_ties_even() as i32 }
    }

    /// The tensor-wide scale of NVFP4: it maps the largest magnitude to the largest group scale times the largest code.
    /// Torch divides a number by a tensor as the product with its reciprocal, which rounds twice, and so does this.
    pub(crate) fn global_scale(&self, absmax: f32) -> f32 {
        let reciprocal = self.round(1.0 / absmax.max(f32::MIN_POSITIVE));
        let scale = self.round(f8e4m3::MAX * e2m1::MAX * reciprocal);
        if scale.is_finite() { scale } else { 1.0 }
    }
}

/// Rounds a scale to the dtype in which it is stored. Those of the MX formats are made as powers of two.
pub(crate) fn store(dtype: ScaleDtype, scale: f32) -> f32 {
    match dtype {
        ScaleDtype::F32 | ScaleDtype::E8M0 => scale,
        ScaleDtype::Bf16 => round_bf16(scale),
        ScaleDtype::F16 => f16::from_f32(scale.clamp(f16::MIN.to_f32(), f16::MAX.to_f32())).to_f32(),
        ScaleDtype::F8E4M3 => f8e4m3::saturate(scale),
    }
}

/// What stands in for a scale of zero, so that nothing is divided by it.
pub(crate) fn smallest_step(dtype: ScaleDtype) -> f32 {
    match dtype {
        ScaleDtype::F32 => f32::EPSILON,
        ScaleDtype::Bf16 => 0.0078125,
        ScaleDtype::F16 => f16::EPSILON.to_f32(),
        ScaleDtype::F8E4M3 => 0.125,
        ScaleDtype::E8M0 => e8m0::decode(0),
    }
}

/// The power-of-two scale of an MX group with largest magnitude `absmax`.
fn mx_scale(rule: MxRule, absmax: f32, bits: u8) -> f32 {
    let (max, emax) = if bits == 4 { (e2m1::MAX, 2) } else { (f8e4m3::MAX, 8) };
    let bits = match rule {
        MxRule::Rceil => (absmax / max).to_bits(),
        _ => absmax.to_bits(),
    };
    let exponent = (bits >> 23) as i32;
    let rounds_up = (bits & 0x007f_ffff) != 0;
    let biased = match rule {
        MxRule::Floor => exponent - emax,
        MxRule::Ceil => exponent + i32::from(rounds_up) - emax,
        MxRule::Rceil => exponent + i32::from(rounds_up),
        // A mantissa of 1.75 and more carries into the exponent.
        MxRule::Even => ((bits + (1 << 21)) >> 23) as i32 - emax,
    };
    // 255 is NaN in E8M0.
    e8m0::decode(biased.clamp(0, 254) as u8)
}
