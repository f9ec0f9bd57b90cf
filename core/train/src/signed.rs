//! Signed gradient descent: every number moves by the learning rate, whichever way its loss falls.

use std::collections::BTreeMap;

use workbench_model::WeightSource;
use workbench_model::decoder::{Gradients, TrainableParams};

use crate::groups::matches;
use crate::trainer::finite;
use crate::{Objective, Observer, Order, Schedule, ScheduleKind, StepReport, Summary, TrainError, global_norm};

/// How the parameters that a pattern names move.
#[derive(Clone, Debug, PartialEq)]
pub struct SignedGroup {
    /// The names of parameters, `*` for any characters.
    pub pattern: String,
    /// How far a number moves in the first step. The rate falls in a straight line down to zero.
    pub learning_rate: f64,
    /// Between which bounds it stays.
    pub bounds: [f32; 2],
}

/// Settings of [`descend_by_signs`].
#[derive(Clone, Debug, PartialEq)]
pub struct SignedConfig {
    /// A parameter belongs to the first group that names it.
    pub groups: Vec<SignedGroup>,
    /// How often the loss is measured; between two measurements lies a step.
    pub steps: u64,
    /// Examples of a step.
    pub batch_size: usize,
    /// Whether what had the least loss on the examples of its own step is left behind, and not what was measured last.
    pub keep_best: bool,
    /// Seed of the data's order.
    pub seed: u64,
}

/// Trains what of `parameters` is not frozen, in place, as SignRound does (Cheng et al. 2023, arXiv:2309.05516): a step measures the loss
/// of its examples, and then moves every parameter against the sign of its gradient. Behind the last measurement nothing moves.
///
/// # Errors
/// A parameter that no group names, a diverged loss, a parameter without gradient, or whatever the objective and the observer return.
pub fn descend_by_signs(
    parameters: &TrainableParams,
    objective: &mut dyn Objective,
    config: &SignedConfig,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    let schedule = Schedule::new(ScheduleKind::Linear, 0.0, config.steps);
    let mut order = Order::new(objective.examples(), config.batch_size, config.seed);
    let (mut losses, mut best) = (Vec::new(), None::<(u64, f64, BTreeMap<String, Vec<f32>>)>);
    for step in 0..config.steps {
        objective.begin_step()?;
        let (all, mut gradients) = (order.step(step), Gradients::default());
        let loss = objective.accumulate(&all, &all, &mut gradients)?;
        finite(step, "loss", loss)?;
        let norm = global_norm(&gradients)?;
        finite(step, "gradient norm", norm)?;
        losses.push(loss);
        if config.keep_best && best.as_ref().is_none_or(|(_, least, _)| loss < *least) {
            let values = parameters.trainable().map(|(name, _)| Ok((name.to_owned(), parameters.values(name)?)));
            best = Some((step, loss, values.collect::<Result<_, TrainError>>()?));
        }
        let factor = schedule.factor(step);
        if step + 1 < config.steps {
            move_all(parameters, &gradients, &config.groups, factor)?;
        }
        let rate = config.groups.first().map_or(0.0, |group| group.learning_rate * factor);
        observer.step(&StepReport {
            step: step + 1,
            total_steps: config.steps,
            loss,
            gradient_norm: norm,
            learning_rate: rate,
            validation: None,
        })?;
    }
    let kept = best.as_ref().map(|(step, loss, _)| (step + 1, *loss));
    for (name, values) in best.into_iter().flat_map(|(.., values)| values) {
        parameters.set(&name, values)?;
    }
    Ok(Summary { losses, validation: Vec::new(), kept, resumed_at: 0 })
}

fn move_all(
    parameters: &TrainableParams,
    gradients: &Gradients,
    groups: &[SignedGroup],
    factor: f64,
) -> Result<(), TrainError> {
    for (name, _) in parameters.trainable() {
        let Some(group) = groups.iter().find(|group| matches(&group.pattern, name)) else {
            let problem = format!("name no rate for `{name}`");
            return Err(TrainError::Setting { setting: "groups", problem });
        };
        let (rate, [low, high]) = ((group.learning_rate * factor) as f32, group.bounds);
        let moved = gradients.read(name, |gradient| {
            parameters.update(name, |values| {
                for (value, gradient) in values.iter_mut().zip(gradient) {
                    // What has no gradient stays where it is.
                    let sign = if *gradient == 0.0 { 0.0 } else { gradient.signum() };
                    *value = (*value - rate * sign).clamp(low, high);
                }
            })
        })?;
        moved.ok_or_else(|| TrainError::NoGradient(name.to_owned()))??;
    }
    Ok(())
}
