//! What a policy writes for prompts, and how good that is.

use std::ops::ControlFlow;

use workbench_model::Decoder;
use workbench_model::generate::{Finish, Generation, GenerationConfig, Sampling, generate};

use crate::{ScaleRewards, TrainError, advantages};

/// Who rewards completions.
pub trait Judge {
    /// Judges completions of a prompt, each without the token that ended it.
    ///
    /// # Errors
    /// They cannot be judged.
    fn judge(&mut self, prompt: usize, completions: &[Vec<u32>]) -> Result<Vec<Judged>, TrainError>;

    /// Hears a number of a step, counted from 1.
    fn measured(&mut self, step: u64, name: &str, value: f64);
}

/// What is said of a completion.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// A number for each reward.
    pub rewards: Vec<f64>,
    /// How many of its tokens count: what stands behind a text that ends it was never written.
    pub tokens: usize,
    /// Whether a text ended it.
    pub ended: bool,
}

/// How prompts are written for.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutConfig {
    /// Completions of a prompt.
    pub generations: usize,
    /// The most tokens of one, with the one that ends it.
    pub longest: usize,
    /// Tokens that end one.
    pub stop_ids: Vec<u32>,
    /// What rewards are called.
    pub names: Vec<String>,
    /// What each counts in the sum.
    pub weights: Vec<f64>,
    /// How advantages are scaled.
    pub scale: ScaleRewards,
    /// Whether nothing is learned of a completion that reached the largest length.
    pub mask_truncated: bool,
    /// Where draws begin.
    pub seed: u64,
    /// Steps that are taken on what was written once.
    pub iterations: u64,
}

impl RolloutConfig {
    /// An error for settings that make no sense.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |setting, problem: String| Err(TrainError::Setting { setting, problem });
        let (names, weights) = (self.names.len(), self.weights.len());
        match self {
            _ if self.generations < 2 => wrong(
                "num_generations",
                "must be at least 2: a completion is compared with others of its prompt".into(),
            ),
            _ if self.longest == 0 => wrong("max_completion_length", "must be at least 1".into()),
            _ if self.iterations == 0 => wrong("num_iterations", "must be at least 1".into()),
            _ if names == 0 => wrong("rewards", "must name at least one".into()),
            _ if names != weights => wrong("reward_weights", format!("are {weights}, and there are {names} rewards")),
            _ if self.weights.iter().any(|weight| !weight.is_finite()) => {
                wrong("reward_weights", "must be finite numbers".into())
            }
            _ => Ok(()),
        }
    }
}

/// A completion behind its prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Rollout {
    /// Of prompt and completion.
    pub(crate) ids: Vec<u32>,
    /// Where the completion begins.
    pub(crate) start: usize,
    /// Logarithms of the probabilities of its tokens, as they were drawn.
    pub(crate) sampled: Vec<f64>,
    /// Under the policy when its first step on them began; found out then.
    pub(crate) before: Vec<f64>,
    /// Under the reference, likewise, where there is one.
    pub(crate) reference: Vec<f64>,
    pub(crate) advantage: f64,
    /// Whether anything is learned of it.
    pub(crate) counts: bool,
}

impl Rollout {
    /// Tokens of the completion.
    pub(crate) fn tokens(&self) -> usize {
        self.ids.len() - self.start
    }
}

/// What was written for the prompts of a step.
struct Written {
    rollouts: Vec<Rollout>,
    rewards: Vec<Vec<f64>>,
    truncated: usize,
    empty: usize,
}

/// Has a policy write for the prompts of a step, counted from 0, and rewards what it wrote. The completions of a prompt follow from the
/// weights, the seed, the step and the number of the prompt alone: those of one prompt are a batch of their own.
pub(crate) fn roll_out(
    decoder: &Decoder,
    prompts: &[(usize, &[u32])],
    config: &RolloutConfig,
    step: u64,
    judge: &mut dyn Judge,
) -> Result<Vec<Rollout>, TrainError> {
    let mut written = Written { rollouts: Vec::new(), rewards: Vec::new(), truncated: 0, empty: 0 };
    for (number, prompt) in prompts {
        let generation = GenerationConfig {
            max_new_tokens: config.longest,
            sampling: Sampling { temperature: 1.0, top_k: None, top_p: 1.0 },
            seed: seed(config.seed, step, *number),
            first_sequence: 0,
            stop_ids: config.stop_ids.clone(),
        };
        let group = vec![prompt.to_vec(); config.generations];
        let found = generate(decoder, &group, &generation, &mut |_, _| ControlFlow::Continue(()))
            .map_err(|error| TrainError::Data(format!("step {}, prompt {number}: {error}", step + 1)))?;
        let completions: Vec<Vec<u32>> = found.iter().map(|generation| generation.tokens.clone()).collect();
        let judged = judge.judge(*number, &completions)?;
        check(&judged, &completions, config, *number)?;
        for (generation, judged) in found.iter().zip(judged) {
            written.add(prompt, generation, judged, config);
        }
    }
    Ok(written.weighed(config, step, judge))
}

