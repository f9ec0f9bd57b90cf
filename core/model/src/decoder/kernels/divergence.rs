//! Divergences of two models' predictions over a vocabulary, row by row, and their gradients by the student's logits.
//!
//! With d = log(s / t) of a student's and a teacher's probability of a token:
//!
//! ```text
//! β = 0   KL(T‖S) = Σ -t d                                gradient by a logit: s - t
//! β = 1   KL(S‖T) = Σ s d                                                      s (d - KL(S‖T))
//! else    β KL(T‖M) + (1 - β) KL(S‖M), M = (1 - β) S + β T                     (1 - β) s (log(s / m) - KL(S‖M))
//! ```
//!
//! all of logits that are divided by the temperature, which divides the gradient once more. Everything is a function of d, which is
//! zero where the models agree: so are then the divergence and the gradient, without rounding.

use rayon::prelude::*;

use super::super::Divergence;
use super::vector::{exp, exp_and_less_one, ln, max, sums, vectorized};

/// Probabilities below count as zero, and zero times the logarithm of zero as zero.
const NOTHING: f32 = 1e-30;

/// How `β` weighs.
#[derive(Clone, Copy)]
enum Kind {
    Forward,
    Reverse,
    /// β and 1 - β.
    Mixture(f32, f32),
}

impl Kind {
    fn of(divergence: Divergence) -> Self {
        match divergence.beta {
            0.0 => Self::Forward,
            1.0 => Self::Reverse,
            beta => Self::Mixture(beta as f32, (1.0 - beta) as f32),
        }
    }
}

/// The largest logit of a row, and log(sum(e^((x - largest) / temperature))).
#[derive(Clone, Copy)]
pub(crate) struct Normalizer {
    pub(crate) most: f32,
    pub(crate) log: f64,
}

vectorized! {
    /// Of one row; `inverse` is 1 / temperature.
    pub(crate) fn normalizer(row: &[f32], inverse: f32) -> Normalizer {
        let most = max(row);
        let [total] = sums(row, row, |x, _| [exp((x - most) * inverse)]);
        Normalizer { most, log: total.ln() }
    }
}

/// What turns a pair of logits into probabilities.
#[derive(Clone, Copy)]
struct Pair {
    /// 1 / temperature.
    inverse: f32,
    /// The largest logits, and the logarithms of the sums.
    student: (f32, f32),
    teacher: (f32, f32),
    /// The difference of the logarithms.
    shift: f32,
}

impl Pair {
    fn new(student: &[f32], teacher: &[f32], inverse: f32) -> Self {
        let (s, t) = (normalizer(student, inverse), normalizer(teacher, inverse));
        let shift = (s.log - t.log) as f32;
        Self { inverse, student: (s.most, s.log as f32), teacher: (t.most, t.log as f32), shift }
    }

    #[inline(always)]
    fn student(&self, logit: f32) -> f32 {
        exp((logit - self.student.0) * self.inverse - self.student.1)
    }

    #[inline(always)]
    fn teacher(&self, logit: f32) -> f32 {
        exp((logit - self.teacher.0) * self.inverse - self.teacher.1)
    }

    /// log(s / t). By the distances from the largest logits, which are small where probabilities are large.
    #[inline(always)]
    fn difference(&self, student: f32, teacher: f32) -> f32 {
        ((student - self.student.0) - (teacher - self.teacher.0)) * self.inverse - self.shift
    }
}

#[inline(always)]
fn times(probability: f32, x: f32) -> f32 {
    if probability < NOTHING { 0.0 } else { probability * x }
}

/// log(m / t) and log(m / s) for m = (1 - β) s + β t and d = log(s / t).
///
/// m by the larger of s and t is `own + other * e^-|d|`; the two weights add up to one, so that it is close to one where d is
/// small: there the logarithm is taken of what it lacks.
#[inline(always)]
fn logs_of_mixture(d: f32, beta: f32, rest: f32) -> (f32, f32) {
    let size = d.abs();
    let (e, less_one) = exp_and_less_one(-size);
    let (own, other) = if d <= 0.0 { (beta, rest) } else { (rest, beta) };
    let lack = other * less_one;
    let close = lack > -0.5;
    let y = if close { 1.0 + lack } else { own + other * e };
    let y = if y < f32::MIN_POSITIVE { f32::MIN_POSITIVE } else { y };
    let lost = if close { (lack - (y - 1.0)) / y } else { 0.0 };
    let log = ln(y) + lost;
    if d <= 0.0 { (log, log + size) } else { (log + size, log) }
}

