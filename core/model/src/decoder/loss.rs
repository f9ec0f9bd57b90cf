//! What a batch is trained to predict, and what it is trained to resemble.

use crate::ModelError;

/// Target and weight of every position of a batch, row by row.
#[derive(Clone, Debug, PartialEq)]
pub struct Targets {
    /// The token that should follow each position; any valid id where the weight is zero.
    pub ids: Vec<u32>,
    /// How much each position counts.
    pub weights: Vec<f32>,
}

impl Targets {
    /// Next-token targets of `rows` of one length: position `i` predicts token `i + 1`, and counts if `mask` is set for
    /// that token. Nothing follows the last position, which never counts. Weights are 1 over the number of positions
    /// that count, so that the weighted sum is the mean loss.
    pub fn next_token(rows: &[Vec<u32>], mask: &[Vec<bool>]) -> Self {
        Self::next_token_of(rows, mask, Self::count(mask))
    }

    /// As [`next_token`](Self::next_token), with weights of 1 / `total`: where a batch is taken in several parts, each
    /// divides by the number of positions of the whole.
    pub fn next_token_of(rows: &[Vec<u32>], mask: &[Vec<bool>], total: usize) -> Self {
        let weight = 1.0 / total.max(1) as f32;
        let (mut ids, mut weights) = (Vec::new(), Vec::new());
        for (row, mask) in rows.iter().zip(mask) {
            for i in 0..row.len() {
                let counts = mask.get(i + 1).copied().unwrap_or(false) && i + 1 < row.len();
                ids.push(if counts { row[i + 1] } else { 0 });
                weights.push(if counts { weight } else { 0.0 });
            }
        }
        Self { ids, weights }
    }

    /// Positions that count in next-token targets under a mask.
    pub fn count(mask: &[Vec<bool>]) -> usize {
        mask.iter().map(|row| row.iter().skip(1).filter(|counts| **counts).count()).sum()
    }
}

/// How far a student's predictions are from a teacher's: the generalized Jensen-Shannon divergence of Agarwal et al. 2024
/// (arXiv:2306.13649, On-Policy Distillation of Language Models), as TRL computes it.
///
/// With the mixture M = (1 - β) S + β T it is β KL(T‖M) + (1 - β) KL(S‖M), and at the ends, where that would be zero, KL(T‖S) for
/// β = 0 and KL(S‖T) for β = 1. In nats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// β, from 0 to 1.
    pub beta: f64,
    /// Both models' logits are divided by it. As in TRL, nothing is multiplied by its square in return: gradients become smaller
    /// with it.
    pub temperature: f64,
}

impl Divergence {
    /// KL(T‖S) at temperature 1.
    pub const FORWARD: Self = Self { beta: 0.0, temperature: 1.0 };

    /// An error for a β outside of [0, 1] and for a temperature that is not a positive number.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), ModelError> {
        let Self { beta, temperature } = self;
        if !(0.0..=1.0).contains(beta) {
            return Err(candle_core::Error::Msg(format!("`beta` is {beta}: it must lie between 0 and 1")).into());
        }
        // Its inverse is a factor of every logit, in f32.
        let inverse = (1.0 / temperature) as f32;
        if !(inverse.is_normal() && inverse > 0.0) {
            let message = format!("`temperature` is {temperature}: it must be a positive number");
            return Err(candle_core::Error::Msg(message).into());
        }
        Ok(())
    }
}
