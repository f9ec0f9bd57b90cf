//! Rotary position embedding: the pair (x_i, x_{i + d/2}) of each head is turned by the angle `position * frequency_i`.

use super::PARALLEL;
use super::vector::vectorized;
use workbench_matmul::by_pieces;

/// Where the tokens of a batch stand: sequence `b`'s tokens are at `past[b]..past[b] + len`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) past: &'a [usize],
    pub(crate) len: usize,
}

vectorized! {
    /// One token: all its heads of `2 * cos.len()` elements, turned by the angles of its position (back, if `sign` is -1).
    fn rotate_token(x: &[f32], cos: &[f32], sin: &[f32], sign: f32, out: &mut [f32]) {
        let half = cos.len();
        for (x, y) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(2 * half)) {
            let (first, second) = x.split_at(half);
            let (to_first, to_second) = y.split_at_mut(half);
            for i in 0..half {
                let s = sign * sin[i];
                to_first[i] = first[i] * cos[i] - second[i] * s;
                to_second[i] = second[i] * cos[i] + first[i] * s;
            }
        }
    }
}

/// Rotates `x` of shape `[batch, len, heads, 2 * half]`; `cos` and `sin` have rows of `half` values per position.
/// `sign` is 1 forward; the gradient goes through the inverse rotation, -1.
pub(crate) fn rotate(x: &[f32], rows: Rows<'_>, cos: &[f32], sin: &[f32], half: usize, sign: f32) -> Vec<f32> {
    let tokens = rows.past.len() * rows.len;
    if tokens == 0 {
        return Vec::new();
    }
    let width = x.len() / tokens;
    let together = PARALLEL.div_ceil(width);
    by_pieces(x.len(), together * width, |piece, out| {
        let first = piece * together;
        for (index, out) in (first..).zip(out.chunks_exact_mut(width)) {
            let position = rows.past[index / rows.len] + index % rows.len;
            let angles = position * half..(position + 1) * half;
            rotate_token(&x[index * width..][..width], &cos[angles.clone()], &sin[angles], sign, out);
        }
    })
}
