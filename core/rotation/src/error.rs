//! What can be wrong with a rotation.

/// A rotation that does not exist or does not fit.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RotationError {
    /// No construction at hand gives a Hadamard matrix of this size.
    #[error("{}", no_hadamard(*size))]
    NoHadamard {
        /// The size that was asked for.
        size: usize,
        /// The largest block size that divides it and has one.
        block: usize,
    },
    /// A row or column cannot be cut into blocks of the rotation's size.
    #[error("a rotation of size {size} does not divide {length}")]
    DoesNotDivide {
        /// Size of the rotation.
        size: usize,
        /// What was to be rotated.
        length: usize,
    },
    /// A matrix is not square, or not of the size that it should have.
    #[error("{found} numbers are no matrix of {size} x {size}")]
    NotSquare {
        /// Rows and columns.
        size: usize,
        /// Numbers given.
        found: usize,
    },
    /// A matrix is not orthogonal.
    #[error("the matrix is not orthogonal: the largest entry of |RᵀR - I| is {deviation:.1e}")]
    NotOrthogonal {
        /// The largest entry of |RᵀR - I|.
        deviation: f64,
    },
    /// A matrix could not be decomposed.
    #[error("the decomposition of a matrix of size {size} failed")]
    Decomposition {
        /// Rows and columns.
        size: usize,
    },
}

impl RotationError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoHadamard { block, .. } if *block > 1 => {
                Some(format!("rotate in blocks: `block_size: {block}` is the largest that has one"))
            }
            _ => None,
        }
    }
}

/// Only sizes 1, 2 and multiples of four can have a matrix, and mathematics knows more of those than this crate builds.
fn no_hadamard(size: usize) -> String {
    match size.is_multiple_of(4) && size > 0 {
        true => format!("no construction at hand (Paley, Williamson, Turyn) gives a Hadamard matrix of size {size}"),
        false => format!("there is no Hadamard matrix of size {size}: beyond 1 and 2, sizes are multiples of 4"),
    }
}
