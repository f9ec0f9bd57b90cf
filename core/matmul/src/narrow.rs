//! Between f32 and bfloat16.

/// The bits of a value rounded to bfloat16, to nearest even. Unlike `half`'s it is a few integer instructions without a
/// branch, which vectorise.
#[inline(always)]
pub fn narrow(value: f32) -> u16 {
    const NAN: u32 = 0x7fc0;
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
    let rounded = if bits & 0x7fff_ffff > 0x7f80_0000 { NAN } else { rounded };
    rounded as u16
}

/// The value of bfloat16 bits.
#[inline(always)]
pub fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Values rounded to bfloat16.
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| widen(narrow(*value))).collect()
}

/// Something that a matrix can be packed from.
pub(crate) trait Element: Copy + Sync {
    /// The value in f32.
    fn wide(self) -> f32;

    /// The bits in bfloat16.
    fn narrow(self) -> u16;
}

impl Element for f32 {
    #[inline(always)]
    fn wide(self) -> f32 {
        self
    }

    #[inline(always)]
    fn narrow(self) -> u16 {
        narrow(self)
    }
}

/// The bytes of bfloat16 as files have them, the lower one first.
impl Element for [u8; 2] {
    #[inline(always)]
    fn wide(self) -> f32 {
        widen(u16::from_le_bytes(self))
    }

    #[inline(always)]
    fn narrow(self) -> u16 {
        u16::from_le_bytes(self)
    }
}

/// Two neighbours along the summed dimension, the first in the lower half.
#[inline(always)]
pub(crate) fn pair<E: Element>(first: E, second: Option<E>) -> u32 {
    u32::from(first.narrow()) | second.map_or(0, |second| u32::from(second.narrow()) << 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_half() {
        let edge = [0.0, -0.0, 1.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY, f32::NEG_INFINITY, 1.003_906_2];
        let many = (0..1 << 16).map(|i| f32::from_bits(i * 65_537));
        for value in edge.into_iter().chain(many).filter(|value| !value.is_nan()) {
            assert_eq!(narrow(value), half::bf16::from_f32(value).to_bits(), "{value}");
        }
        for bits in [0x7fff_ffff, 0xffff_ffff, 0x7f80_0001] {
            assert!(widen(narrow(f32::from_bits(bits))).is_nan());
        }
    }
}
