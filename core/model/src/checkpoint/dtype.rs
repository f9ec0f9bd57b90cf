//! Element types of stored tensors, and widening to f32.

use std::fmt;

use half::{bf16, f16};
use rayon::prelude::*;

use workbench_matmul::by_pieces;

/// How the elements of a stored tensor are encoded, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    /// FP8 with 4 exponent bits, no infinities.
    F8E4M3,
    I64,
    I32,
    I16,
    I8,
    U8,
    U32,
    Bool,
}

impl Dtype {
    const ALL: [Self; 12] = [
        Self::F64,
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::F8E4M3,
        Self::I64,
        Self::I32,
        Self::I16,
        Self::I8,
        Self::U8,
        Self::U32,
        Self::Bool,
    ];

    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 | Self::U32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::F8E4M3 | Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name that safetensors headers use.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::U32 => "U32",
            Self::Bool => "BOOL",
        }
    }

    /// The type of that safetensors name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// Whether a decoder's dense tensors may be of this type.
    pub fn is_dense_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name that `dtype` in `config.json` uses, for the types a model is computed in.
    pub fn torch_name(self) -> Option<&'static str> {
        match self {
            Self::F32 => Some("float32"),
            Self::F16 => Some("float16"),
            Self::BF16 => Some("bfloat16"),
            _ => None,
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Elements per parallel piece: large enough to hide the dispatch, small enough to stay in cache.
const PIECE: usize = 1 << 16;

/// Widens little-endian F32, F16 or BF16 elements into `out`. The bytes may lie at any address: a safetensors header is
/// free to place data unaligned. Returns the index of the first element that is not finite.
pub(crate) fn widen(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Option<usize> {
    let size = dtype.size();
    debug_assert!(dtype.is_dense_float() && bytes.len() == out.len() * size);
    out.par_chunks_mut(PIECE)
        .zip(bytes.par_chunks(PIECE * size))
        .enumerate()
        .filter_map(|(piece, (out, bytes))| {
            widen_piece(dtype, bytes, out);
            first_non_finite(out).map(|index| piece * PIECE + index)
        })
        .min()
}

/// Values as the little-endian bytes of F32, F16 or BF16, rounded to nearest even.
pub fn narrow(values: &[f32], dtype: Dtype) -> Vec<u8> {
    by_pieces(values.len() * dtype.size(), PIECE * dtype.size(), |piece, bytes| {
        let start = piece * PIECE;
        narrow_piece(&values[start..start + bytes.len() / dtype.size()], dtype, bytes);
    })
}

/// As [`narrow`], into a slice of exactly that size.
pub(crate) fn narrow_into(values: &[f32], dtype: Dtype, bytes: &mut [u8]) {
    debug_assert!(bytes.len() == values.len() * dtype.size());
    let pieces = bytes.par_chunks_mut(PIECE * dtype.size()).zip(values.par_chunks(PIECE));
    pieces.for_each(|(bytes, values)| narrow_piece(values, dtype, bytes));
}

/// Rounds so few values that one thread does it alone.
pub fn narrow_piece(values: &[f32], dtype: Dtype, bytes: &mut [u8]) {
    match dtype {
        Dtype::F16 => fill(bytes, values.iter().map(|v| f16::from_f32(*v).to_le_bytes())),
        Dtype::BF16 => fill(bytes, values.iter().map(|v| workbench_matmul::narrow(*v).to_le_bytes())),
        _ => fill(bytes, values.iter().map(|v| v.to_le_bytes())),
    }
}

/// Little-endian bytes of F32, F16 or BF16 as values.
pub fn widened(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    by_pieces(bytes.len() / dtype.size(), PIECE, |piece, values| {
        let start = piece * PIECE * dtype.size();
        widen_piece(dtype, &bytes[start..start + values.len() * dtype.size()], values);
    })
}

/// The bytes of elements one after the other. Collecting a flattened iterator would do the same ten times slower.
pub(crate) fn bytes_of<const SIZE: usize>(elements: impl ExactSizeIterator<Item = [u8; SIZE]>) -> Vec<u8> {
    let mut bytes = vec![0; elements.len() * SIZE];
    fill(&mut bytes, elements);
    bytes
}

fn fill<const SIZE: usize>(bytes: &mut [u8], elements: impl Iterator<Item = [u8; SIZE]>) {
    bytes.as_chunks_mut().0.iter_mut().zip(elements).for_each(|(slot, element)| *slot = element);
}

/// The index and value of the first element that is not finite.
pub fn find_non_finite(dtype: Dtype, bytes: &[u8]) -> Option<(usize, f32)> {
    let size = dtype.size();
    let pieces = bytes.par_chunks(PIECE * size).enumerate();
    let found = pieces.filter_map(|(piece, bytes)| first_non_finite_bits(dtype, bytes).map(|at| piece * PIECE + at));
    let index = found.min()?;
    let mut value = [0.0];
    widen_piece(dtype, &bytes[index * size..(index + 1) * size], &mut value);
    Some((index, value[0]))
}

/// The index of the first element whose exponent says that it is no finite number.
fn first_non_finite_bits(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    const F16: u16 = 0x7c00;
    const BF16: u16 = 0x7f80;
    const F32: u32 = 0x7f80_0000;
    match dtype {
        Dtype::F16 => first_of(bytes, |bits| u16::from_le_bytes(bits) & F16 == F16),
        Dtype::BF16 => first_of(bytes, |bits| u16::from_le_bytes(bits) & BF16 == BF16),
        _ => first_of(bytes, |bits| u32::from_le_bytes(bits) & F32 == F32),
    }
}

/// The index of the first element of which something holds.
fn first_of<const SIZE: usize>(bytes: &[u8], holds: impl Fn([u8; SIZE]) -> bool) -> Option<usize> {
    let elements = bytes.as_chunks::<SIZE>().0;
    // A fold without early exit is vectorised; the search runs only where something was found.
    let any = elements.iter().fold(false, |any, bits| any | holds(*bits));
    if any { elements.iter().position(|bits| holds(*bits)) } else { None }
}

/// Widens so few elements that one thread does it alone.
pub fn widen_piece(dtype: Dtype, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        Dtype::F16 => widen_with(bytes, out, |pair: [u8; 2]| f16::from_le_bytes(pair).to_f32()),
        Dtype::BF16 => widen_with(bytes, out, |pair: [u8; 2]| bf16::from_le_bytes(pair).to_f32()),
        _ => widen_with(bytes, out, f32::from_le_bytes),
    }
}

fn widen_with<const SIZE: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; SIZE]) -> f32) {
    for (value, element) in out.iter_mut().zip(bytes.as_chunks::<SIZE>().0) {
        *value = convert(*element);
    }
}