/// A seed of its own for each prompt of each step.
fn seed(seed: u64, step: u64, prompt: usize) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in [seed, step, prompt as u64] {
        hasher.update(&part.to_le_bytes());
    }
    let digest = hasher.finalize();
    let (first, _) = digest.as_bytes().split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    u64::from_le_bytes(*first)
}

/// An error for judgements that are none.
fn check(judged: &[Judged], completions: &[Vec<u32>], config: &RolloutConfig, prompt: usize) -> Result<(), TrainError> {
    let wrong =
        |message: String| Err(TrainError::Reward { message: format!("prompt {prompt}: {message}"), hint: None });
    if judged.len() != completions.len() {
        return wrong(format!("{} completions were judged as {}", completions.len(), judged.len()));
    }
    for (index, (judged, completion)) in judged.iter().zip(completions).enumerate() {
        let (found, wanted) = (judged.rewards.len(), config.names.len());
        if found != wanted {
            return wrong(format!("completion {index} has {found} rewards, not {wanted}"));
        }
        let all = judged.ended || judged.tokens == completion.len();
        if !all || judged.tokens > completion.len() || (judged.tokens == 0 && !completion.is_empty()) {
            let (tokens, all) = (judged.tokens, completion.len());
            return wrong(format!("completion {index}: {tokens} of its {all} tokens cannot be all that count"));
        }
        if let Some((name, value)) = config.names.iter().zip(&judged.rewards).find(|(_, value)| !value.is_finite()) {
            return wrong(format!("the reward `{name}` of completion {index} is {value}"));
        }
    }
    Ok(())
}

impl Written {
    fn add(&mut self, prompt: &[u32], generation: &Generation, judged: Judged, config: &RolloutConfig) {
        // A stop token behind a text that ends it would never be drawn.
        let drawn = generation.drawn().take(if judged.ended { judged.tokens } else { usize::MAX });
        let (ids, sampled): (Vec<u32>, Vec<f64>) = drawn.map(|picked| (picked.token, picked.log_probability)).unzip();
        let truncated = generation.finish == Finish::Length && !judged.ended;
        self.truncated += usize::from(truncated);
        self.empty += usize::from(generation.tokens.is_empty());
        self.rewards.push(judged.rewards);
        self.rollouts.push(Rollout {
            ids: [prompt, &ids].concat(),
            start: prompt.len(),
            sampled,
            counts: !(truncated && config.mask_truncated),
            ..Rollout::default()
        });
    }

    /// With advantages, of which the judge hears.
    fn weighed(mut self, config: &RolloutConfig, step: u64, judge: &mut dyn Judge) -> Vec<Rollout> {
        let sum = |rewards: &Vec<f64>| {
            rewards.iter().zip(&config.weights).map(|(reward, weight)| reward * weight).sum::<f64>()
        };
        let sums: Vec<f64> = self.rewards.iter().map(sum).collect();
        let found = advantages(&sums, config.generations, config.scale);
        for (rollout, advantage) in self.rollouts.iter_mut().zip(&found.values) {
            rollout.advantage = *advantage;
        }
        let mean = |values: &mut dyn Iterator<Item = f64>, count: usize| values.sum::<f64>() / count.max(1) as f64;
        let (count, groups) = (sums.len(), found.deviations.len());
        let mut tell = |name: &str, value: f64| judge.measured(step + 1, name, value);
        tell("reward", mean(&mut sums.iter().copied(), count));
        tell("reward_std", mean(&mut found.deviations.iter().copied(), groups));
        for (index, name) in config.names.iter().enumerate() {
            let mut values = self.rewards.iter().filter_map(|rewards| rewards.get(index)).copied();
            tell(&format!("reward/{name}"), mean(&mut values, count));
        }
        tell("equal_groups", found.equal as f64 / groups.max(1) as f64);
        let mut tokens = self.rollouts.iter().map(|rollout| rollout.tokens() as f64);
        tell("completion_tokens", mean(&mut tokens, count));
        tell("truncated", self.truncated as f64 / count.max(1) as f64);
        tell("empty", self.empty as f64 / count.max(1) as f64);
        self.rollouts
    }
}
