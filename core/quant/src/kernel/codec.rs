//! The rounding of one value, for each number format and precision of the arithmetic.
//!
//! A codec is the whole path from a value to its code and back. The const parameters fix the branches at compile time,
//! so that the loops over a codec become straight vector code: `BF16_IN` rounds the quotient to bfloat16, `BF16_OUT`
//! the product, `AFTER` clamps after rounding. (NVFP4 on bfloat16 tensors divides by an f32 scale, hence two flags.)

use crate::float::{e2m1, f8e4m3, low_byte, round_bf16, round_integer};

/// One number format. `s` is the scale that multiplies codes, `z` the zero-point (0 where there is none).
pub(crate) trait Codec: Copy + Send + Sync {
    /// The value on the scale of the codes, before it is clamped.
    fn scaled(self, x: f32, s: f32, z: f32) -> f32;
    /// The nearest representable value on the scale of the codes.
    fn nearest(self, scaled: f32) -> f32;
    /// The bit pattern of a representable value.
    fn encode(self, nearest: f32) -> u8;
    /// The representable value of a bit pattern.
    fn decode(self, code: u8) -> f32;
    /// A representable value back on the scale of the input.
    fn value(self, nearest: f32, s: f32, z: f32) -> f32;
    /// Whether the grid would hold the nearest step to `scaled` without clamping.
    fn fits(self, scaled: f32) -> bool;
}

#[inline(always)]
fn quotient<const BF16_IN: bool, const BF16_OUT: bool>(x: f32, s: f32) -> f32 {
    let x = if BF16_OUT { round_bf16(x) } else { x };
    if BF16_IN { round_bf16(x / s) } else { x / s }
}

#[inline(always)]
fn product<const BF16_OUT: bool>(x: f32, s: f32) -> f32 {
    if BF16_OUT { round_bf16(x * s) } else { x * s }
}

/// Integers from `low` to `high`.
#[derive(Clone, Copy)]
pub(crate) struct Int<const BF16: bool, const AFTER: bool> {
    pub(crate) low: f32,
    pub(crate) high: f32,
}

impl<const BF16: bool, const AFTER: bool> Codec for Int<BF16, AFTER> {
    #[inline(always)]
    fn scaled(self, x: f32, s: f32, z: f32) -> f32 {
        let quotient = quotient::<BF16, BF16>(x, s);
        let sum = if AFTER { round_integer(quotient) + z } else { quotient + z };
        if BF16 { round_bf16(sum) } else { sum }
    }

    #[inline(always)]
    fn nearest(self, scaled: f32) -> f32 {
        round_integer(scaled.clamp(self.low, self.high))
    }

    #[inline(always)]
    fn encode(self, nearest: f32) -> u8 {
        low_byte(nearest)
    }

    #[inline(always)]
    fn decode(self, code: u8) -> f32 {
        f32::from(code as i8)
    }

    #[inline(always)]
    fn value(self, nearest: f32, s: f32, z: f32) -> f32 {
        product::<BF16>(nearest - z, s)
    }

    #[inline(always)]
    fn fits(self, scaled: f32) -> bool {
        let rounded = round_integer(scaled);
        rounded >= self.low && rounded <= self.high
    }
}

/// FP8 E4M3.
#[derive(Clone, Copy)]
pub(crate) struct E4M3<const BF16: bool>;

impl<const BF16: bool> Codec for E4M3<BF16> {
    #[inline(always)]
    fn scaled(self, x: f32, s: f32, _: f32) -> f32 {
        // Adding zero turns a negative zero into a positive one, whose code is 0.
        quotient::<BF16, BF16>(x, s) + 0.0
    }

    #[inline(always)]
    fn nearest(self, scaled: f32) -> f32 {
        f8e4m3::saturate(scaled)
    }

    #[inline(always)]
    fn encode(self, nearest: f32) -> u8 {
        f8e4m3::encode(nearest)
    }

    #[inline(always)]
    fn decode(self, code: u8) -> f32 {
        f8e4m3::decode(code)
    }

    #[inline(always)]
    fn value(self, nearest: f32, s: f32, _: f32) -> f32 {
        product::<BF16>(nearest, s)
    }

    #[inline(always)]
    fn fits(self, scaled: f32) -> bool {
        scaled.abs() <= f8e4m3::LAST_THAT_FITS
    }
}

/// FP4 E2M1.
#[derive(Clone, Copy)]
pub(crate) struct E2M1<const BF16_IN: bool, const BF16_OUT: bool>;

impl<const BF16_IN: bool, const BF16_OUT: bool> Codec for E2M1<BF16_IN, BF16_OUT> {
    #[inline(always)]
    fn scaled(self, x: f32, s: f32, _: f32) -> f32 {
        // As for FP8: the code of negative zero is 0.
        quotient::<BF16_IN, BF16_OUT>(x, s) + 0.0
    }

    #[inline(always)]
    fn nearest(self, scaled: f32) -> f32 {
        e2m1::round(scaled.clamp(-e2m1::MAX, e2m1::MAX))
    }

    #[inline(always)]
    fn encode(self, nearest: f32) -> u8 {
        e2m1::encode(nearest)
    }

    #[inline(always)]
    fn decode(self, code: u8) -> f32 {
        e2m1::decode(code)
    }

    #[inline(always)]
    fn value(self, nearest: f32, s: f32, _: f32) -> f32 {
        product::<BF16_OUT>(nearest, s)
    }

    #[inline(always)]
    fn fits(self, scaled: f32) -> bool {
        scaled.abs() < e2m1::FIRST_TOO_LARGE
    }
}

/// The codec of a grid, as a value. [`with_codec`](crate::kernel::with_codec) unpacks it once per call.
#[derive(Clone, Copy)]
pub(crate) enum AnyCodec {
    Int(Int<false, false>),
    IntAfter(Int<false, true>),
    IntBf16(Int<true, false>),
    IntBf16After(Int<true, true>),
    E4M3(E4M3<false>),
    E4M3Bf16(E4M3<true>),
    E2M1(E2M1<false, false>),
    E2M1Bf16(E2M1<true, true>),
    NvFp4Bf16(E2M1<false, true>),
}