vectorized! {
    /// The divergence of a row, and KL(S‖T) or KL(S‖M), which its gradient asks for.
    fn divergence_of(student: &[f32], teacher: &[f32], pair: Pair, kind: Kind) -> (f64, f64) {
        match kind {
            Kind::Forward => {
                let [kl] = sums(student, teacher, |s, t| [times(pair.teacher(t), -pair.difference(s, t))]);
                (kl, 0.0)
            }
            Kind::Reverse => {
                let [kl] = sums(student, teacher, |s, t| [times(pair.student(s), pair.difference(s, t))]);
                (kl, kl)
            }
            Kind::Mixture(beta, rest) => {
                // One sum at a time: two in one loop are not made vector code of, and take four times as long.
                let [of_teacher] = sums(student, teacher, |s, t| {
                    let (by_teacher, _) = logs_of_mixture(pair.difference(s, t), beta, rest);
                    [times(pair.teacher(t), -by_teacher)]
                });
                let [of_student] = sums(student, teacher, |s, t| {
                    let (_, by_student) = logs_of_mixture(pair.difference(s, t), beta, rest);
                    [times(pair.student(s), -by_student)]
                });
                (f64::from(beta) * of_teacher + f64::from(rest) * of_student, of_student)
            }
        }
    }
}

vectorized! {
    /// `factor` times the gradient by a row's logits, in their place.
    fn gradient_of(student: &mut [f32], teacher: &[f32], pair: Pair, kind: Kind, kl: f32, factor: f32) {
        let both = student.iter_mut().zip(teacher);
        match kind {
            Kind::Forward => both.for_each(|(s, t)| *s = factor * (pair.student(*s) - pair.teacher(*t))),
            Kind::Reverse => both.for_each(|(s, t)| {
                let d = pair.difference(*s, *t);
                *s = factor * times(pair.student(*s), d - kl);
            }),
            Kind::Mixture(beta, rest) => both.for_each(|(s, t)| {
                let (_, by_student) = logs_of_mixture(pair.difference(*s, *t), beta, rest);
                *s = factor * rest * times(pair.student(*s), -by_student - kl);
            }),
        }
    }
}

/// 1 / temperature.
fn inverse(divergence: Divergence) -> f32 {
    (1.0 / divergence.temperature) as f32
}

/// Per row the weighted divergence of logits `[n, vocabulary]`. A row of weight zero is not looked at.
pub(crate) fn losses(
    student: &[f32],
    teacher: &[f32],
    vocabulary: usize,
    weights: &[f32],
    divergence: Divergence,
) -> Vec<f64> {
    let (kind, inverse) = (Kind::of(divergence), inverse(divergence));
    let rows = student.par_chunks_exact(vocabulary).zip(teacher.par_chunks_exact(vocabulary)).zip(weights);
    rows.map(|((student, teacher), &weight)| {
        if weight == 0.0 {
            return 0.0;
        }
        let pair = Pair::new(student, teacher, inverse);
        f64::from(weight) * divergence_of(student, teacher, pair, kind).0
    })
    .collect()
}

/// As [`losses`]; the student's logits become the gradient of their sum.
pub(crate) fn losses_and_gradient(
    student: &mut [f32],
    teacher: &[f32],
    vocabulary: usize,
    weights: &[f32],
    divergence: Divergence,
) -> Vec<f64> {
    let (kind, inverse) = (Kind::of(divergence), inverse(divergence));
    let rows = student.par_chunks_exact_mut(vocabulary).zip(teacher.par_chunks_exact(vocabulary)).zip(weights);
    rows.map(|((student, teacher), &weight)| {
        if weight == 0.0 {
            student.fill(0.0);
            return 0.0;
        }
        let pair = Pair::new(student, teacher, inverse);
        let (value, kl) = divergence_of(student, teacher, pair, kind);
        gradient_of(student, teacher, pair, kind, kl as f32, weight * inverse);
        f64::from(weight) * value
    })
    .collect()
}

#[cfg(test)]
mod tests;
