//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::Error;
use workbench_plugin_model::{check_loss, train_error};
use workbench_train::{LossParameters, TrainingParameters};

/// Where the scales of weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scales {
    /// From the weights of each step, as a constant where gradients pass.
    #[default]
    Dynamic,
    /// From the weights of each step, and gradients pass through their extremes.
    Follow,
    /// From the weights that training starts at.
    Frozen,
    /// Trained beside the weights.
    Learned,
}

/// Where gradients pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Clipped {
    /// Through every weight.
    Pass,
    /// Not through weights beyond the grid's ends.
    Stop,
}

/// Parameters of `qat`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// What is minimized.
    #[serde(flatten)]
    pub loss: LossParameters,
    /// Where the scales of weights come from: `dynamic` (from the weights of each step), `follow` (the same, with gradients through
    /// their extremes), `frozen` (from the weights at the start, or those of the codes that training starts from) or `learned` (LSQ). Not
    /// given: dynamic, or frozen where training starts from codes, whose scales the numbers that they stand for would not make again.
    pub scales: Option<Scales>,
    /// Learned scales: what the learning rate is multiplied by for them. They do not decay.
    #[schemars(range(min = 0.0))]
    pub scales_rate: f64,
    /// Whether gradients `pass` through weights beyond the ends of the grid or `stop` there; not given: they stop where scales are
    /// frozen or learned.
    pub clipped: Option<Clipped>,
    /// Whether gradients pass through the extremes that the scales of inputs, keys and values are taken from.
    pub inputs_follow: bool,
    /// The loop's.
    #[serde(flatten)]
    pub training: TrainingParameters,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            loss: LossParameters::default(),
            scales: None,
            scales_rate: 1.0,
            clipped: None,
            inputs_follow: false,
            training: TrainingParameters { learning_rate: 1e-5, warmup_ratio: 0.05, ..TrainingParameters::default() },
        }
    }
}

impl Parameters {
    /// An error for settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.training.config().check().map_err(train_error)?;
        check_loss(&self.loss)?;
        let defaults = Self::default();
        if self.scales == Some(Scales::Follow) && self.clipped == Some(Clipped::Stop) {
            return Err(Error::parameters("scales that follow the extremes of weights clip none but these")
                .with_hint("leave `clipped` out, or take `scales: \"dynamic\"`"));
        }
        if self.scales != Some(Scales::Learned) && self.scales_rate != defaults.scales_rate {
            return Err(Error::parameters("`scales_rate` is about learned scales")
                .with_hint("leave it out, or take `scales: \"learned\"`"));
        }
        Ok(())
    }

    /// Where scales come from in a training that starts from codes, or from weights.
    pub(crate) fn scales(&self, from_codes: bool) -> Scales {
        self.scales.unwrap_or(if from_codes { Scales::Frozen } else { Scales::Dynamic })
    }

    /// Whether gradients stop at the ends of a grid with such scales.
    pub(crate) fn stops_at_clipped(&self, scales: Scales) -> bool {
        match self.clipped {
            Some(clipped) => clipped == Clipped::Stop,
            None => matches!(scales, Scales::Frozen | Scales::Learned),
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
        assert_eq!(check(json!({ "loss": "cross_entropy", "scales": "learned", "scales_rate": 5.0 })), None);
        for (value, part) in [
            (json!({ "loss": "cross_entropy", "beta": 0.5 }), "`beta` is about distillation"),
            (json!({ "loss": "cross_entropy", "temperature": 2.0 }), "`temperature` is about distillation"),
            (json!({ "scales_rate": 2.0 }), "learned scales"),
            (json!({ "scales": "follow", "clipped": "stop" }), "extremes"),
            (json!({ "patience": 3 }), "validate_every"),
            (json!({ "beta": 2.0 }), "beta"),
            (json!({ "learning_rate": -1.0 }), "learning_rate"),
        ] {
            assert!(check(value.clone()).is_some_and(|error| error.contains(part)), "{value}");
        }
        assert!(from_value::<Parameters>(json!({ "temprature": 1.0 })).is_err());
    }

    #[test]
    fn gradients_stop_at_the_ends_of_grids_that_stay() {
        let stops = |value: Value| {
            let parameters = from_value::<Parameters>(value).unwrap();
            parameters.stops_at_clipped(parameters.scales(false))
        };
        assert!(stops(json!({ "scales": "learned" })) && stops(json!({ "scales": "frozen" })));
        assert!(!stops(json!({})) && stops(json!({ "clipped": "stop" })));
        assert!(!stops(json!({ "scales": "learned", "clipped": "pass" })));
        let default = Parameters::default();
        assert_eq!([true, false].map(|from_codes| default.scales(from_codes)), [Scales::Frozen, Scales::Dynamic]);
    }
}