/// The index of the first NaN or infinity.
pub(crate) fn first_non_finite(values: &[f32]) -> Option<usize> {
    // A fold without early exit is vectorised; the search runs only where something was found.
    let all_finite = values.iter().fold(true, |finite, value| finite & value.is_finite());
    if all_finite { None } else { values.iter().position(|value| !value.is_finite()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
        }
        assert_eq!(Dtype::from_name("F4"), None);
    }

    #[test]
    fn every_half_pattern_widens_exactly_from_unaligned_bytes() {
        let mut bytes = vec![0_u8];
        bytes.extend((0..=u16::MAX).flat_map(u16::to_le_bytes));
        let mut out = vec![0.0; 1 << 16];
        for (dtype, reference) in [
            (Dtype::F16, (|b| f64::from(f16::from_bits(b))) as fn(u16) -> f64),
            (Dtype::BF16, |b| f64::from(f32::from_bits(u32::from(b) << 16))),
        ] {
            let bad = widen(dtype, &bytes[1..], &mut out);
            let expected = (0..=u16::MAX).map(reference).collect::<Vec<_>>();
            for (value, expected) in out.iter().zip(&expected) {
                assert!(f64::from(*value) == *expected || (value.is_nan() && expected.is_nan()));
            }
            assert_eq!(bad, expected.iter().position(|value| !value.is_finite()));
            for (index, (element, expected)) in bytes[1..].chunks(2).zip(&expected).enumerate() {
                assert_eq!(find_non_finite(dtype, element).is_none(), expected.is_finite(), "{dtype} {index:#06x}");
            }
        }
    }

    #[test]
    fn the_first_non_finite_element_is_found_in_any_piece() {
        let mut values = vec![1.0_f32; 3 * PIECE];
        values[2 * PIECE + 7] = f32::NAN;
        values[PIECE + 5] = f32::INFINITY;
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        assert_eq!(widen(Dtype::F32, &bytes, &mut vec![0.0; values.len()]), Some(PIECE + 5));
        assert_eq!(find_non_finite(Dtype::F32, &bytes), Some((PIECE + 5, f32::INFINITY)));
        assert_eq!(find_non_finite(Dtype::F32, &bytes[..4 * PIECE]), None);
        // What is finite in f32 may round to an infinity.
        assert_eq!(find_non_finite(Dtype::F16, &narrow(&[1.0, -65_520.0], Dtype::F16)), Some((1, f32::NEG_INFINITY)));
        assert_eq!(find_non_finite(Dtype::BF16, &narrow(&[f32::MAX], Dtype::BF16)), Some((0, f32::INFINITY)));
    }
}
