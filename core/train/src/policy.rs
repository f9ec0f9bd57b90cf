//! The loss of a policy whose completions were rewarded: GRPO (Shao et al. 2024, arXiv:2402.03300) with the means of DAPO
//! (arXiv:2503.14476) and Dr. GRPO (arXiv:2503.20783), and the sequence's ratio of GSPO (arXiv:2507.18071), as TRL 1.16 computes them.
//!
//! Everything here is about numbers of tokens that are known already: what it takes to move a model by them is
//! [`Reinforced`](crate::Reinforced).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// How the losses of tokens become one number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PolicyMean {
    /// The mean over the tokens of a completion, and of these the mean: a token of a long completion counts less.
    Grpo,
    /// The mean over all tokens of a step.
    #[default]
    Dapo,
    /// The sum over all tokens by what a step of completions of the largest length would have: no length is preferred.
    DrGrpo,
    /// The mean over all tokens of a pass, and of these the mean.
    Bnpo,
}

/// What the ratio of probabilities is taken of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RatioOf {
    /// Each token.
    #[default]
    Token,
    /// The geometric mean over a completion's tokens.
    Sequence,
}

/// What is done where the model that is trained gives a completion another probability than the sampler that drew it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Correction {
    /// Nothing.
    #[default]
    None,
    /// A token's loss is multiplied by the ratio, up to the cap.
    TokenTruncate,
    /// The same, and a token above the cap does not count.
    TokenMask,
    /// As `token_truncate`, by the ratio of the whole completion.
    SequenceTruncate,
    /// As `token_mask`, by the ratio of the whole completion.
    SequenceMask,
}

/// How advantages are scaled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ScaleRewards {
    /// By the standard deviation of a prompt's rewards.
    #[default]
    Group,
    /// By that of all rewards of a step.
    Batch,
    /// Not at all.
    None,
}

/// The loss of tokens that a policy drew.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PolicyLoss {
    /// How tokens are averaged.
    pub mean: PolicyMean,
    /// What ratios are taken of.
    pub ratio: RatioOf,
    /// How far below 1 a ratio is followed.
    pub epsilon: f64,
    /// How far above 1.
    pub epsilon_high: f64,
    /// Weight of the divergence from the reference.
    pub beta: f64,
    /// What is done about the sampler's own probabilities.
    pub correction: Correction,
    /// Where that ends.
    pub cap: f64,
}

impl Default for PolicyLoss {
    fn default() -> Self {
        Self {
            mean: PolicyMean::Dapo,
            ratio: RatioOf::Token,
            epsilon: 0.2,
            epsilon_high: 0.2,
            beta: 0.0,
            correction: Correction::None,
            cap: 3.0,
        }
    }
}

/// What is known of the tokens of one completion: natural logarithms of their probabilities, one list as long as the other.
#[derive(Clone, Copy, Debug)]
pub struct Drawn<'a> {
    /// Under the policy as it is.
    pub now: &'a [f64],
    /// Under the policy as it was when its first step on them began.
    pub before: &'a [f64],
    /// As the sampler had them.
    pub sampled: &'a [f64],
    /// Under the reference, where there is one.
    pub reference: Option<&'a [f64]>,
    /// How much better than others the completion was.
    pub advantage: f64,
}

/// What a completion's tokens are averaged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Completions of the step, those that do not count included.
    pub completions: usize,
    /// Tokens of the step that count.
    pub tokens: usize,
    /// Passes in which the step is taken.
    pub passes: usize,
    /// Tokens of this pass that count.
    pub tokens_of_pass: usize,
    /// The most tokens that a completion can have.
    pub longest: usize,
}

/// The loss of one completion.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Lost {
    /// Its share of the step's loss.
    pub loss: f64,
    /// The derivatives of that by the logarithms of the probabilities of its tokens.
    pub gradients: Vec<f64>,
    /// Sum over its tokens of the estimate of the divergence from the reference, in nats.
    pub divergence: f64,
    /// Tokens whose ratio was clipped.
    pub clipped: usize,
}

