//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_model::decoder::LearnedRoundingParams;
use workbench_train::{SignedConfig, SignedGroup};

/// Parameters of `auto_round`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    /// Steps of a block: so many measurements, between which it moves. 0 or 1: nothing is learned.
    #[schemars(extend("unit" = "steps", "aliases" = ["iters"]))]
    pub(crate) steps: u64,
    /// How far the offset of a weight moves in the first step, in steps of its grid; the rate falls in a straight line down to zero. Not
    /// given: 1 / `steps`, with which it can just reach half a step.
    #[schemars(range(min = 0.0), extend("aliases" = ["lr"]))]
    pub(crate) learning_rate: Option<f64>,
    /// The same of the shares of a range that are used, from 1 down to 0; 0: ranges stay. Not given: `learning_rate`.
    #[schemars(range(min = 0.0), extend("aliases" = ["minmax_lr"]))]
    pub(crate) range_learning_rate: Option<f64>,
    /// Sequences of a step.
    #[schemars(range(min = 1), extend("unit" = "sequences"))]
    pub(crate) batch_size: usize,
    /// Keep what had the least loss on the sequences of its own step, and not what the last step used.
    pub(crate) keep_best: bool,
    /// Seed of the order of the sequences.
    pub(crate) seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { steps: 200, learning_rate: None, range_learning_rate: None, batch_size: 8, keep_best: true, seed: 0 }
    }
}

impl Parameters {
    /// The settings of the descent.
    pub(crate) fn config(&self) -> SignedConfig {
        let rate = self.learning_rate.unwrap_or(1.0 / self.steps.max(1) as f64);
        let offsets =
            SignedGroup { pattern: LearnedRoundingParams::rounding(), learning_rate: rate, bounds: [-0.5, 0.5] };
        let shares = SignedGroup {
            pattern: LearnedRoundingParams::shares().to_owned(),
            learning_rate: self.range_learning_rate.unwrap_or(rate),
            bounds: [0.0, 1.0],
        };
        SignedConfig {
            groups: vec![offsets, shares],
            steps: self.steps,
            batch_size: self.batch_size,
            keep_best: self.keep_best,
            seed: self.seed,
        }
    }
}
