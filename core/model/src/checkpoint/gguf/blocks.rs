//! GGML block formats, dequantized to f32.
//!
//! The structures are those of
//! <https://github.com/ggml-org/llama.cpp/blob/b4600/ggml/src/ggml-common.h>: 32 neighbours of a row share one block, of the
//! K types 256.

use super::k_blocks::{self, SUPER_BLOCK};
use half::{bf16, f16};

/// Elements of a quantized block.
const BLOCK: usize = 32;

/// The tensor types that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockType {
    F32,
    F16,
    Bf16,
    /// Scale d; value (q - 8) d.
    Q4_0,
    /// Scale d and minimum m; value q d + m.
    Q4_1,
    /// Scale d; value (q - 16) d, the fifth bits of all codes in a word of their own.
    Q5_0,
    /// Scale d and minimum m; value q d + m, with fifth bits like [`BlockType::Q5_0`].
    Q5_1,
    /// Scale d; value q d with q a signed byte.
    Q8_0,
    /// Eight groups of 32 with 6-bit scales and minima; see [`k_blocks`].
    Q4K,
    /// The same with a fifth bit a code.
    Q5K,
    /// Sixteen groups of 16 with 8-bit scales.
    Q6K,
}

/// Names of the types that exist, so that a message can name one that cannot be read.
const NAMES: [(u32, &str); 35] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (36, "IQ4_NL_4_4"),
    (38, "IQ4_NL_8_8"),
    (39, "MXFP4"),
    (40, "NVFP4"),
];

impl BlockType {
    /// The type of that id; otherwise the name under which the id is known.
    pub(crate) fn from_id(id: u32) -> Result<Self, String> {
        match id {
            0 => Ok(Self::F32),
            1 => Ok(Self::F16),
            2 => Ok(Self::Q4_0),
            3 => Ok(Self::Q4_1),
            6 => Ok(Self::Q5_0),
            7 => Ok(Self::Q5_1),
            12 => Ok(Self::Q4K),
            13 => Ok(Self::Q5K),
            14 => Ok(Self::Q6K),
            8 => Ok(Self::Q8_0),
            30 => Ok(Self::Bf16),
            _ => Err(match NAMES.iter().find(|(known, _)| *known == id) {
                Some((_, name)) => format!("{name} (id {id})"),
                None => format!("with id {id}"),
            }),
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Q8_0 => "Q8_0",
        }
    }

    /// Elements of one block.
    pub(crate) fn elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => BLOCK,
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER_BLOCK,
        }
    }

    /// Bytes of one block.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 2 + BLOCK / 2,
            Self::Q4_1 => 4 + BLOCK / 2,
            Self::Q5_0 => 2 + 4 + BLOCK / 2,
            Self::Q5_1 => 4 + 4 + BLOCK / 2,
            Self::Q4K => k_blocks::Q4K_BYTES,
            Self::Q5K => k_blocks::Q5K_BYTES,
            Self::Q6K => k_blocks::Q6K_BYTES,
            Self::Q8_0 => 2 + BLOCK,
        }
    }

    /// Writes the values of whole blocks; `bytes` and `out` hold equally many.
    pub(crate) fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let blocks = bytes.chunks_exact(self.bytes()).zip(out.chunks_exact_mut(self.elements()));
        match self {
            Self::F32 => blocks.for_each(|(block, out)| out[0] = f32::from_le_bytes(first(block))),
            Self::F16 => blocks.for_each(|(block, out)| out[0] = half_at(block, 0)),
            Self::Bf16 => blocks.for_each(|(block, out)| out[0] = bf16::from_le_bytes(first(block)).to_f32()),
            Self::Q4_0 => blocks.for_each(|(block, out)| {
                let d = half_at(block, 0);
                nibbles(&block[2..], out, |code| (f32::from(code) - 8.0) * d);
            }),
            Self::Q4_1 => blocks.for_each(|(block, out)| {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                nibbles(&block[4..], out, |code| f32::from(code) * d + m);
            }),
            Self::Q5_0 => blocks.for_each(|(block, out)| {
                let d = half_at(block, 0);
                five_bits(&block[2..], out, |code| (f32::from(code) - 16.0) * d);
            }),
            Self::Q5_1 => blocks.for_each(|(block, out)| {
                let (d, m) = (half_at(block, 0), half_at(block, 2));
                five_bits(&block[4..], out, |code| f32::from(code) * d + m);
            }),
            Self::Q4K => blocks.for_each(|(block, out)| k_blocks::q4k(block, out)),
            Self::Q5K => blocks.for_each(|(block, out)| k_blocks::q5k(block, out)),
            Self::Q6K => blocks.for_each(|(block, out)| k_blocks::q6k(block, out)),
            Self::Q8_0 => blocks.for_each(|(block, out)| {
                let d = half_at(block, 0);
                for (value, code) in out.iter_mut().zip(&block[2..]) {
                    *value = f32::from(*code as i8) * d;
                }
            }),
        }
    }
}

fn first<const SIZE: usize>(block: &[u8]) -> [u8; SIZE] {
    std::array::from_fn(|index| block[index])
}

pub(super) fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// Byte j holds element j in its low half and element j + 16 in its high half.
fn nibbles(codes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let (low, high) = out.split_at_mut(BLOCK / 2);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(codes) {
        *low = value(byte & 15);
        *high = value(byte >> 4);
    }
}

/// As [`nibbles`] behind a word that holds the fifth bit of element j at bit j.
fn five_bits(block: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) {
    let high = u32::from_le_bytes(first(block));
    let fifth = |element: usize| ((high >> element & 1) << 4) as u8;
    for (j, byte) in block[4..].iter().enumerate() {
        out[j] = value(byte & 15 | fifth(j));
        out[j + BLOCK / 2] = value(byte >> 4 | fifth(j + BLOCK / 2));
    }
}

const _: () = assert!(2 + BLOCK / 2 == 18 && 4 + BLOCK / 2 == 20 && 2 + BLOCK == 34);

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::BlockType;

    fn hex(text: &Value) -> Vec<u8> {
        let text = text.as_str().unwrap();
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn five_bit_and_k_blocks_are_those_of_ggml() {
        let golden: Value = serde_json::from_str(include_str!("../../../tests/golden/gguf_k_blocks.json")).unwrap();
        for (name, id) in [("Q5_0", 6), ("Q5_1", 7), ("Q4_K", 12), ("Q5_K", 13), ("Q6_K", 14)] {
            let kind = BlockType::from_id(id).unwrap();
            assert_eq!(kind.name(), name);
            for row in golden[name].as_array().unwrap() {
                let (blocks, expected) = (hex(&row["bytes"]), hex(&row["values_le_f32"]));
                let mut values = vec![f32::NAN; blocks.len() / kind.bytes() * kind.elements()];
                kind.dequantize(&blocks, &mut values);
                let found: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                assert!(found == expected, "{name}");
            }
        }
    }
}
