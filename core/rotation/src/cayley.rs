//! A step of gradient descent that stays a rotation.
//!
//! Li, Fuxin, Todorovic 2020, "Efficient Riemannian optimization on the Stiefel manifold via the Cayley transform"
//! (arXiv:2002.01113), as SpinQuant uses it (Liu et al. 2024, arXiv:2405.16406), without momentum. Let R → R (I + X) be a small
//! change and Z = ∂L/∂X, so that ∂L/∂R = R Z. For square R their skew matrix comes to W = (Z - Zᵀ) / 2, and the step is
//!
//! ```text
//! Rᵀ ← (I - α/2 W)⁻¹ (I + α/2 W) Rᵀ,    α = min(η, 1 / (‖W‖₁ + 1e-8)),    ‖W‖₁ the largest column sum of |W|
//! ```
//!
//! They approach the inverse by five fixed-point iterations, which lets R drift until it is no rotation; here it is solved, in
//! f64. The transform of a skew matrix is orthogonal to rounding.

use faer::linalg::solvers::Solve;
use faer::{Mat, MatRef};

use crate::{RotationError, Square, orthogonal_factor};

/// Past this a rotation is replaced by its nearest orthogonal factor: only rounding over very many steps leads there.
const DRIFT: f64 = 1e-10;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CayleyStep {
    /// α, after the cap.
    pub step_size: f64,
    /// The norm of the gradient along the rotations, ‖W‖ in the sense of the sum of squares.
    pub gradient_norm: f64,
    /// The largest entry of |RᵀR - I| behind the step.
    pub deviation: f64,
}

/// Steps down the gradient `z` = ∂L/∂X at R (I + X), X = 0, at a learning rate.
///
/// # Errors
/// The gradient is not finite, or the sizes differ.
pub fn cayley_step(rotation: &mut Square, z: &Square, learning_rate: f64) -> Result<CayleyStep, RotationError> {
    let n = rotation.size();
    if z.size() != n {
        return Err(RotationError::NotSquare { size: n, found: z.values().len() });
    }
    let z = MatRef::from_row_major_slice(z.values(), n, n);
    let skew = Mat::from_fn(n, n, |i, j| 0.5 * (z[(i, j)] - z[(j, i)]));
    let column = |j: usize| (0..n).map(|i| skew[(i, j)].abs()).sum::<f64>();
    let norm = (0..n).map(column).fold(0.0, |most: f64, sum| if sum > most || sum.is_nan() { sum } else { most });
    if !norm.is_finite() {
        return Err(RotationError::Decomposition { size: n });
    }
    let step_size = learning_rate.min(1.0 / (norm + 1e-8));
    let part =
        |sign: f64| Mat::from_fn(n, n, |i, j| f64::from(u8::from(i == j)) + sign * 0.5 * step_size * skew[(i, j)]);
    let turned = MatRef::from_row_major_slice(rotation.values(), n, n).transpose();
    let next = part(-1.0).partial_piv_lu().solve(part(1.0) * turned);
    let mut made = Square::new(n, (0..n * n).map(|at| next[(at % n, at / n)]).collect())?;
    let mut deviation = made.deviation();
    if deviation.is_nan() || deviation > DRIFT {
        made = orthogonal_factor(&made)?;
        deviation = made.deviation();
    }
    *rotation = made;
    let squares = (0..n).map(|j| (0..n).map(|i| skew[(i, j)] * skew[(i, j)]).sum::<f64>()).sum::<f64>();
    Ok(CayleyStep { step_size, gradient_norm: squares.sqrt(), deviation })
}
