//! Weights, inputs and Gram matrices: what a decoder multiplies.

use crate::Precision;
use crate::cpu::Kernel;
use crate::panels::{By, Layout, Packing, Sum};
use crate::parallel_fill::{by_pieces, copied_by_pieces};
use crate::product::{Left, Onto, Part, Right, Whole, run};

/// A weight `[outputs, inputs]`, packed once for any number of products.
pub struct Weight {
    right: Right,
    shape: [usize; 2],
    precision: Precision,
}

/// What a linear reads, `[rows, inputs]`, packed once for all linears that read it.
pub struct Input {
    left: Left,
    precision: Precision,
}

impl Input {
    /// Packs `x` `[rows, inputs]`.
    ///
    /// # Panics
    /// `x` is not of that shape.
    pub fn new(x: &[f32], rows: usize, inputs: usize, precision: Precision) -> Self {
        Self::with_kernel(x, rows, inputs, precision, Kernel::of(precision))
    }

    /// As [`new`](Self::new), for a kernel of one's own choice: for tests and measurements.
    ///
    /// # Panics
    /// `x` is not of that shape, or the kernel is not to be had here for such operands.
    pub fn with_kernel(x: &[f32], rows: usize, inputs: usize, precision: Precision, kernel: Kernel) -> Self {
        assert!(x.len() == rows * inputs);
        Self { left: Left::pack(along_rows(x, rows, inputs), precision, kernel), precision }
    }
}

impl Weight {
    /// Packs a weight.
    ///
    /// # Panics
    /// It is not of that shape.
    pub fn new(weight: &[f32], outputs: usize, inputs: usize, precision: Precision) -> Self {
        assert!(weight.len() == outputs * inputs);
        Self { right: Right::pack(along_rows(weight, outputs, inputs), precision), shape: [outputs, inputs], precision }
    }

    /// Packs a weight that is stored in bfloat16, row by row. Products are in `precision` all the same: in f32, inputs are multiplied as
    /// they are, and the weight takes half the memory that it would take in f32.
    ///
    /// # Panics
    /// It is not of that shape.
    pub fn stored(weight: &[[u8; 2]], outputs: usize, inputs: usize, precision: Precision) -> Self {
        assert!(weight.len() == outputs * inputs);
        Self { right: Right::pack_stored(along_rows(weight, outputs, inputs)), shape: [outputs, inputs], precision }
    }

    /// In which it multiplies.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// Outputs and inputs.
    pub fn shape(&self) -> &[usize; 2] {
        &self.shape
    }

    /// `onto + x wᵀ` for `x` `[rows, inputs]`: what a linear computes, `[rows, outputs]`.
    ///
    /// # Panics
    /// `x` or `onto` is not of that shape, or `x` is packed for other operands.
    pub fn product(&self, x: &Input, onto: Option<&[f32]>) -> Vec<f32> {
        let ((rows, inputs), outputs) = (x.left.shape(), self.shape[0]);
        assert!(inputs == self.shape[1] && x.precision == self.precision);
        assert!(onto.is_none_or(|onto| onto.len() == rows * outputs));
        // Pages of fresh memory are touched by all threads.
        const PIECE: usize = 1 << 16;
        let (mut out, how) = match onto {
            None => (by_pieces(rows * outputs, PIECE, |_, _| ()), Onto::Nothing),
            Some(onto) => (copied_by_pieces(onto, PIECE, |_, _| ()), Onto::Values),
        };
        let whole = Whole { columns: outputs, onto: how, part: Part::All, by: By::AllThreads };
        run(&mut out, &x.left, &self.right, whole);
        out
    }
}

fn along_rows<E>(x: &[E], rows: usize, columns: usize) -> Packing<'_, E> {
    Packing { x, layout: Layout::dense(rows, columns), sum: Sum::AlongRows, by: By::AllThreads }
}

/// Adds `xᵀx` of `x` `[tokens, n]` to `to` `[n, n]`, on and above the diagonal; below it, `to` means nothing afterwards.
///
/// # Panics
/// The shapes do not fit.
pub fn add_gram(to: &mut [f32], x: &[f32], n: usize, precision: Precision) {
    add_gram_with_kernel(to, x, n, precision, Kernel::of(precision));
}

/// As [`add_gram`], by a kernel of one's own choice.
pub(crate) fn add_gram_with_kernel(to: &mut [f32], x: &[f32], n: usize, precision: Precision, kernel: Kernel) {
    assert!(to.len() == n * n && n > 0 && x.len().is_multiple_of(n));
    let from = Packing { x, layout: Layout::dense(x.len() / n, n), sum: Sum::DownColumns, by: By::AllThreads };
    let (left, right) = (Left::pack(from, precision, kernel), Right::pack(from, precision));
    run(to, &left, &right, Whole { columns: n, onto: Onto::Values, part: Part::Upper, by: By::AllThreads });
}

#[cfg(test)]
mod tests;
