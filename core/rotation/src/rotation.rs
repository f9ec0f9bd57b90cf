//! A rotation that can be applied to activations, weights and biases.

use rayon::prelude::*;

use crate::dense::multiply_rows;
use crate::{Hadamard, RotationError, Square, random_orthogonal, random_signs, transpose};

/// Numbers that one task rotates, at least one row.
const PIECE: usize = 1 << 15;

/// The largest entry of |RᵀR - I| that a matrix may have to be taken for a rotation.
const ORTHOGONAL: f64 = 1e-6;

/// R, of size n: rows x go to x R.
#[derive(Clone, Debug)]
pub enum Rotation {
    /// R = diag(s) Hᵀ / √n: signs, then a Hadamard matrix.
    Hadamard {
        /// H.
        hadamard: Hadamard,
        /// Whether each sign is -1; without them all are 1.
        negative: Option<Vec<bool>>,
    },
    /// Any orthogonal matrix.
    Dense(Square),
}

impl Rotation {
    /// The Hadamard matrix of a size.
    ///
    /// # Errors
    /// There is no such matrix.
    pub fn hadamard(size: usize) -> Result<Self, RotationError> {
        Ok(Self::Hadamard { hadamard: Hadamard::new(size)?, negative: None })
    }

    /// A Hadamard matrix behind random signs (QuaRot, Ashkboos et al. 2024, arXiv:2404.00456, section 3).
    ///
    /// # Errors
    /// There is no Hadamard matrix of this size.
    pub fn random_hadamard(size: usize, seed: u64, stream: u64) -> Result<Self, RotationError> {
        let hadamard = Hadamard::new(size)?;
        Ok(Self::Hadamard { hadamard, negative: Some(random_signs(size, seed, stream)) })
    }

    /// An orthogonal matrix from the uniform distribution.
    ///
    /// # Errors
    /// The size is zero.
    pub fn random_orthogonal(size: usize, seed: u64, stream: u64) -> Result<Self, RotationError> {
        random_orthogonal(size, seed, stream).map(Self::Dense)
    }

    /// A given matrix.
    ///
    /// # Errors
    /// It is not orthogonal to 1e-6.
    pub fn dense(matrix: Square) -> Result<Self, RotationError> {
        let deviation = matrix.deviation();
        if deviation.is_nan() || deviation > ORTHOGONAL {
            return Err(RotationError::NotOrthogonal { deviation });
        }
        Ok(Self::Dense(matrix))
    }

    /// Its size n.
    pub fn size(&self) -> usize {
        match self {
            Self::Hadamard { hadamard, .. } => hadamard.size(),
            Self::Dense(matrix) => matrix.size(),
        }
    }

    /// x R for every chunk x of n numbers: activations, the input side of a weight `[outputs, inputs]` (W ← W R), a bias.
    ///
    /// # Errors
    /// `rows` cannot be cut into chunks of n.
    pub fn rows(&self, rows: &mut [f64]) -> Result<(), RotationError> {
        let n = self.size();
        if !rows.len().is_multiple_of(n) {
            return Err(RotationError::DoesNotDivide { size: n, length: rows.len() });
        }
        match self {
            Self::Dense(matrix) => multiply_rows(rows, matrix),
            Self::Hadamard { hadamard, negative } => {
                let piece = n * (PIECE / n).max(1);
                rows.par_chunks_mut(piece).for_each(|rows| {
                    if let Some(negative) = negative {
                        for row in rows.chunks_exact_mut(n) {
                            row.iter_mut().zip(negative).filter(|(_, negative)| **negative).for_each(|(x, _)| *x = -*x);
                        }
                    }
                    hadamard.rotate(rows);
                });
            }
        }
        Ok(())
    }

    /// Rᵀ W for every n rows of a matrix with `columns` columns: the output side of a weight.
    ///
    /// # Errors
    /// The rows of `matrix` cannot be cut into groups of n.
    pub fn columns(&self, matrix: &mut [f64], columns: usize) -> Result<(), RotationError> {
        let (n, rows) = (self.size(), matrix.len() / columns.max(1));
        if !rows.is_multiple_of(n) {
            return Err(RotationError::DoesNotDivide { size: n, length: rows });
        }
        // Column c of Rᵀ W is (cᵀ R)ᵀ.
        let mut turned = transpose(matrix, columns);
        self.rows(&mut turned)?;
        matrix.copy_from_slice(&transpose(&turned, rows));
        Ok(())
    }

    /// The matrix R.
    ///
    /// # Errors
    /// None for a rotation that was constructed; the signature is that of [`rows`](Self::rows).
    pub fn matrix(&self) -> Result<Square, RotationError> {
        if let Self::Dense(matrix) = self {
            return Ok(matrix.clone());
        }
        let n = self.size();
        let mut rows = Square::identity(n).values().to_vec();
        self.rows(&mut rows)?;
        Square::new(n, rows)
    }
}
