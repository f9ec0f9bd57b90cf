//! What a script can say about the loop, whatever the trainer: a part of every trainer's own parameters.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::{AdamWConfig, ScheduleKind, TrainConfig};

/// Which tokens are learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Learn {
    /// Those that the data say: of conversations the turns of the assistant, of texts all.
    #[default]
    Assistant,
    /// Every token but the first.
    All,
    /// The last token of each sequence alone.
    Last,
}

impl Learn {
    /// Which tokens of a sequence count, given what the data say.
    pub fn mask(self, data: Vec<bool>) -> Vec<bool> {
        match self {
            Self::Assistant => data,
            Self::All => vec![true; data.len()],
            Self::Last => (1..=data.len()).map(|token| token == data.len()).collect(),
        }
    }
}

/// Parameters of the loop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrainingParameters {
    /// Which tokens are learned: `assistant` (those that the data say: of conversations the turns of the assistant, of texts all),
    /// `all`, or `last` (the last token of each sequence).
    pub learn: Learn,
    /// The peak learning rate.
    #[schemars(range(min = 0.0), extend("aliases" = ["lr"]))]
    pub learning_rate: f64,
    /// How the rate falls after the warm-up: `cosine`, `linear` or `constant`.
    #[schemars(extend("aliases" = ["lr_scheduler_type", "scheduler", "lr_scheduler"]))]
    pub schedule: ScheduleKind,
    /// Share of all steps in which the rate rises.
    #[schemars(range(min = 0.0, max = 1.0), extend("aliases" = ["warmup"]))]
    pub warmup_ratio: f64,
    /// How often the data is gone through.
    #[schemars(range(min = 0.0), extend("aliases" = ["num_train_epochs", "num_epochs"]))]
    pub epochs: f64,
    /// How many steps to take; 0: as many as `epochs` makes.
    #[schemars(extend("unit" = "steps", "aliases" = ["steps"]))]
    pub max_steps: u64,
    /// Sequences of one forward and backward pass.
    #[schemars(range(min = 1), extend("unit" = "sequences", "aliases" = ["per_device_train_batch_size", "train_batch_size"]))]
    pub batch_size: usize,
    /// Passes whose gradients make one step.
    #[schemars(range(min = 1), extend("unit" = "passes", "aliases" = ["gradient_accumulation_steps", "accumulation"]))]
    pub gradient_accumulation: usize,
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
    /// Seed of the data's order, and of all that is drawn.
    pub seed: u64,
    /// Keep only the inputs of blocks and compute the rest again on the way back: less memory, about a third more time, the
    /// same bits.
    pub gradient_checkpointing: bool,
    /// Positions whose logits exist at one time.
    #[schemars(range(min = 1), extend("unit" = "positions"))]
    pub loss_chunk: usize,
    /// Steps between checkpoints, from which an interrupted run continues; 0: none. Not part of what is learned.
    #[schemars(extend("unit" = "steps"))]
    pub checkpoint_every: u64,
    /// Steps between measurements of the loss on the validation data, where there are any; 0: before the first step and behind the
    /// last one alone.
    #[schemars(extend("unit" = "steps", "aliases" = ["eval_steps", "eval_every"]))]
    pub validate_every: u64,
    /// With validation data: hand out the model of the measurement with the least loss, and not that of the last step.
    #[schemars(extend("aliases" = ["load_best_model_at_end"]))]
    pub keep_best: bool,
    /// With validation data: measurements without a smaller loss after which training ends; 0: it goes on.
    #[schemars(extend("unit" = "measurements", "aliases" = ["early_stopping_patience"]))]
    pub patience: u64,
}

fn betas(_: &mut SchemaGenerator) -> Schema {
    let rate = serde_json::json!({ "type": "number", "format": "double", "minimum": 0.0, "exclusiveMaximum": 1.0 });
    json_schema!({ "type": "array", "items": rate, "minItems": 2, "maxItems": 2 })
}

impl Default for TrainingParameters {
    fn default() -> Self {
        let defaults = TrainConfig::default();
        Self {
            learn: Learn::Assistant,
            learning_rate: defaults.learning_rate,
            schedule: defaults.schedule,
            warmup_ratio: defaults.warmup_ratio,
            epochs: defaults.epochs,
            max_steps: 0,
            batch_size: defaults.batch_size,
            gradient_accumulation: defaults.gradient_accumulation,
            max_grad_norm: defaults.max_grad_norm,
            weight_decay: defaults.optimizer.weight_decay,
            betas: defaults.optimizer.betas,
            eps: defaults.optimizer.eps,
            seed: defaults.seed,
            gradient_checkpointing: false,
            loss_chunk: 1024,
            checkpoint_every: 100,
            validate_every: 0,
            keep_best: false,
            patience: 0,
        }
    }
}

impl TrainingParameters {
    /// The loop's settings.
    pub fn config(&self) -> TrainConfig {
        TrainConfig {
            learning_rate: self.learning_rate,
            schedule: self.schedule,
            least_rate: 0.0,
            warmup_ratio: self.warmup_ratio,
            epochs: self.epochs,
            max_steps: (self.max_steps > 0).then_some(self.max_steps),
            batch_size: self.batch_size,
            gradient_accumulation: self.gradient_accumulation,
            max_grad_norm: self.max_grad_norm,
            optimizer: AdamWConfig { betas: self.betas, eps: self.eps, weight_decay: self.weight_decay },
            seed: self.seed,
            checkpoint_every: self.checkpoint_every,
            validate_every: self.validate_every,
            keep_best: self.keep_best,
            patience: self.patience,
            ..TrainConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_are_what_they_say() {
        let data = vec![false, true, false, true];
        assert_eq!(Learn::Assistant.mask(data.clone()), data);
        assert_eq!(Learn::All.mask(data.clone()), [true; 4]);
        assert_eq!(Learn::Last.mask(data), [false, false, false, true]);
    }
}
