//! The K types of GGML: blocks of 256 whose groups have small scales of their own.
//!
//! The structures are `block_q4_K`, `block_q5_K` and `block_q6_K` of
//! <https://github.com/ggml-org/llama.cpp/blob/b4600/ggml/src/ggml-common.h>, the order of operations that of
//! `dequantize_row_q*_K` in `ggml-quants.c`: the group's scale is multiplied by the block's first.

use super::blocks::half_at;

/// Elements of a block.
pub(super) const SUPER_BLOCK: usize = 256;

/// d and minimum's d, twelve bytes of scales and minima, codes.
pub(super) const Q4K_BYTES: usize = 2 + 2 + 12 + SUPER_BLOCK / 2;

/// The same with a bit more for every code.
pub(super) const Q5K_BYTES: usize = Q4K_BYTES + SUPER_BLOCK / 8;

/// Low four bits, high two bits, scales, d.
pub(super) const Q6K_BYTES: usize = SUPER_BLOCK / 2 + SUPER_BLOCK / 4 + SUPER_BLOCK / 16 + 2;

/// Elements of a group of Q4_K and Q5_K.
const GROUP: usize = 32;

const _: () = assert!(Q4K_BYTES == 144 && Q5K_BYTES == 176 && Q6K_BYTES == 210);

/// Scale and minimum of group j, six bits each: groups 0 to 3 have them in the low bits of bytes j and j + 4, groups 4 to 7
/// four bits in byte j + 4 and the rest in the top of the bytes before.
fn scale_and_minimum(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 15 | packed[j - 4] >> 6 << 4, packed[j + 4] >> 4 | packed[j] >> 6 << 4)
    };
    (f32::from(scale), f32::from(minimum))
}

/// Value: d s q - m with q of four bits, s and m those of the group.
pub(super) fn q4k(block: &[u8], out: &mut [f32]) {
    grouped(block, out, &block[16..], |_, _| 0);
}

/// As Q4_K; bit j of byte i of the high bits is the fifth bit of element i of group j.
pub(super) fn q5k(block: &[u8], out: &mut [f32]) {
    let high = &block[16..16 + GROUP];
    grouped(block, out, &block[16 + GROUP..], |group, element| (high[element] >> group & 1) << 4);
}

/// Two groups share 32 bytes of codes, the first in their low halves.
fn grouped(block: &[u8], out: &mut [f32], codes: &[u8], fifth: impl Fn(usize, usize) -> u8) {
    let (d, d_minimum) = (half_at(block, 0), half_at(block, 2));
    for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
        let (scale, minimum) = scale_and_minimum(&block[4..16], group);
        let (scale, minimum) = (d * scale, d_minimum * minimum);
        let bytes = &codes[group / 2 * GROUP..][..GROUP];
        for (element, (value, byte)) in out.iter_mut().zip(bytes).enumerate() {
            let code = (byte >> (group % 2 * 4) & 15) | fifth(group, element);
            *value = scale * f32::from(code) - minimum;
        }
    }
}

/// Value: d s (q - 32) with q of six bits and one signed byte s for 16 elements. Each half of the block has 64 bytes of low
/// bits and 32 of high ones: byte i of the latter serves elements i, i + 32, i + 64 and i + 96.
pub(super) fn q6k(block: &[u8], out: &mut [f32]) {
    let (low, rest) = block.split_at(SUPER_BLOCK / 2);
    let (high, rest) = rest.split_at(SUPER_BLOCK / 4);
    let d = half_at(rest, SUPER_BLOCK / 16);
    for (index, value) in out.iter_mut().enumerate() {
        let (half, element) = (index / 128, index % 128);
        let (quarter, column) = (element / 32, element % 32);
        let low = low[half * 64 + quarter % 2 * 32 + column] >> (quarter / 2 * 4) & 15;
        let high = high[half * 32 + column] >> (quarter * 2) & 3;
        let scale = f32::from(rest[index / 16] as i8);
        *value = d * scale * (f32::from(low | high << 4) - 32.0);
    }
}
