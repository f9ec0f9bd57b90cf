//! Rotations of activations and weights: Hadamard matrices of every size that a model has, random ones, dense ones.
//!
//! Activations are row vectors: a [`Rotation`] R of size n takes a row x of n numbers to x R. A longer row is rotated in blocks
//! of n, which is the block-diagonal rotation. Everything is a plain function of slices: no tensors, no files.

mod cayley;
mod dense;
mod error;
mod hadamard;
mod kernel;
mod random;
mod rotation;

pub use cayley::{CayleyStep, cayley_step};
pub use dense::{Square, transpose};
pub use error::RotationError;
pub use hadamard::Hadamard;
pub use kernel::Real;
pub use random::{normal, orthogonal_factor, random_orthogonal, random_signs};
pub use rotation::Rotation;
