//! AdamW (Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization, algorithm 2).

use std::collections::BTreeMap;

use workbench_model::decoder::{Gradients, TrainableParams};

use crate::{ParameterGroup, TrainError};

/// What AdamW can be told.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight that is taken away per unit of learning rate. Matrices only: norms and biases do not decay.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.0 }
    }
}

/// First and second moment of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// The optimizer with its state.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    groups: Vec<ParameterGroup>,
    /// Steps taken.
    pub(crate) steps: u64,
    pub(crate) moments: BTreeMap<String, Moments>,
}

/// The factors of one step, the same for every element.
#[derive(Clone, Copy)]
struct Step {
    gradient: f32,
    betas: [f32; 2],
    rests: [f32; 2],
    /// learning rate / (1 - beta1^t).
    size: f32,
    /// 1 / sqrt(1 - beta2^t).
    correction: f32,
    eps: f32,
    keep: f32,
}

impl AdamW {
    /// An optimizer that has taken no step.
    pub fn new(config: AdamWConfig) -> Self {
        Self::with_groups(config, Vec::new())
    }

    /// The same, with groups that are trained otherwise: a parameter belongs to the first one that names it.
    pub fn with_groups(config: AdamWConfig, groups: Vec<ParameterGroup>) -> Self {
        Self { config, groups, steps: 0, moments: BTreeMap::new() }
    }

    /// The factor of a parameter's learning rate, and its weight decay.
    fn settings(&self, name: &str, rank: usize) -> (f64, f64) {
        let usual = if rank >= 2 { self.config.weight_decay } else { 0.0 };
        let group = self.groups.iter().find(|group| group.has(name));
        group.map_or((1.0, usual), |group| (group.rate, group.weight_decay.unwrap_or(usual)))
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Moves every parameter that is not frozen by its gradient times `factor` (from clipping). Arithmetic is in f32, factors in f64.
    ///
    /// # Errors
    /// When a parameter has no gradient: something in the model cuts the graph.
    pub fn step(
        &mut self,
        parameters: &TrainableParams,
        gradients: &Gradients,
        learning_rate: f64,
        factor: f64,
    ) -> Result<(), TrainError> {
        self.steps += 1;
        let [beta1, beta2] = self.config.betas;
        let exponent = i32::try_from(self.steps).unwrap_or(i32::MAX);
        for (name, var) in parameters.trainable() {
            let (rate, decay) = self.settings(name, var.rank());
            let learning_rate = learning_rate * rate;
            let step = Step {
                gradient: factor as f32,
                betas: [beta1 as f32, beta2 as f32],
                rests: [(1.0 - beta1) as f32, (1.0 - beta2) as f32],
                size: (learning_rate / (1.0 - beta1.powi(exponent))) as f32,
                correction: (1.0 / (1.0 - beta2.powi(exponent)).sqrt()) as f32,
                eps: self.config.eps as f32,
                keep: (1.0 - learning_rate * decay) as f32,
            };
            let count = var.elem_count();
            let moments = self
                .moments
                .entry(name.to_owned())
                .or_insert_with(|| Moments { first: vec![0.0; count], second: vec![0.0; count] });
            let updated = gradients
                .read(name, |gradient| parameters.update(name, |weights| step.apply(weights, gradient, moments)))?;
            updated.ok_or_else(|| TrainError::NoGradient(name.to_owned()))??;
        }
        Ok(())
    }
}

impl Step {
    fn apply(self, weights: &mut [f32], gradient: &[f32], moments: &mut Moments) {
        let state = moments.first.iter_mut().zip(&mut moments.second);
        for ((weight, gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(state) {
            let g = gradient * self.gradient;
            *first = self.betas[0] * *first + self.rests[0] * g;
            *second = self.betas[1] * *second + self.rests[1] * g * g;
            *weight = self.keep * *weight - self.size * *first / (second.sqrt() * self.correction + self.eps);
        }
    }
}