impl PolicyLoss {
    /// An error for settings that make no sense.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |setting, problem: &str| Err(TrainError::Setting { setting, problem: problem.to_owned() });
        match self {
            _ if !(0.0..=1.0).contains(&self.epsilon) => wrong("epsilon", "must lie between 0 and 1"),
            _ if !(self.epsilon_high >= 0.0 && self.epsilon_high.is_finite()) => {
                wrong("epsilon_high", "must be a number of at least 0")
            }
            _ if !(self.beta >= 0.0 && self.beta.is_finite()) => wrong("beta", "must be a number of at least 0"),
            _ if self.cap.is_nan() || self.cap <= 0.0 => wrong("correction_cap", "must be larger than 0"),
            _ => Ok(()),
        }
    }

    /// What each token of a completion of `tokens` tokens counts.
    fn share(&self, tokens: usize, extent: &Extent) -> f64 {
        let part = |count: usize| 1.0 / count.max(1) as f64;
        match self.mean {
            PolicyMean::Grpo => part(extent.completions) * part(tokens),
            PolicyMean::Dapo => part(extent.tokens),
            PolicyMean::DrGrpo => part(extent.completions) * part(extent.longest),
            PolicyMean::Bnpo => part(extent.passes) * part(extent.tokens_of_pass),
        }
    }

    /// The loss of a completion that counts, and its derivatives.
    pub fn of(&self, drawn: &Drawn<'_>, extent: &Extent) -> Lost {
        let tokens = drawn.now.len();
        let share = self.share(tokens, extent);
        let corrections = self.corrections(drawn);
        let logs: Vec<f64> = drawn.now.iter().zip(drawn.before).map(|(now, before)| now - before).collect();
        let mean = logs.iter().sum::<f64>() / tokens.max(1) as f64;
        let mut lost = Lost { gradients: vec![0.0; tokens], ..Lost::default() };
        // Of the ratio of the whole sequence, which every token has a part in.
        let mut by_mean = 0.0;
        for (at, (log, correction)) in logs.iter().zip(&corrections).enumerate() {
            let ratio = if self.ratio == RatioOf::Token { *log } else { mean }.exp();
            let bounded = ratio.clamp(1.0 - self.epsilon, 1.0 + self.epsilon_high);
            let (free, held) = (ratio * drawn.advantage, bounded * drawn.advantage);
            let weight = share * correction;
            lost.loss -= weight * free.min(held);
            lost.clipped += usize::from(held < free);
            if free <= held {
                match self.ratio {
                    RatioOf::Token => lost.gradients[at] -= weight * free,
                    RatioOf::Sequence => by_mean -= weight * free / tokens as f64,
                }
            }
        }
        lost.gradients.iter_mut().for_each(|gradient| *gradient += by_mean);
        if let Some(reference) = drawn.reference {
            for ((gradient, reference), now) in lost.gradients.iter_mut().zip(reference).zip(drawn.now) {
                // Schulman's k3: never negative, and right on average.
                let ratio = (reference - now).exp();
                let divergence = ratio - (reference - now) - 1.0;
                lost.divergence += divergence;
                lost.loss += share * self.beta * divergence;
                *gradient += share * self.beta * (1.0 - ratio);
            }
        }
        lost
    }

    /// What each token's loss is multiplied by, for the sampler's sake.
    fn corrections(&self, drawn: &Drawn<'_>) -> Vec<f64> {
        let differences = drawn.before.iter().zip(drawn.sampled).map(|(before, sampled)| before - sampled);
        let (truncates, whole) = match self.correction {
            Correction::None => return vec![1.0; drawn.now.len()],
            Correction::TokenTruncate => (true, false),
            Correction::TokenMask => (false, false),
            Correction::SequenceTruncate => (true, true),
            Correction::SequenceMask => (false, true),
        };
        let bounded = |difference: f64| {
            let ratio = difference.exp();
            match ratio <= self.cap {
                true => ratio,
                false if truncates => self.cap,
                false => 0.0,
            }
        };
        match whole {
            true => vec![bounded(differences.sum()); drawn.now.len()],
            false => differences.map(bounded).collect(),
        }
    }
}

/// How much better than the others of its prompt each completion was.
#[derive(Clone, Debug, PartialEq)]
pub struct Advantages {
    /// One a completion.
    pub values: Vec<f64>,
    /// The standard deviation of the rewards of each prompt (of a sample: by one less than their number).
    pub deviations: Vec<f64>,
    /// Prompts whose completions were all rewarded alike: nothing is learned of them.
    pub equal: usize,
}

/// Added to what advantages are divided by.
const LEAST: f64 = 1e-4;

/// Advantages of completions of which each `group` belong to a prompt: the reward less the group's mean, by a standard deviation and
/// 1e-4 where they are scaled.
pub fn advantages(rewards: &[f64], group: usize, scale: ScaleRewards) -> Advantages {
    let groups = || rewards.chunks(group.max(1));
    let deviations: Vec<f64> = groups().map(deviation).collect();
    let of_all = deviation(rewards);
    let scaled = |(rewards, deviation): (&[f64], &f64)| -> Vec<f64> {
        let mean = mean(rewards);
        let by = match scale {
            ScaleRewards::Group => deviation + LEAST,
            ScaleRewards::Batch => of_all + LEAST,
            ScaleRewards::None => 1.0,
        };
        // The mean of equal numbers can be another one in its last bit.
        let is_equal = is_equal(rewards);
        rewards.iter().map(|reward| if is_equal { 0.0 } else { (reward - mean) / by }).collect()
    };
    let values = groups().zip(&deviations).flat_map(scaled).collect();
    Advantages { values, equal: groups().filter(|rewards| is_equal(rewards)).count(), deviations }
}

fn is_equal(rewards: &[f64]) -> bool {
    rewards.windows(2).all(|pair| pair[0] == pair[1])
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Of a sample: 0 for one alone.
fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 || is_equal(values) {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}
