//! Learned rotations: SpinQuant (Liu et al. 2024, arXiv:2405.16406, section 3).
//!
//! R1 and the R2 of each block go down the gradient of the loss of the model whose inputs (and weights, if the scheme says so)
//! are quantized. Rotations are f64 throughout, every step is an exact Cayley transform, and every step folds the original
//! weights anew, so that what is trained is what will be written.

mod checkpoint;
mod gradient;
mod loss;
mod model;
mod scales;
mod site;

use std::path::Path;

use serde_json::{Value, json};
use workbench_api::sdk::Error;
use workbench_model::decoder::{Gradients, LossOptions};
use workbench_model::{ModelConfig, WeightSource};
use workbench_quant::{Conventions, Dynamic, Grid, QuantizationArgs, Scheme, StorageDtype};
use workbench_rotation::{Rotation, cayley_step};
use workbench_train::{Order, Schedule, ScheduleKind};

use crate::parameters::Learn;
use crate::rotations::Rotations;
use checkpoint::State;
pub(crate) use loss::Loss;
use model::{Grids, Model};
pub(crate) use scales::Scales;

/// Sequences on which the loss is measured before and after.
const MEASURED: usize = 32;

/// Positions whose logits exist at one time.
const CHUNK: usize = 1024;

/// One step, for curves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// Its number, counted from 1.
    pub(crate) number: u64,
    /// The mean loss of its sequences, before it.
    pub(crate) loss: f64,
    pub(crate) learning_rate: f64,
    /// The longest step that a rotation took, and the norm of all gradients along the rotations.
    pub(crate) step_size: f64,
    pub(crate) gradient_norm: f64,
    /// The largest entry of |RᵀR - I| of all rotations.
    pub(crate) deviation: f64,
}

/// What is learned from, and where it is kept.
pub(crate) struct Run<'a> {
    pub(crate) source: &'a dyn WeightSource,
    pub(crate) config: &'a ModelConfig,
    pub(crate) learn: &'a Learn,
    pub(crate) seed: u64,
    pub(crate) sequences: &'a [Vec<u32>],
    /// A folder for checkpoints.
    pub(crate) folder: Option<&'a Path>,
}

