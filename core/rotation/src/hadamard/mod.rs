//! Hadamard matrices: square, entries ±1, rows orthogonal.
//!
//! A matrix of size n = K 2^m is H_K ⊗ H_2^m. H_2^m is Sylvester's matrix, in natural order, whose product takes m n
//! additions. H_K, with K = 1 or a multiple of four, is the smallest that [`base`] can construct. Products have the order of
//! QuaRot's `matmul_hadU`: index i of a row is i = k 2^m + j, and y = x Hᵀ / √n.

mod base;
mod field;
mod turyn;

use std::sync::Arc;

use crate::RotationError;
use crate::kernel::Real;

use base::base_order_exists;

/// The largest K for which H_K is looked for: its product costs K additions a number, and its signs K² numbers of memory.
const LARGEST_BASE: usize = 4096;

/// A normalised Hadamard matrix H / √n.
#[derive(Clone, Debug)]
pub struct Hadamard {
    base: Arc<Base>,
    power: usize,
}

/// H_K by rows, as signs.
#[derive(Debug, PartialEq)]
struct Base {
    order: usize,
    negative: Vec<bool>,
}

impl Hadamard {
    /// The matrix of a size.
    ///
    /// # Errors
    /// [`RotationError::NoHadamard`] if no construction gives one, with the largest block size that would do.
    pub fn new(size: usize) -> Result<Self, RotationError> {
        let Some(order) = base_order(size) else {
            return Err(RotationError::NoHadamard { size, block: largest_block(size) });
        };
        let negative = base::matrix(order).ok_or(RotationError::NoHadamard { size, block: 1 })?;
        Ok(Self { base: Arc::new(Base { order, negative }), power: size / order })
    }

    /// Rows and columns, n.
    pub fn size(&self) -> usize {
        self.base.order * self.power
    }

    /// The order K of the matrix that is no power of two; 1 if the size is one.
    pub fn base_order(&self) -> usize {
        self.base.order
    }

    /// The sign of an entry of H.
    pub fn is_negative(&self, row: usize, column: usize) -> bool {
        let (k, i) = (self.base.order, self.power);
        // The entry of Sylvester's matrix is -1 to the number of bits that both indices have.
        let odd = ((row % i) & (column % i)).count_ones() % 2 == 1;
        self.base.negative[row / i * k + column / i] != odd
    }

    /// y = x Hᵀ / √n for every chunk x of n numbers.
    pub fn rotate<T: Real>(&self, rows: &mut [T]) {
        self.each(rows, |k, i| self.base.negative[k * self.base.order + i]);
    }

    /// y = x H / √n for every chunk x of n numbers: the inverse of [`rotate`](Self::rotate).
    pub fn rotate_back<T: Real>(&self, rows: &mut [T]) {
        self.each(rows, |k, i| self.base.negative[i * self.base.order + k]);
    }

    fn each<T: Real>(&self, rows: &mut [T], negative: impl Fn(usize, usize) -> bool) {
        let (order, size) = (self.base.order, self.size());
        let scale = T::from_f64(1.0 / (size as f64).sqrt());
        if order == 1 {
            rows.chunks_exact_mut(size).for_each(|row| T::walsh_hadamard(row, size, scale));
            return;
        }
        let sign = |(k, i)| T::from_f64(if negative(k, i) { -1.0 } else { 1.0 });
        let signs: Vec<T> = (0..order).flat_map(|k| (0..order).map(move |i| (k, i))).map(sign).collect();
        let mut scratch = vec![T::from_f64(0.0); size];
        for row in rows.chunks_exact_mut(size) {
            scratch.copy_from_slice(row);
            T::walsh_hadamard(&mut scratch, self.power, scale);
            T::mix(row, &scratch, &signs, order);
        }
    }
}

/// The smallest K with size = K 2^m whose matrix can be constructed.
fn base_order(size: usize) -> Option<usize> {
    if size == 0 {
        return None;
    }
    if size.is_power_of_two() {
        return Some(1);
    }
    let odd = size >> size.trailing_zeros();
    let candidates = (2..=size.trailing_zeros()).map(|twos| odd << twos);
    candidates.take_while(|order| *order <= LARGEST_BASE).find(|order| base_order_exists(*order))
}

fn largest_block(size: usize) -> usize {
    (1..=size).rev().find(|block| size.is_multiple_of(*block) && base_order(*block).is_some()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_base_is_taken() {
        let orders = [1, 2, 64, 96, 288, 576, 2560, 9728, 11008, 12288, 13824, 14336, 17408, 25600].map(base_order);
        let expected = [1, 1, 1, 12, 36, 36, 20, 76, 172, 12, 108, 28, 68, 100].map(Some);
        assert_eq!(orders, expected);
        // Qwen2-72B, Qwen1.5-14B and a product of 28 and 68.
        let larger = [29_568, 13_696, 2 * 13_696, 16 * 1904].map(base_order);
        assert_eq!(larger, [924, 428, 428, 1904].map(Some));
        for impossible in [0, 3, 6, 10, 18, 4 * 47] {
            assert_eq!(base_order(impossible), None, "{impossible}");
        }
    }

    #[test]
    fn nearly_every_multiple_of_four_has_a_matrix() {
        let missing: Vec<usize> = (1..=64).map(|quarter| 4 * quarter).filter(|n| base_order(*n).is_none()).collect();
        assert_eq!(missing, [188, 236]);
    }

    /// Of the multiples of 512, which the sizes of models mostly are, all up to 32,768 but 59 x 512.
    #[test]
    fn the_sizes_of_models_have_a_matrix() {
        let missing: Vec<usize> = (1..=128).filter(|n| base_order(512 * n).is_none()).collect();
        assert_eq!(missing, [59, 73, 101, 109, 113, 2 * 59, 127]);
    }

    #[test]
    fn a_size_without_a_matrix_names_a_block() {
        let error = Hadamard::new(3 * 64 + 2).unwrap_err();
        assert_eq!(error, RotationError::NoHadamard { size: 194, block: 2 });
        assert!(error.hint().unwrap().contains("block_size: 2"));
    }
}
