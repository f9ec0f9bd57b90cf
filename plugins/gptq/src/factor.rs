//! The factor of the inverse Hessian, which the linears of a site share.

use faer::{
    Mat, Par,
    dyn_stack::{MemBuffer, MemStack},
    linalg::{
        cholesky::llt::factor::{LltParams, cholesky_in_place, cholesky_in_place_scratch},
        triangular_solve::solve_lower_triangular_in_place,
    },
};
use workbench_api::sdk::Error;

use crate::order::ActOrder;

/// What the columns of a weight are rounded with: the order, and the upper triangular `U` with `UᵀU = (H + λI)⁻¹`, where
/// `H = 2/n XᵀX` over `n` tokens, rows and columns in that order.
pub struct Factor {
    /// Column of the weight that is rounded at each position.
    pub(crate) order: Vec<usize>,
    /// `[columns, columns]` row by row.
    pub(crate) upper: Vec<f32>,
    /// Whether the input channel at a position was zero for all tokens.
    pub(crate) dead: Vec<bool>,
    /// λ over the mean of H's diagonal.
    pub dampening: f64,
    /// How often it had to be doubled before the matrix was positive definite.
    pub raised: u32,
}

/// Why there is no factor.
#[derive(Debug)]
pub enum Failure {
    /// What was given does not belong together.
    Input(Error),
    /// The inputs tell nothing that the columns could be rounded by. Says what they are, as the end of a sentence.
    Unusable(String),
}

/// Dampening past which the Hessian decides nothing any more.
const LARGEST_DAMPENING: f64 = 1.0;

impl Factor {
    /// Factors the Gram matrix `XᵀX` `[columns, columns]` of `tokens` tokens. Where the dampened matrix is not positive
    /// definite, the dampening is doubled until it is.
    ///
    /// The product is computed in f64. With J the reversal of an axis, `J(H + λI)J = LLᵀ` makes `JLJ` an upper triangular
    /// factor of `H + λI` and its inverse the `U` that is wanted: one factorization and one triangular inverse, where the
    /// original takes a factorization, an inverse, and another factorization.
    ///
    /// A channel that is zero for all tokens correlates with none: it is compensated by nothing and compensates nothing, so that
    /// its column is rounded to nearest whatever its weights are.
    ///
    /// # Errors
    /// [`Failure::Unusable`] where every channel is zero, a value is not finite, or the matrix is not positive definite even with
    /// a dampening of 1; [`Failure::Input`] where sizes do not fit.
    pub fn new(
        gram: &[f32],
        columns: usize,
        tokens: f64,
        dampening: f64,
        order: ActOrder,
        group: usize,
    ) -> Result<Self, Failure> {
        if gram.len() != columns * columns || tokens.is_nan() || tokens < 1.0 {
            let message = format!("{} values of {tokens} tokens for {columns} channels", gram.len());
            return Err(Failure::Input(Error::input(message)));
        }
        if let Some(bad) = gram.iter().position(|v| !v.is_finite()) {
            let message = format!("the Hessian is not finite at channels {} and {}", bad / columns, bad % columns);
            return Err(Failure::Unusable(message));
        }
        let energy: Vec<f64> = (0..columns).map(|i| f64::from(gram[i * (columns + 1)]) * 2.0 / tokens).collect();
        let alive = energy.iter().filter(|e| **e > 0.0).count();
        if alive == 0 {
            return Err(Failure::Unusable("the input is zero for every calibration token".to_owned()));
        }
        let mean = energy.iter().sum::<f64>() / alive as f64;
        let order = order.columns(&energy, group);
        let dead: Vec<bool> = order.iter().map(|column| energy[*column] <= 0.0).collect();
        // The matrix is symmetric and faer goes down its columns: this way round a column is read from one row of the Gram matrix.
        let at = |i: usize, j: usize| f64::from(gram[order[j] * columns + order[i]]) * 2.0 / tokens;

        let (mut share, mut raised) = (dampening, 0);
        let factor = loop {
            let reversed = Mat::from_fn(columns, columns, |i, j| {
                let (i, j) = (columns - 1 - i, columns - 1 - j);
                match i == j {
                    // A dead channel has nothing to compensate and is compensated by nothing; any energy serves.
                    true if dead[i] => mean,
                    true => at(i, j) + share * mean,
                    false => at(i, j),
                }
            });
            match cholesky(reversed) {
                Some(factor) => break factor,
                None if share < LARGEST_DAMPENING => {
                    share = (2.0 * share).clamp(1e-3, LARGEST_DAMPENING);
                    raised += 1;
                }
                None => {
                    let message = format!("the Hessian is not positive definite even with a dampening of {share}");
                    return Err(Failure::Unusable(message));
                }
            }
        };
        Ok(Self { order, upper: reversed_inverse(&factor), dead, dampening: share, raised })
    }
}