impl Run<'_> {
    /// Learns what of R1 and R2 there is, and returns facts about it. `observe` sees every step; an error of its ends the run
    /// behind a checkpoint.
    pub(crate) fn learn(
        &self,
        rotations: &mut Rotations,
        observe: &mut dyn FnMut(&Step) -> Result<(), Error>,
    ) -> Result<Value, Error> {
        self.check(rotations)?;
        let options = LossOptions { gradient_checkpointing: self.learn.gradient_checkpointing, chunk: CHUNK };
        make_dense(rotations)?;
        let mut model = Model::new(self.source, self.config, rotations, grids(self.learn)?, self.learn.loss, options)?;
        let measured = &self.sequences[..self.sequences.len().min(MEASURED)];
        model.rotate(rotations)?;
        let before = model.loss(measured)?;

        let (mut losses, mut deviation) = self.resume(rotations)?;
        let mut order = Order::new(self.sequences.len(), self.learn.batch_size, self.seed);
        let schedule = Schedule::new(ScheduleKind::Cosine, 0.0, self.learn.steps);
        for number in losses.len() as u64..self.learn.steps {
            let rate = self.learn.learning_rate * schedule.factor(number);
            let step = self.step(&mut model, rotations, &order.step(number), rate)?;
            let step = Step { number: number + 1, ..step };
            losses.push(step.loss);
            deviation = deviation.max(step.deviation);
            let observed = observe(&step);
            let due = self.learn.checkpoint_every > 0 && step.number.is_multiple_of(self.learn.checkpoint_every);
            // Resuming behind the last step would take no step and so show none: the end is worth the last stretch again.
            let more = step.number < self.learn.steps;
            if more && (due || observed.is_err()) {
                self.save(rotations, &losses, deviation)?;
            }
            observed?;
        }
        model.rotate(rotations)?;
        let after = model.loss(measured)?;
        Ok(json!({
            "steps": self.learn.steps,
            "loss": self.learn.loss,
            "first_loss": losses.first(),
            "last_loss": losses.last(),
            "loss_before": before,
            "loss_after": after,
            "measured_sequences": measured.len(),
            "largest_deviation_from_orthogonality": deviation,
        }))
    }

    fn check(&self, rotations: &Rotations) -> Result<(), Error> {
        if rotations.hidden.is_none() && rotations.values.is_none() {
            return Err(Error::parameters("`learn` learns R1 and R2, and `rotations` has neither"));
        }
        match self.sequences.iter().find(|ids| ids.len() < 2) {
            _ if self.sequences.is_empty() => Err(Error::input("there are no calibration sequences to learn from")),
            Some(short) => Err(Error::input(format!("a calibration sequence has {} tokens", short.len()))
                .with_hint("the next token can be predicted from two tokens on")),
            None => Ok(()),
        }
    }

    fn step(
        &self,
        model: &mut Model<'_>,
        rotations: &mut Rotations,
        examples: &[usize],
        rate: f64,
    ) -> Result<Step, Error> {
        model.rotate(rotations)?;
        let sequences: Vec<&Vec<u32>> = examples.iter().map(|index| &self.sequences[*index]).collect();
        let total: usize = sequences.iter().map(|ids| ids.len() - 1).sum();
        let (mut gradients, mut loss) = (Gradients::default(), 0.0);
        for ids in sequences {
            loss += model.accumulate(ids, total, &mut gradients)?;
        }
        if !loss.is_finite() {
            return Err(Error::numeric(format!("the loss is {loss}")).with_hint("take a smaller learning rate"));
        }
        let found = model.by_rotation(&gradients)?;
        let mut step =
            Step { number: 0, loss, learning_rate: rate, step_size: 0.0, gradient_norm: 0.0, deviation: 0.0 };
        let mut squares = 0.0;
        for (rotation, z) in dense(rotations).zip(found) {
            let taken = cayley_step(rotation, &z, rate)?;
            squares += taken.gradient_norm.powi(2);
            step.step_size = step.step_size.max(taken.step_size);
            step.deviation = step.deviation.max(taken.deviation);
        }
        Ok(Step { gradient_norm: squares.sqrt(), ..step })
    }

    fn settings(&self) -> String {
        let Learn { checkpoint_every: _, gradient_checkpointing: _, .. } = self.learn;
        let Learn { steps, learning_rate, batch_size, scheme, scales, loss, .. } = self.learn;
        let sequences = self.sequences.len();
        json!({ "steps": steps, "learning_rate": learning_rate, "batch_size": batch_size, "scheme": scheme,
            "scales": scales, "loss": loss, "seed": self.seed, "sequences": sequences })
        .to_string()
    }

    fn save(&self, rotations: &mut Rotations, losses: &[f64], deviation: f64) -> Result<(), Error> {
        let Some(folder) = self.folder else { return Ok(()) };
        let matrices =
            dense(rotations).enumerate().map(|(index, matrix)| (index.to_string(), matrix.clone())).collect();
        checkpoint::save(folder, &State { matrices, losses: losses.to_vec(), deviation }, &self.settings())
    }

    /// Takes the rotations of a checkpoint, if there is one; returns the losses of the steps behind it, and the largest deviation.
    fn resume(&self, rotations: &mut Rotations) -> Result<(Vec<f64>, f64), Error> {
        let found = self.folder.map(|folder| checkpoint::load(folder, &self.settings())).transpose()?.flatten();
        let Some(state) = found else { return Ok((Vec::new(), 0.0)) };
        let matrices: std::collections::BTreeMap<String, _> = state.matrices.into_iter().collect();
        for (index, rotation) in dense(rotations).enumerate() {
            match matrices.get(&index.to_string()) {
                Some(matrix) if matrix.size() == rotation.size() => *rotation = matrix.clone(),
                _ => {
                    return Err(Error::input(format!(
                        "the checkpoint has no rotation {index} of size {}",
                        rotation.size()
                    )));
                }
            }
        }
        Ok((state.losses, state.deviation))
    }
}

/// Turns R1 and R2 into matrices.
fn make_dense(rotations: &mut Rotations) -> Result<(), Error> {
    for rotation in rotations.hidden.iter_mut().chain(rotations.values.iter_mut().flatten()) {
        *rotation = Rotation::Dense(rotation.matrix()?);
    }
    Ok(())
}

/// The matrices of R1 and of each R2, in this order.
fn dense(rotations: &mut Rotations) -> impl Iterator<Item = &mut workbench_rotation::Square> {
    rotations.hidden.iter_mut().chain(rotations.values.iter_mut().flatten()).filter_map(|rotation| match rotation {
        Rotation::Dense(matrix) => Some(matrix),
        Rotation::Hadamard { .. } => None,
    })
}

/// The grids of a scheme. Transforms write f32, so scales are f32.
pub(crate) fn grids(learn: &Learn) -> Result<Grids, Error> {
    let wrong = |message: String| Error::parameters(format!("`learn.scheme`: {message}"));
    let scheme = Scheme::from_value(&learn.scheme).map_err(|error| wrong(error.to_string()))?;
    if !scheme.targets.is_empty() || !scheme.ignore.is_empty() {
        return Err(wrong("rotations are learned with all linears of the blocks quantized alike".into())
            .with_hint("leave `targets` and `ignore` out"));
    }
    if scheme.output_activations.is_some() {
        return Err(wrong("outputs are not quantized while learning".into()));
    }
    let grid = |args: &QuantizationArgs| {
        Grid::new(args, StorageDtype::F32, Conventions::default()).map_err(|error| wrong(error.to_string()))
    };
    let (weights, inputs) = (scheme.weights.as_ref().map(grid), scheme.input_activations.as_ref().map(grid));
    let (weights, inputs) = (weights.transpose()?, inputs.transpose()?);
    if inputs.as_ref().is_some_and(|grid| grid.args().dynamic != Dynamic::Yes) {
        return Err(wrong(
            "input scales must be dynamic: there is no calibration of them while rotations change".into(),
        ));
    }
    Ok(Grids { weights, inputs, scales: learn.scales })
}

#[cfg(test)]
mod tests;
