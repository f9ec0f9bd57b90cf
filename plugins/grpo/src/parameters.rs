//! What a script can say.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use workbench_api::sdk::Error;
use workbench_plugin_model::train_error;
use workbench_train::{
    AdamWConfig, Correction, PolicyLoss, PolicyMean, RatioOf, ScaleRewards, ScheduleKind, TrainConfig,
};

/// Parameters of `grpo`. Names and defaults are those of TRL's GRPOTrainer where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// How the losses of tokens become one number: `grpo` (the mean over a completion's tokens, and of these the mean), `dapo` (the mean
    /// over all tokens of a step), `dr_grpo` (their sum by what completions of the largest length would have) or `bnpo` (the mean over
    /// all tokens of a pass, and of these the mean).
    pub loss_type: PolicyMean,
    /// How advantages are scaled: by the standard deviation of a prompt's rewards (`group`), by that of a step's (`batch`), or `none`.
    pub scale_rewards: ScaleRewards,
    /// What each reward counts in their sum, in the order of `rewards`; 1 each if not given.
    pub reward_weights: Vec<f64>,
    /// Completions of each prompt, which are compared with one another.
    #[schemars(range(min = 2), extend("unit" = "completions"))]
    pub num_generations: usize,
    /// The most tokens of a completion, with the one that ends it.
    #[schemars(range(min = 1), extend("unit" = "tokens"))]
    pub max_completion_length: usize,
    /// Learn nothing of completions that reach the largest length.
    pub mask_truncated_completions: bool,
    /// Steps that are taken on what was written once.
    #[schemars(range(min = 1), extend("unit" = "steps"))]
    pub num_iterations: u64,
    /// From the second step on the same completions on: how far the ratio of a token's probabilities is followed below 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub epsilon: f64,
    /// The same above 1; `epsilon` if not given.
    #[schemars(range(min = 0.0))]
    pub epsilon_high: Option<f64>,
    /// What that ratio is taken of: each `token`, or the whole `sequence` (GSPO).
    pub importance_sampling_level: RatioOf,
    /// Weight of the divergence from the model as it is given, unquantized, which is then held beside the one in training; 0: none.
    #[schemars(range(min = 0.0))]
    pub beta: f64,
    /// Where training gives what was written another probability than the sampler had (which differs by rounding alone): `none`, or the
    /// ratio as a factor of the loss, of each token or of the sequence, cut at the cap (`token_truncate`, `sequence_truncate`) or zero
    /// above it (`token_mask`, `sequence_mask`).
    pub importance_sampling_correction: Correction,
    /// The cap of that.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub importance_sampling_cap: f64,
    /// Prompts of a step.
    #[schemars(range(min = 1), extend("unit" = "prompts"))]
    pub prompts_per_step: usize,
    /// Completions of one forward and backward pass.
    #[schemars(range(min = 1), extend("unit" = "completions", "aliases" = ["per_device_train_batch_size", "train_batch_size"]))]
    pub batch_size: usize,
    /// The peak learning rate.
    #[schemars(range(min = 0.0), extend("aliases" = ["lr"]))]
    pub learning_rate: f64,
    /// How the rate falls after the warm-up: `cosine`, `linear` or `constant`.
    #[schemars(extend("aliases" = ["lr_scheduler_type", "scheduler", "lr_scheduler"]))]
    pub schedule: ScheduleKind,
    /// Share of all steps in which the rate rises.
    #[schemars(range(min = 0.0, max = 1.0), extend("aliases" = ["warmup"]))]
    pub warmup_ratio: f64,
    /// How often the prompts are gone through.
    #[schemars(range(min = 0.0), extend("aliases" = ["num_train_epochs", "num_epochs"]))]
    pub epochs: f64,
    /// How many steps to take; 0: as many as `epochs` makes.
    #[schemars(extend("unit" = "steps", "aliases" = ["steps"]))]
    pub max_steps: u64,
    /// Limit of the gradient's norm over all weights; 0: none.
    #[schemars(range(min = 0.0), extend("aliases" = ["gradient_clipping", "clip"]))]
    pub max_grad_norm: f64,
    /// Decoupled decay of matrices per unit of learning rate; norms and biases do not decay.
    #[schemars(range(min = 0.0))]
    pub weight_decay: f64,
    /// Decay rates of AdamW's two moments.
    #[schemars(schema_with = "betas", extend("aliases" = ["adam_betas"]))]
    pub betas: [f64; 2],
    /// AdamW's epsilon.
    #[schemars(extend("exclusiveMinimum" = 0, "aliases" = ["adam_epsilon"]))]
    pub eps: f64,
    /// Seed of the prompts' order, and of what is written.
    pub seed: u64,
    /// Keep only the inputs of blocks and compute the rest again on the way back: less memory, about a third more time, the
    /// same bits.
    pub gradient_checkpointing: bool,
    /// Positions whose logits exist at one time.
    #[schemars(range(min = 1), extend("unit" = "positions"))]
    pub loss_chunk: usize,
    /// Steps between checkpoints, from which an interrupted run continues, rounded up to whole iterations; 0: none. Not part of what is
    /// learned.
    #[schemars(extend("unit" = "steps"))]
    pub checkpoint_every: u64,
}

