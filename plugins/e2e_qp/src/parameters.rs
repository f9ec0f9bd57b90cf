//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::Error;
use workbench_plugin_model::{check_loss, train_error};
use workbench_train::{LossKind, LossParameters, TrainingParameters};

/// Parameters of `e2e_qp`. The learning rate is the paper's for three bits and more; it takes 2e-5 for two.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// What is minimized.
    #[serde(flatten)]
    pub loss: LossParameters,
    /// The loop's.
    #[serde(flatten)]
    pub training: TrainingParameters,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            loss: LossParameters { loss: LossKind::CrossEntropy, ..LossParameters::default() },
            training: TrainingParameters {
                learning_rate: 1e-5,
                warmup_ratio: 0.03,
                max_grad_norm: 0.3,
                ..TrainingParameters::default()
            },
        }
    }
}

impl Parameters {
    /// An error for settings that make no sense.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.training.config().check().map_err(train_error)?;
        if self.training.weight_decay != 0.0 {
            return Err(Error::parameters("`weight_decay` would shrink scales, and with them every weight")
                .with_hint("leave it out: scales do not decay"));
        }
        check_loss(&self.loss)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, from_value, json, to_value};

    use super::*;

    /// Parameters as a host hands them out: with the defaults filled in.
    fn check(given: Value) -> Option<String> {
        let mut all = to_value(Parameters::default()).unwrap();
        for (key, value) in given.as_object().unwrap() {
            all[key] = value.clone();
        }
        from_value::<Parameters>(all).unwrap().check().err().map(|error| error.to_string())
    }

    #[test]
    fn parameters_that_would_say_nothing_are_refused() {
        assert_eq!(check(json!({})), None);
        assert_eq!(check(json!({ "loss": "distillation", "beta": 0.5, "temperature": 2.0 })), None);
        for (value, part) in [
            (json!({ "beta": 0.5 }), "`beta` is about distillation"),
            (json!({ "temperature": 2.0 }), "`temperature` is about distillation"),
            (json!({ "weight_decay": 0.1 }), "would shrink scales"),
            (json!({ "patience": 3 }), "validate_every"),
            (json!({ "loss": "distillation", "beta": 2.0 }), "beta"),
        ] {
            assert!(check(value.clone()).is_some_and(|error| error.contains(part)), "{value}");
        }
        assert!(from_value::<Parameters>(json!({ "scales": "learned" })).is_err());
    }

    #[test]
    fn defaults_are_those_of_the_paper() {
        let defaults = to_value(Parameters::default()).unwrap();
        for (name, expected) in [
            ("loss", json!("cross_entropy")),
            ("learning_rate", json!(1e-5)),
            ("schedule", json!("cosine")),
            ("warmup_ratio", json!(0.03)),
            ("max_grad_norm", json!(0.3)),
            ("weight_decay", json!(0.0)),
            ("epochs", json!(1.0)),
        ] {
            assert_eq!(defaults[name], expected, "{name}");
        }
    }
}
