//! Small floating-point formats: bfloat16, FP8 E4M3, FP4 E2M1 and the power-of-two scales E8M0.
//!
//! Everything rounds to nearest, ties to even. The functions are branch-free on values, so that loops over them become
//! vector code; [`f8e4m3`] and [`e2m1`] split the work into `round` (a float to the nearest float of the format, which
//! must already lie inside its range), `encode` and `decode` (a float of the format to its bit pattern and back).

/// Adding and subtracting 1.5 * 2^23 leaves the nearest integer, ties to even, for magnitudes below 2^22; larger
/// magnitudes stay monotonic. The low byte of the sum is the integer in two's complement.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// Rounds to the nearest integer, ties to even. Never returns negative zero.
#[inline(always)]
pub(crate) fn round_integer(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

/// The low byte of an integer-valued float in two's complement.
#[inline(always)]
pub(crate) fn low_byte(x: f32) -> u8 {
    (x + MAGIC).to_bits() as u8
}

/// Rounds to the nearest bfloat16 value. NaN stays NaN, values past the largest become infinite.
#[inline(always)]
pub fn round_bf16(x: f32) -> f32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    f32::from_bits(if x.is_nan() { bits } else { rounded })
}

/// Rounds the magnitude of `x` to `DROPPED` fewer bits of mantissa where it is at least `smallest_normal`, and to a
/// multiple of the spacing that `magic` stands for below. Keeps the sign, that of zero too.
#[inline(always)]
fn round_mantissa<const DROPPED: u32>(x: f32, smallest_normal: f32, magic: f32) -> f32 {
    let magnitude = x.abs();
    let bits = magnitude.to_bits();
    let half = (1 << (DROPPED - 1)) - 1 + ((bits >> DROPPED) & 1);
    let normal = f32::from_bits((bits + half) & !((1 << DROPPED) - 1));
    let subnormal = (magnitude + magic) - magic;
    (if magnitude < smallest_normal { subnormal } else { normal }).copysign(x)
}

/// FP8 E4M3 without infinities: bias 7, largest value 448, smallest subnormal 2^-9, NaN `S.1111.111`.
pub mod f8e4m3 {
    use super::{low_byte, round_mantissa};

    /// Largest finite value.
    pub const MAX: f32 = 448.0;
    /// The bit pattern of NaN, without its sign.
    pub(crate) const NAN: i8 = 0x7f;
    /// Values from here on, on the real line, are nearer to the next value above [`MAX`]; exactly here the tie goes to [`MAX`].
    pub(crate) const LAST_THAT_FITS: f32 = 464.0;
    const SMALLEST_NORMAL: f32 = 0.015625;
    const SPACING_BELOW: f32 = 1.0 / 512.0;

    /// The nearest value of the format to an `x` of magnitude at most [`MAX`]. NaN stays NaN.
    #[inline(always)]
    pub fn round(x: f32) -> f32 {
        round_mantissa::<20>(x, SMALLEST_NORMAL, 1.5 * 8_388_608.0 * SPACING_BELOW)
    }

    /// The bit pattern of a value of the format.
    #[inline(always)]
    pub fn encode(value: f32) -> u8 {
        let magnitude = value.abs();
        let normal = (magnitude.to_bits() >> 20).wrapping_sub(120 << 3);
        let subnormal = u32::from(low_byte(magnitude * 512.0));
        let code = if magnitude < SMALLEST_NORMAL { subnormal } else { normal };
        let code = if value.is_nan() { 0x7f } else { code };
        (code | ((value.to_bits() >> 24) & 0x80)) as u8
    }

    /// The value of a bit pattern.
    #[inline(always)]
    pub fn decode(code: u8) -> f32 {
        let magnitude = u32::from(code & 0x7f);
        let normal = f32::from_bits((magnitude << 20) + (120 << 23));
        let subnormal = magnitude as f32 * SPACING_BELOW;
        let value = if magnitude < 8 { subnormal } else { normal };
        let value = if magnitude == 0x7f { f32::NAN } else { value };
        f32::from_bits(value.to_bits() | (u32::from(code & 0x80) << 24))
    }

    /// Clamps to the range of the format and rounds.
    #[inline(always)]
    pub fn saturate(x: f32) -> f32 {
        round(x.clamp(-MAX, MAX))
    }
}

/// FP4 E2M1: the magnitudes 0, 0.5, 1, 1.5, 2, 3, 4, 6 have the codes 0 to 7, bit 3 is the sign.
pub mod e2m1 {
    use super::{low_byte, round_mantissa};

    /// Largest value.
    pub const MAX: f32 = 6.0;
    /// Values from here on, on the real line, are nearer to the next value above [`MAX`].
    pub(crate) const FIRST_TOO_LARGE: f32 = 7.0;

    /// The nearest value of the format to an `x` of magnitude at most [`MAX`]. NaN stays NaN.
    #[inline(always)]
    pub fn round(x: f32) -> f32 {
        round_mantissa::<22>(x, 1.0, 1.5 * 8_388_608.0 * 0.5)
    }

    /// The code of a value of the format, in the low four bits.
    #[inline(always)]
    pub fn encode(value: f32) -> u8 {
        let magnitude = value.abs();
        let normal = (magnitude.to_bits() >> 22).wrapping_sub(126 << 1);
        let subnormal = u32::from(low_byte(magnitude * 2.0));
        let code = if magnitude < 1.0 { subnormal } else { normal };
        ((code & 7) | ((value.to_bits() >> 28) & 8)) as u8
    }

    /// The value of a code; only the low four bits count.
    #[inline(always)]
    pub fn decode(code: u8) -> f32 {
        let magnitude = u32::from(code & 7);
        let normal = f32::from_bits((magnitude << 22) + (126 << 23));
        let value = if magnitude < 2 { magnitude as f32 * 0.5 } else { normal };
        f32::from_bits(value.to_bits() | (u32::from(code & 8) << 28))
    }
}

/// E8M0: the byte e is the power of two 2^(e - 127).
pub mod e8m0 {
    /// The value of a byte. The byte 255 is NaN.
    pub fn decode(code: u8) -> f32 {
        match code {
            0 => f32::from_bits(1 << 22),
            255 => f32::NAN,
            code => f32::from_bits(u32::from(code) << 23),
        }
    }

    /// The byte of a power of two between 2^-127 and 2^127; other positive values take the power below them.
    pub fn encode(value: f32) -> u8 {
        (value.to_bits() >> 23) as u8
    }
}
