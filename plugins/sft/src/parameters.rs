//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_train::TrainingParameters;

/// Where training starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Init {
    /// At the weights of the model.
    #[default]
    Model,
    /// At random weights: normal ones for matrices, ones for norms, zeros for biases.
    Random,
}

/// Parameters of `sft`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Where training starts: `model` (its weights) or `random`.
    pub init: Init,
    /// Standard deviation of random weights.
    #[schemars(range(min = 0.0))]
    pub initializer_range: f64,
    /// The loop's.
    #[serde(flatten)]
    pub training: TrainingParameters,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { init: Init::Model, initializer_range: 0.02, training: TrainingParameters::default() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn parameters_of_the_loop_stand_beside_its_own_and_no_others() {
        let read: Parameters = from_value(json!({ "init": "random", "learning_rate": 0.5 })).unwrap();
        assert!(read.init == Init::Random && read.training.learning_rate == 0.5);
        let error = from_value::<Parameters>(json!({ "learning_rat": 0.5 })).unwrap_err();
        assert!(error.to_string().contains("learning_rat"), "{error}");
    }
}
