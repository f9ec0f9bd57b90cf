//! Seeded draws. Every tensor of a model draws from a stream of its own, so that its rotation depends on the seed and its place
//! alone.

use faer::Mat;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{RotationError, Square};

fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(stream);
    generator
}

/// Fair signs: whether each is -1.
pub fn random_signs(count: usize, seed: u64, stream: u64) -> Vec<bool> {
    let mut generator = generator(seed, stream);
    (0..count).map(|_| generator.random::<bool>()).collect()
}

/// Standard normal deviates by the Box-Muller transform.
pub fn normal(count: usize, seed: u64, stream: u64) -> Vec<f64> {
    let mut generator = generator(seed, stream);
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1], where the logarithm is finite.
        let radius = (-2.0 * (1.0 - generator.random::<f64>()).ln()).sqrt();
        let (sin, cos) = (2.0 * std::f64::consts::PI * generator.random::<f64>()).sin_cos();
        values.extend([radius * cos, radius * sin]);
    }
    values.truncate(count);
    values
}

/// An orthogonal matrix from the uniform (Haar) distribution: Q of the QR decomposition of a normal matrix, each column times
/// the sign of R's diagonal entry (Mezzadri 2007, "How to generate random matrices from the classical compact groups").
///
/// # Errors
/// The size is zero, or the decomposition fails.
pub fn random_orthogonal(size: usize, seed: u64, stream: u64) -> Result<Square, RotationError> {
    orthogonal_factor(&Square::new(size, normal(size * size, seed, stream))?)
}

/// Q of the QR decomposition whose R has a positive diagonal: the orthogonal matrix that a nearly orthogonal one retracts to.
///
/// # Errors
/// The matrix is singular or not finite.
pub fn orthogonal_factor(matrix: &Square) -> Result<Square, RotationError> {
    let n = matrix.size();
    let qr = Mat::from_fn(n, n, |row, column| matrix.values()[row * n + column]).qr();
    let (q, r) = (qr.compute_thin_Q(), qr.thin_R());
    let values: Vec<f64> = (0..n * n)
        .map(|i| (i / n, i % n))
        .map(|(row, column)| q[(row, column)] * r[(column, column)].signum())
        .collect();
    if values.iter().any(|v| !v.is_finite()) || (0..n).any(|i| r[(i, i)] == 0.0) {
        return Err(RotationError::Decomposition { size: n });
    }
    Square::new(n, values)
}
