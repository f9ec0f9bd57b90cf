//! Square matrices in f64.

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

use crate::RotationError;

/// Rows that one task multiplies: fixed, so that results do not depend on the number of threads.
const ROWS: usize = 64;

/// A square matrix, by rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Square {
    size: usize,
    values: Vec<f64>,
}

impl Square {
    /// A matrix from its rows.
    ///
    /// # Errors
    /// There are not `size * size` values.
    pub fn new(size: usize, values: Vec<f64>) -> Result<Self, RotationError> {
        if size == 0 || values.len() != size * size {
            return Err(RotationError::NotSquare { size, found: values.len() });
        }
        Ok(Self { size, values })
    }

    /// The identity.
    pub fn identity(size: usize) -> Self {
        let one = |i: usize| if i / size == i % size { 1.0 } else { 0.0 };
        Self { size, values: (0..size * size).map(one).collect() }
    }

    /// Rows and columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The entries by rows.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// The largest entry of |RᵀR - I|.
    pub fn deviation(&self) -> f64 {
        let transposed = transpose(&self.values, self.size);
        let mut product = transposed.clone();
        multiply_rows(&mut product, self);
        let off = |(i, value): (usize, &f64)| (value - if i / self.size == i % self.size { 1.0 } else { 0.0 }).abs();
        // A NaN must not pass for a small number.
        product.iter().enumerate().map(off).fold(0.0, |most, d| if d > most || d.is_nan() { d } else { most })
    }
}

impl Square {
    /// Adds AᵀB, where A and B are matrices whose rows have this matrix's size.
    ///
    /// # Errors
    /// A and B are not of one shape, or cannot be cut into rows.
    pub fn add_product(&mut self, a: &[f64], b: &[f64]) -> Result<(), RotationError> {
        let n = self.size;
        if a.len() != b.len() || !a.len().is_multiple_of(n) {
            return Err(RotationError::DoesNotDivide { size: n, length: a.len().max(b.len()) });
        }
        let rows = a.len() / n;
        let (a, b) = (MatRef::from_row_major_slice(a, rows, n), MatRef::from_row_major_slice(b, rows, n));
        self.values.par_chunks_mut(ROWS * n).enumerate().for_each(|(index, values)| {
            let count = values.len() / n;
            let left = a.subcols(index * ROWS, count).transpose();
            matmul(MatMut::from_row_major_slice_mut(values, count, n), Accum::Add, left, b, 1.0, Par::Seq);
        });
        Ok(())
    }
}

/// x R for every chunk x of R's size.
pub(crate) fn multiply_rows(rows: &mut [f64], matrix: &Square) {
    let n = matrix.size;
    let right = MatRef::from_row_major_slice(&matrix.values, n, n);
    rows.par_chunks_mut(ROWS * n).for_each(|rows| {
        let left = rows.to_vec();
        let count = rows.len() / n;
        let left = MatRef::from_row_major_slice(&left, count, n);
        matmul(MatMut::from_row_major_slice_mut(rows, count, n), Accum::Replace, left, right, 1.0, Par::Seq);
    });
}

/// The transpose of a matrix whose rows have `columns` numbers.
pub fn transpose<T: Copy + Send + Sync>(values: &[T], columns: usize) -> Vec<T> {
    const BLOCK: usize = 32;
    let rows = values.len() / columns.max(1);
    let mut out = values.to_vec();
    out.par_chunks_mut((BLOCK * rows).max(1)).enumerate().for_each(|(index, out)| {
        let first = index * BLOCK;
        let width = out.len() / rows.max(1);
        for row in 0..rows {
            for column in 0..width {
                out[column * rows + row] = values[row * columns + first + column];
            }
        }
    });
    out
}
