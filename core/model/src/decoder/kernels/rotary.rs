//! Rotary position embedding: the pair (x_i, x_{i + d/2}) of each head is turned by the angle `position * frequency_i`.

use rayon::prelude::*;

use super::PARALLEL;
use super::vector::vectorized;

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
    let mut out = vec![0.0; x.len()];
    if tokens == 0 {
        return out;
    }
    let width = x.len() / tokens;
    let token = |(index, (x, out)): (usize, (&[f32], &mut [f32]))| {
        let position = rows.past[index / rows.len] + index % rows.len;
        let angles = position * half..(position + 1) * half;
        rotate_token(x, &cos[angles.clone()], &sin[angles], sign, out);
    };
    if x.len() < PARALLEL {
        x.chunks_exact(width).zip(out.chunks_exact_mut(width)).enumerate().for_each(token);
    } else {
        let pairs = x.par_chunks_exact(width).zip(out.par_chunks_exact_mut(width));
        pairs.enumerate().with_min_len(PARALLEL.div_ceil(width)).for_each(token);
    }
    out
}
