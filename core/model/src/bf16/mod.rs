//! Matrix products of bfloat16 factors with sums in f32, on CPUs that have an instruction for it.
//!
//! `vdpbf16ps` (AVX512_BF16) multiplies pairs of bfloat16 and adds both products to a sum in f32: twice the products of an
//! f32 instruction of the same width. Its operands are *pairs* of neighbours along the summed dimension, so factors are packed
//! first: in panels of a few rows, pair by pair, with the pairs of the rows side by side.
//!
//! The order of the sums depends on the shapes alone, not on the number of threads. On other CPUs the factors of ordinary f32
//! products are rounded, which differs in the order of the sums, and in numbers below 1e-38, which the instruction takes for zero.

mod kernel;
mod pack;

use rayon::prelude::*;

use self::kernel::{LEFT, RIGHT, Tile};
use self::pack::Panels;
pub(crate) use self::pack::narrow;
use crate::decoder::kernels::matmul;
use crate::pieces::by_pieces;

/// Whether this CPU multiplies bfloat16.
pub(crate) fn supported() -> bool {
    kernel::supported()
}

/// Values rounded to bfloat16, to nearest even.
pub(crate) fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| pack::widen(narrow(*value))).collect()
}

/// Rows of the result that one task computes: its share of the left factor stays in the second cache.
const ROWS: usize = 4 * LEFT;

/// Pairs of the summed dimension that are multiplied before a part of the result goes back to memory.
const PAIRS: usize = 512;

/// A weight `[outputs, inputs]` in bfloat16, packed once for any number of products.
pub(crate) struct Weight {
    factor: Factor,
    /// Outputs and inputs.
    shape: [usize; 2],
}

enum Factor {
    Packed(Panels<RIGHT>),
    Rounded(Vec<f32>),
}

impl Weight {
    /// Rounds a weight.
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        let factor = match supported() {
            true => Factor::Packed(Panels::along_rows(weight, outputs, inputs)),
            false => Factor::Rounded(rounded(weight)),
        };
        Self { factor, shape: [outputs, inputs] }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// `x wᵀ` for `x` `[rows, inputs]`, which is rounded: what a linear computes, `[rows, outputs]`.
    ///
    /// # Panics
    /// `x` is not of that shape.
    pub(crate) fn product(&self, x: &[f32], rows: usize) -> Vec<f32> {
        let [outputs, inputs] = self.shape;
        assert!(x.len() == rows * inputs);
        let panels = match &self.factor {
            Factor::Packed(panels) => panels,
            Factor::Rounded(weight) => return matmul::linear(&rounded(x), weight, rows, inputs, outputs),
        };
        let left = Panels::<LEFT>::along_rows(x, rows, inputs);
        by_pieces(rows * outputs, ROWS * outputs, |task, out| multiply(out, outputs, &left, panels, task * ROWS, |_| 0))
    }
}

/// Adds `xᵀx` of `x` `[tokens, n]` to `to` `[n, n]`, on and above the diagonal; below it, `to` means nothing afterwards.
///
/// # Panics
/// The shapes do not fit, or this CPU is not [`supported`].
pub(crate) fn add_gram(to: &mut [f32], x: &[f32], n: usize) {
    assert!(to.len() == n * n && n > 0 && x.len().is_multiple_of(n));
    let tokens = x.len() / n;
    let left = Panels::<LEFT>::down_columns(x, tokens, n);
    let right = Panels::<RIGHT>::down_columns(x, tokens, n);
    to.par_chunks_mut(ROWS * n).enumerate().for_each(|(task, rows)| {
        multiply(rows, n, &left, &right, task * ROWS, |row| row);
    });
}

/// Adds to the rows from `first` on of a result with `columns` columns. Of a row of tiles, those that end before the
/// column `start(row)` are left out.
fn multiply(
    out: &mut [f32],
    columns: usize,
    left: &Panels<LEFT>,
    right: &Panels<RIGHT>,
    first: usize,
    start: impl Fn(usize) -> usize,
) {
    let rows = out.len() / columns.max(1);
    for pairs in left.pairs_by(PAIRS) {
        for (panel, column) in (0..columns).step_by(RIGHT).enumerate() {
            let b = right.part(panel, pairs.clone());
            for row in (0..rows).step_by(LEFT) {
                if column + RIGHT <= start(first + row) {
                    continue;
                }
                let a = left.part((first + row) / LEFT, pairs.clone());
                let (height, width) = (LEFT.min(rows - row), RIGHT.min(columns - column));
                kernel::add(a, b, Tile { values: &mut out[row * columns + column..], stride: columns, height, width });
            }
        }
    }
}

#[cfg(test)]
mod tests;