impl Factor {
    /// The input channels that were zero for all tokens, from left to right.
    pub fn silent(&self) -> Vec<usize> {
        let dead = self.order.iter().zip(&self.dead).filter(|(_, dead)| **dead);
        let mut channels: Vec<usize> = dead.map(|(column, _)| *column).collect();
        channels.sort_unstable();
        channels
    }
}

/// Columns of the inverse that are computed together: no second matrix in f64 has to exist.
const SOLVED: usize = 128;

/// `J L⁻¹ J` row by row, in f32.
fn reversed_inverse(lower: &Mat<f64>) -> Vec<f32> {
    let n = lower.nrows();
    let mut upper = vec![0.0; n * n];
    for start in (0..n).step_by(SOLVED) {
        // Above its diagonal a column of the inverse is zero, so that the rows from `start` on are a system of their own.
        let width = SOLVED.min(n - start);
        let mut columns = Mat::from_fn(n - start, width, |i, j| if i == j { 1.0 } else { 0.0 });
        let system = lower.as_ref().submatrix(start, start, n - start, n - start);
        solve_lower_triangular_in_place(system, columns.as_mut(), threads());
        for i in 0..n - start {
            let row = &mut upper[(n - 1 - start - i) * n..][..n];
            for j in 0..width.min(i + 1) {
                row[n - 1 - start - j] = columns[(i, j)] as f32;
            }
        }
    }
    upper
}

fn threads() -> Par {
    match rayon::current_num_threads() {
        1 => Par::Seq,
        n => Par::rayon(n),
    }
}

