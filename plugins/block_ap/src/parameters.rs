//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::Error;
use workbench_plugin_model::train_error;
use workbench_train::{AdamWConfig, ParameterGroup, TrainConfig};

/// Names of the variables of learned scales and zero-points, as a pattern.
const QUANTIZER: &str = "*.weight_*";

/// Sequences that are held out at most, where the script does not say how many.
const VALIDATION: usize = 64;

/// Parameters of `block_ap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Parameters {
    /// The peak learning rate of weights and of the gains of norms; 0: they stay. Not given: 2e-5 where a weight of the block has two
    /// bits, else 1e-5.
    #[schemars(range(min = 0.0), extend("aliases" = ["weight_lr"]))]
    pub(crate) weight_learning_rate: Option<f64>,
    /// The peak learning rate of scales, and of zero-points in codes; 0: they stay.
    #[schemars(range(min = 0.0), extend("aliases" = ["quant_lr"]))]
    pub(crate) quantizer_learning_rate: f64,
    /// The share of the peak to which learning rates fall, along half a cosine wave.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub(crate) least_rate: f64,
    /// How often a block goes through the calibration data.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub(crate) epochs: f64,
    /// How many steps a block takes; 0: as many as `epochs` makes.
    #[schemars(extend("unit" = "steps"))]
    pub(crate) max_steps: u64,
    /// Sequences of a step.
    #[schemars(range(min = 1), extend("unit" = "sequences"))]
    pub(crate) batch_size: usize,
    /// The last sequences of the calibration data, of which nothing is learned: the loss is measured on them before training and after
    /// each epoch. Not given: an eighth of all, at most 64.
    #[schemars(extend("unit" = "sequences", "aliases" = ["val_size"]))]
    pub(crate) validation_sequences: Option<usize>,
    /// Keep what had the least loss on the validation sequences, the start included, and not what the last step left.
    pub(crate) keep_best: bool,
    /// Limit of the gradient's norm over all that is trained; 0: none.
    #[schemars(range(min = 0.0), extend("aliases" = ["clip_grad"]))]
    pub(crate) max_grad_norm: f64,
    /// Decoupled decay of weights per unit of learning rate; gains, scales and zero-points do not decay.
    #[schemars(range(min = 0.0), extend("aliases" = ["wd"]))]
    pub(crate) weight_decay: f64,
    /// Seed of the order of the sequences.
    pub(crate) seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            weight_learning_rate: None,
            quantizer_learning_rate: 1e-4,
            least_rate: 0.05,
            epochs: 2.0,
            max_steps: 0,
            batch_size: 2,
            validation_sequences: None,
            keep_best: false,
            max_grad_norm: 0.0,
            weight_decay: 0.0,
            seed: 0,
        }
    }
}

impl Parameters {
    /// An error for settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.keep_best && self.validation_sequences == Some(0) {
            return Err(Error::parameters("`keep_best` is about validation sequences, and there are none")
                .with_hint("leave `validation_sequences` out, or say how many"));
        }
        self.config(4, 1).check().map_err(train_error)
    }

    /// The peak learning rate of weights, where the least of their bits are so many.
    pub(crate) fn weight_rate(&self, bits: u8) -> f64 {
        self.weight_learning_rate.unwrap_or(if bits <= 2 { 2e-5 } else { 1e-5 })
    }

    /// Whether weights, and whether scales, are trained.
    pub(crate) fn trains(&self, bits: u8) -> [bool; 2] {
        [self.weight_rate(bits) > 0.0, self.quantizer_learning_rate > 0.0]
    }

    /// How many of so many sequences are held out.
    pub(crate) fn validation(&self, sequences: usize) -> usize {
        self.validation_sequences.unwrap_or((sequences / 8).min(VALIDATION))
    }

    /// The loop's settings for weights of at least so many bits and so many sequences to learn of. The rate is the larger one, and
    /// whatever has the smaller one is a group.
    pub(crate) fn config(&self, bits: u8, sequences: usize) -> TrainConfig {
        let rates = [self.weight_rate(bits), self.quantizer_learning_rate];
        let peak = rates[0].max(rates[1]);
        let share = |rate: f64| if peak > 0.0 { rate / peak } else { 0.0 };
        let [weights, quantizer] = self.trains(bits);
        let group = |pattern: &str, rate, weight_decay| ParameterGroup {
            pattern: pattern.to_owned(),
            rate: share(rate),
            weight_decay,
        };
        let groups = [
            quantizer.then(|| group(QUANTIZER, rates[1], Some(0.0))),
            weights.then(|| group("*.weight", rates[0], None)),
        ];
        TrainConfig {
            learning_rate: peak,
            least_rate: self.least_rate,
            epochs: self.epochs,
            max_steps: (self.max_steps > 0).then_some(self.max_steps),
            batch_size: self.batch_size,
            max_grad_norm: self.max_grad_norm,
            optimizer: AdamWConfig { weight_decay: self.weight_decay, ..AdamWConfig::default() },
            groups: groups.into_iter().flatten().collect(),
            seed: self.seed,
            validate_every: sequences.div_ceil(self.batch_size) as u64,
            keep_best: self.keep_best,
            ..TrainConfig::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_own_rate() {
        let rates = |parameters: &Parameters, bits| {
            let config = parameters.config(bits, 10);
            config
                .groups
                .iter()
                .map(|group| (group.pattern.clone(), config.learning_rate * group.rate))
                .collect::<Vec<_>>()
        };
        let close = |found: Vec<(String, f64)>, expected: &[(&str, f64)]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for ((name, rate), (expected_name, expected)) in found.iter().zip(expected) {
                assert!(name == expected_name && (rate - expected).abs() < 1e-12, "{name}: {rate} for {expected}");
            }
        };
        let usual = Parameters::default();
        close(rates(&usual, 2), &[(QUANTIZER, 1e-4), ("*.weight", 2e-5)]);
        close(rates(&usual, 3), &[(QUANTIZER, 1e-4), ("*.weight", 1e-5)]);
        let weights = Parameters { weight_learning_rate: Some(1.0), quantizer_learning_rate: 0.0, ..usual.clone() };
        close(rates(&weights, 2), &[("*.weight", 1.0)]);
        let grids = Parameters { weight_learning_rate: Some(0.0), ..usual };
        close(rates(&grids, 2), &[(QUANTIZER, 1e-4)]);
    }

    #[test]
    fn validation_is_a_share_of_what_is_there() {
        let parameters = Parameters::default();
        assert_eq!([0, 7, 8, 100, 512, 4096].map(|all| parameters.validation(all)), [0, 0, 1, 12, 64, 64]);
        assert_eq!(Parameters { validation_sequences: Some(3), ..parameters }.validation(4), 3);
        let none = Parameters { keep_best: true, validation_sequences: Some(0), ..Parameters::default() };
        assert!(none.check().is_err_and(|error| error.to_string().contains("keep_best")));
    }
}
