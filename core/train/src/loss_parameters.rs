//! What a script can say about what is minimized: a part of the parameters of trainers that can learn from a teacher.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_model::decoder::Divergence;

/// What is minimized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// The divergence from the teacher's predictions.
    #[default]
    Distillation,
    /// -log p of the tokens of the data.
    CrossEntropy,
}

/// Parameters of the loss.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LossParameters {
    /// What is minimized: `distillation` (the divergence from the predictions of `teacher`, or, where training starts from plain weights,
    /// of the model as it is given) or `cross_entropy` (of the data).
    pub loss: LossKind,
    /// Of distillation: 0 for KL(teacher ‖ student), 1 for KL(student ‖ teacher), between them the generalized Jensen-Shannon
    /// divergence of GKD.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub beta: f64,
    /// Of distillation: what both models' logits are divided by.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub temperature: f64,
}

impl Default for LossParameters {
    fn default() -> Self {
        Self { loss: LossKind::default(), beta: 0.0, temperature: 1.0 }
    }
}

impl LossParameters {
    /// The divergence of distillation.
    pub fn divergence(&self) -> Divergence {
        Divergence { beta: self.beta, temperature: self.temperature }
    }

    /// A parameter of distillation that was given although the loss is another one.
    pub fn unused(&self) -> Option<&'static str> {
        let defaults = Self::default();
        let given = [("beta", self.beta, defaults.beta), ("temperature", self.temperature, defaults.temperature)];
        let given = given.into_iter().find(|(_, given, default)| given != default).map(|(name, ..)| name);
        given.filter(|_| self.loss != LossKind::Distillation)
    }
}