/// The lower triangular factor; `None` for a matrix that is not positive definite.
fn cholesky(mut matrix: Mat<f64>) -> Option<Mat<f64>> {
    let n = matrix.nrows();
    let parameters = faer::Spec::<LltParams, f64>::default();
    let mut memory = MemBuffer::new(cholesky_in_place_scratch::<f64>(n, threads(), parameters));
    let stack = MemStack::new(&mut memory);
    cholesky_in_place(matrix.as_mut(), Default::default(), threads(), stack, parameters).ok()?;
    Some(matrix)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A Gram matrix of `tokens` pseudo-random tokens with channels of unequal energy.
    pub(crate) fn gram(tokens: usize, n: usize) -> Vec<f32> {
        let mut state = 7_u32;
        let mut draw = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(state >> 8) / f64::from(1 << 23) - 1.0
        };
        let x: Vec<Vec<f64>> =
            (0..tokens).map(|_| (0..n).map(|j| draw() * (1.0 + (j * j % 7) as f64)).collect()).collect();
        let product = |i: usize, j: usize| x.iter().map(|row| row[i] * row[j]).sum::<f64>() as f32;
        (0..n * n).map(|k| product(k / n, k % n)).collect()
    }

    #[test]
    fn the_factor_inverts_the_hessian() {
        let (n, tokens) = (37, 90);
        let gram = gram(tokens, n);
        for order in [ActOrder::None, ActOrder::Static, ActOrder::GroupAware] {
            let factor = Factor::new(&gram, n, tokens as f64, 0.01, order, 8).unwrap();
            let h = |i: usize, j: usize| f64::from(gram[factor.order[i] * n + factor.order[j]]) * 2.0 / tokens as f64;
            let mean = (0..n).map(|i| h(i, i)).sum::<f64>() / n as f64;
            // (H + λI) UᵀU = I.
            for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let u = |r: usize, c: usize| f64::from(factor.upper[r * n + c]);
                let inverse = |k: usize| (0..n).map(|r| u(r, k) * u(r, j)).sum::<f64>();
                let dampened = |k: usize| h(i, k) + if i == k { 0.01 * mean } else { 0.0 };
                let sum: f64 = (0..n).map(|k| dampened(k) * inverse(k)).sum();
                assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-4, "{order:?} {i} {j}: {sum}");
            }
            assert!((0..n).all(|i| (0..i).all(|j| factor.upper[i * n + j] == 0.0)));
        }
    }

    #[test]
    fn an_inverse_of_several_pieces_is_the_inverse() {
        let n = 2 * SOLVED + 45;
        let at = |i: usize, j: usize| if i == j { 2.0 } else { ((i * 7 + j * 3) % 11) as f64 / 11.0 / n as f64 };
        let lower = Mat::from_fn(n, n, |i, j| if i < j { 0.0 } else { at(i, j) });
        let upper = reversed_inverse(&lower);
        let inverse = |i: usize, j: usize| f64::from(upper[(n - 1 - i) * n + n - 1 - j]);
        for (i, j) in (0..n).flat_map(|i| (0..n).map(move |j| (i, j))) {
            let sum: f64 = (j..=i.max(j)).map(|k| inverse(i, k) * lower[(k, j)]).sum();
            assert!((sum - f64::from(u8::from(i == j))).abs() < 1e-6, "{i} {j}: {sum}");
            assert!(i >= j || inverse(i, j) == 0.0);
        }
    }

    #[test]
    fn a_dead_channel_is_left_alone() {
        let n = 12;
        let mut gram = gram(40, n);
        for k in 0..n {
            (gram[5 * n + k], gram[k * n + 5]) = (0.0, 0.0);
        }
        let factor = Factor::new(&gram, n, 40.0, 0.01, ActOrder::Static, 4).unwrap();
        let at = factor.order.iter().position(|column| *column == 5).unwrap();
        assert!(factor.dead[at] && factor.silent() == [5]);
        assert_eq!(at, n - 1);
    }

    #[test]
    fn dampening_is_raised_until_the_matrix_is_positive_definite() {
        let n = 6;
        // Correlations beyond 1, as rounding errors make them.
        let mut gram: Vec<f32> = vec![1.05; n * n];
        (0..n).for_each(|i| gram[i * (n + 1)] = 1.0);
        let factor = Factor::new(&gram, n, 2.0, 0.01, ActOrder::None, n).unwrap();
        assert!(factor.raised > 0 && factor.dampening > 0.05, "{} {}", factor.raised, factor.dampening);
        let mut worse = vec![3.0; n * n];
        (0..n).for_each(|i| worse[i * (n + 1)] = 1.0);
        assert!(Factor::new(&worse, n, 2.0, 0.01, ActOrder::None, n).is_err());
    }

    #[test]
    fn what_tells_nothing_is_no_factor() {
        let unusable = |gram: &[f32]| match Factor::new(gram, 2, 3.0, 0.01, ActOrder::None, 2) {
            Err(Failure::Unusable(reason)) => reason,
            Err(Failure::Input(error)) => panic!("{error}"),
            Ok(_) => panic!("{gram:?} was factored"),
        };
        assert!(unusable(&[1.0, f32::NAN, 0.0, 1.0]).contains("channels 0 and 1"));
        assert!(unusable(&[1.0, 0.0, 0.0, f32::INFINITY]).contains("channels 1 and 1"));
        assert_eq!(unusable(&[0.0; 4]), "the input is zero for every calibration token");
        assert!(unusable(&[1.0, 9.0, 9.0, 1.0]).contains("not positive definite"));
        let wrong = [(3, 3.0), (4, 0.0), (4, f64::NAN)].map(|(n, tokens)| {
            matches!(Factor::new(&vec![1.0; n], 2, tokens, 0.01, ActOrder::None, 2), Err(Failure::Input(_)))
        });
        assert_eq!(wrong, [true; 3]);
    }

    /// The Hessian of one token has rank one, and energies may lie orders of magnitude apart.
    #[test]
    fn one_token_and_hardly_excited_channels_have_a_factor() {
        for x in [[1.0_f32, -2.0, 3.0], [1e-18, 1.0, 1e-6], [1e-18, 2e-18, -1e-18], [1e18, 1.0, 1e-18]] {
            let gram: Vec<f32> = (0..9).map(|k| x[k / 3] * x[k % 3]).collect();
            for dampening in [0.0, 0.01] {
                let factor = Factor::new(&gram, 3, 1.0, dampening, ActOrder::Static, 3).unwrap();
                assert!(factor.upper.iter().all(|u| u.is_finite()), "{x:?}");
                assert!((0..3).all(|i| factor.upper[i * 4] > 0.0), "{x:?}");
            }
        }
    }
}
