//! What has happened in a training so far: what a checkpoint keeps beside weights and moments.

use std::collections::BTreeMap;

use workbench_model::WeightSource;
use workbench_model::decoder::TrainableParams;

use crate::{Objective, TrainConfig, TrainError};

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// The loss of every step.
    pub(crate) losses: Vec<f64>,
    /// Step and loss of every measurement on validation data.
    pub(crate) validation: Vec<(u64, f64)>,
    /// The best measurement with its weights, where these are kept.
    pub(crate) best: Option<Best>,
}

/// The weights that had the least loss, the first of equals.
#[derive(Debug, Default)]
pub(crate) struct Best {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    pub(crate) weights: BTreeMap<String, Vec<f32>>,
}

impl Course {
    /// Measures the loss on validation data after `step` steps, if there are any, and keeps the weights if they are the best and
    /// shall be kept.
    pub(crate) fn measure(
        &mut self,
        step: u64,
        objective: &mut dyn Objective,
        parameters: &TrainableParams,
        config: &TrainConfig,
    ) -> Result<Option<f64>, TrainError> {
        let Some(loss) = objective.validate()? else { return Ok(None) };
        if !loss.is_finite() {
            return Err(TrainError::Diverged { step, what: "validation loss", value: loss });
        }
        self.validation.push((step, loss));
        if config.keep_best && self.best.as_ref().is_none_or(|best| loss < best.loss) {
            let weights = parameters.trainable().map(|(name, _)| Ok((name.to_owned(), parameters.values(name)?)));
            let weights = weights.collect::<Result<_, TrainError>>()?;
            self.best = Some(Best { step, loss, weights });
        }
        Ok(Some(loss))
    }

    /// Whether the loss has not become smaller for as long as training has patience.
    pub(crate) fn has_ended(&self, config: &TrainConfig) -> bool {
        let mut least = f64::INFINITY;
        let mut since = 0;
        for (_, loss) in &self.validation {
            since = if *loss < least { 0 } else { since + 1 };
            least = least.min(*loss);
        }
        config.patience > 0 && since >= config.patience
    }

    /// Puts the best weights in the place of the last ones, if they were kept.
    pub(crate) fn leave_best(&mut self, parameters: &TrainableParams) -> Result<(), TrainError> {
        for (name, values) in self.best.iter_mut().flat_map(|best| std::mem::take(&mut best.weights)) {
            parameters.set(&name, values)?;
        }
        Ok(())
    }
}
