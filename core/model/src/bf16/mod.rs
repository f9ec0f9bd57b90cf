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

use self::kernel::Tile;
pub(crate) use self::kernel::{LEFT, RIGHT};
pub(crate) use self::pack::{Layout, Panels, narrow};
use crate::decoder::kernels::matmul;
use crate::pieces::{by_pieces, copied_by_pieces};

/// Whether this CPU multiplies bfloat16.
pub(crate) fn supported() -> bool {
    kernel::supported()
}

/// Values rounded to bfloat16, to nearest even.
pub(crate) fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| pack::widen(narrow(*value))).collect()
}

/// Rows of the result that one task computes: its share of the left factor stays in the second cache.
const ROWS: usize = 2 * LEFT;

/// Pairs of the summed dimension that are multiplied before a part of the result goes back to memory.
const PAIRS: usize = 512;

/// A weight `[outputs, inputs]` in bfloat16, packed once for any number of products.
pub(crate) struct Weight {
    factor: Factor<RIGHT>,
    /// Outputs and inputs.
    shape: [usize; 2],
}

/// What a linear reads, `[rows, inputs]`, packed once for all linears that read it.
pub(crate) struct Input {
    factor: Factor<LEFT>,
    shape: [usize; 2],
}

enum Factor<const R: usize> {
    Packed(Panels<R>),
    /// On other CPUs.
    Rounded(Vec<f32>),
}

impl<const R: usize> Factor<R> {
    fn new(x: &[f32], [rows, columns]: [usize; 2]) -> Self {
        assert!(x.len() == rows * columns);
        match supported() {
            true => Self::Packed(Panels::along_rows(x, Layout::dense(rows, columns))),
            false => Self::Rounded(rounded(x)),
        }
    }
}

impl Input {
    /// Rounds `x` `[rows, inputs]`.
    ///
    /// # Panics
    /// `x` is not of that shape.
    pub(crate) fn new(x: &[f32], rows: usize, inputs: usize) -> Self {
        let shape = [rows, inputs];
        Self { factor: Factor::new(x, shape), shape }
    }
}

impl Weight {
    /// Rounds a weight.
    ///
    /// # Panics
    /// It is not of that shape.
    pub(crate) fn new(weight: &[f32], outputs: usize, inputs: usize) -> Self {
        let shape = [outputs, inputs];
        Self { factor: Factor::new(weight, shape), shape }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// `onto + x wᵀ` for `x` `[rows, inputs]`: what a linear computes, `[rows, outputs]`.
    ///
    /// # Panics
    /// `x` or `onto` is not of that shape.
    pub(crate) fn product(&self, x: &Input, onto: Option<&[f32]>) -> Vec<f32> {
        let [outputs, inputs] = self.shape;
        let rows = x.shape[0];
        assert!(x.shape[1] == inputs && onto.is_none_or(|onto| onto.len() == rows * outputs));
        match (&x.factor, &self.factor) {
            (Factor::Packed(left), Factor::Packed(right)) => {
                let (piece, all) = (ROWS * outputs, |_| 0);
                let fill =
                    |onto| move |task, out: &mut [f32]| multiply(out, outputs, left, right, task * ROWS, onto, all);
                match onto {
                    None => by_pieces(rows * outputs, piece, fill(Onto::Nothing)),
                    Some(onto) => copied_by_pieces(onto, piece, fill(Onto::Values)),
                }
            }
            (Factor::Rounded(x), Factor::Rounded(weight)) => {
                let mut made = matmul::linear(x, weight, rows, inputs, outputs);
                made.iter_mut().zip(onto.into_iter().flatten()).for_each(|(value, onto)| *value += onto);
                made
            }
            _ => unreachable!("whether factors are packed depends on the CPU alone"),
        }
    }
}

/// Adds `xᵀx` of `x` `[tokens, n]` to `to` `[n, n]`, on and above the diagonal; below it, `to` means nothing afterwards.
///
/// # Panics
/// The shapes do not fit, or this CPU is not [`supported`].
pub(crate) fn add_gram(to: &mut [f32], x: &[f32], n: usize) {
    assert!(to.len() == n * n && n > 0 && x.len().is_multiple_of(n));
    let layout = Layout::dense(x.len() / n, n);
    let left = Panels::<LEFT>::down_columns(x, layout);
    let right = Panels::<RIGHT>::down_columns(x, layout);
    to.par_chunks_mut(ROWS * n).enumerate().for_each(|(task, rows)| {
        multiply(rows, n, &left, &right, task * ROWS, Onto::Values, |row| row);
    });
}

/// `out` `[rows of left, columns]`, the product of `left` and the first `columns` rows of `right`, on this thread alone.
///
/// # Panics
/// `out` is not of that shape, or this CPU is not [`supported`].
pub(crate) fn product(out: &mut [f32], columns: usize, left: &Panels<LEFT>, right: &Panels<RIGHT>) {
    multiply(out, columns, left, right, 0, Onto::Nothing, |_| 0);
}

/// What a product is added to.
#[derive(Clone, Copy, PartialEq)]
enum Onto {
    /// What was there before does not count.
    Nothing,
    Values,
}

/// Computes the rows from `first` on of a result with `columns` columns. Of a row of tiles, those that end before the
/// column `start(row)` are left out.
fn multiply(
    out: &mut [f32],
    columns: usize,
    left: &Panels<LEFT>,
    right: &Panels<RIGHT>,
    first: usize,
    onto: Onto,
    start: impl Fn(usize) -> usize,
) {
    let rows = out.len() / columns.max(1);
    for pairs in left.pairs_by(PAIRS) {
        let add = onto == Onto::Values || pairs.start > 0;
        for (panel, column) in (0..columns).step_by(RIGHT).enumerate() {
            let b = right.part(panel, pairs.clone());
            for row in (0..rows).step_by(LEFT) {
                if column + RIGHT <= start(first + row) {
                    continue;
                }
                let a = left.part((first + row) / LEFT, pairs.clone());
                let (height, width) = (LEFT.min(rows - row), RIGHT.min(columns - column));
                let values = &mut out[row * columns + column..];
                kernel::multiply(a, b, Tile { values, stride: columns, height, width, add });
            }
        }
    }
}

#[cfg(test)]
mod tests;