fn betas(_: &mut SchemaGenerator) -> Schema {
    let rate = serde_json::json!({ "type": "number", "format": "double", "minimum": 0.0, "exclusiveMaximum": 1.0 });
    json_schema!({ "type": "array", "items": rate, "minItems": 2, "maxItems": 2 })
}

impl Default for Parameters {
    fn default() -> Self {
        let (loss, optimizer) = (PolicyLoss::default(), AdamWConfig::default());
        Self {
            loss_type: loss.mean,
            scale_rewards: ScaleRewards::Group,
            reward_weights: Vec::new(),
            num_generations: 8,
            max_completion_length: 256,
            mask_truncated_completions: false,
            num_iterations: 1,
            epsilon: loss.epsilon,
            epsilon_high: None,
            importance_sampling_level: loss.ratio,
            beta: loss.beta,
            importance_sampling_correction: loss.correction,
            importance_sampling_cap: loss.cap,
            prompts_per_step: 8,
            batch_size: 8,
            learning_rate: 1e-6,
            schedule: ScheduleKind::Linear,
            warmup_ratio: 0.0,
            epochs: 1.0,
            max_steps: 0,
            max_grad_norm: 1.0,
            weight_decay: 0.0,
            betas: optimizer.betas,
            eps: optimizer.eps,
            seed: 0,
            gradient_checkpointing: false,
            loss_chunk: 1024,
            checkpoint_every: 100,
        }
    }
}

impl Parameters {
    /// An error for settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let defaults = Self::default();
        self.config().check().map_err(train_error)?;
        self.loss().check().map_err(train_error)?;
        if self.num_iterations == 1 && (self.epsilon != defaults.epsilon || self.epsilon_high.is_some()) {
            let name = if self.epsilon_high.is_some() { "epsilon_high" } else { "epsilon" };
            return Err(Error::parameters(format!(
                "`{name}` is about ratios of probabilities, which are 1 in the first step on what was written"
            ))
            .with_hint("leave it out, or take several steps: `num_iterations`"));
        }
        if self.num_iterations == 1
            && self.importance_sampling_level != defaults.importance_sampling_level
            && self.importance_sampling_correction == Correction::None
        {
            return Err(Error::parameters(
                "`importance_sampling_level` is about ratios of probabilities, which are 1 in the first step on what was written",
            )
            .with_hint("leave it out, or take several steps: `num_iterations`"));
        }
        let cap = self.importance_sampling_cap != defaults.importance_sampling_cap;
        if cap && self.importance_sampling_correction == Correction::None {
            return Err(Error::parameters("`importance_sampling_cap` is about a correction, and there is none")
                .with_hint("leave it out, or name an `importance_sampling_correction`"));
        }
        Ok(())
    }

    pub(crate) fn loss(&self) -> PolicyLoss {
        PolicyLoss {
            mean: self.loss_type,
            ratio: self.importance_sampling_level,
            epsilon: self.epsilon,
            epsilon_high: self.epsilon_high.unwrap_or(self.epsilon),
            beta: self.beta,
            correction: self.importance_sampling_correction,
            cap: self.importance_sampling_cap,
        }
    }

    /// The loop's settings: a step takes its prompts at once, and what it writes goes on from a checkpoint where all of it was learned.
    pub(crate) fn config(&self) -> TrainConfig {
        TrainConfig {
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            warmup_ratio: self.warmup_ratio,
            epochs: self.epochs,
            max_steps: (self.max_steps > 0).then_some(self.max_steps),
            batch_size: self.prompts_per_step,
            steps_per_batch: self.num_iterations,
            max_grad_norm: self.max_grad_norm,
            optimizer: AdamWConfig { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay },
            seed: self.seed,
            checkpoint_every: match self.num_iterations {
                0 => 0,
                iterations => self.checkpoint_every.div_ceil(iterations).saturating_mul(iterations),
            },
            ..TrainConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json};

    use super::*;

    #[test]
    fn parameters_that_would_say_nothing_are_refused() {
        let check =
            |value: Value| from_value::<Parameters>(value).unwrap().check().err().map(|error| error.to_string());
        assert_eq!(check(json!({})), None);
        assert_eq!(check(json!({ "num_iterations": 2, "epsilon": 0.1, "epsilon_high": 0.28 })), None);
        for (value, part) in [
            (json!({ "epsilon": 0.1 }), "`epsilon` is about ratios"),
            (json!({ "epsilon_high": 0.28 }), "`epsilon_high` is about ratios"),
            (json!({ "importance_sampling_cap": 2.0 }), "there is none"),
            (json!({ "beta": -1.0 }), "`beta`"),
            (json!({ "learning_rate": -1.0 }), "learning_rate"),
        ] {
            assert!(check(value.clone()).is_some_and(|error| error.contains(part)), "{value}");
        }
        assert!(from_value::<Parameters>(json!({ "num_generation": 4 })).is_err());
    }

    #[test]
    fn checkpoints_are_written_between_iterations() {
        let every = |every: u64, iterations: u64| {
            Parameters { checkpoint_every: every, num_iterations: iterations, ..Parameters::default() }
                .config()
                .checkpoint_every
        };
        assert_eq!([every(100, 1), every(100, 3), every(1, 4), every(0, 4)], [100, 102, 4, 0]);
    }
}
