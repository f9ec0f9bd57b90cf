//! The training loop.

use std::path::Path;

use serde_json::{Value, json};
use workbench_model::decoder::{Gradients, TrainableParams};

use crate::adamw::{AdamW, AdamWConfig};
use crate::course::Course;
use crate::{Order, ParameterGroup, Schedule, ScheduleKind, TrainError, checkpoint, clip_factor, global_norm, groups};

/// What a trainer computes for a batch.
pub trait Objective {
    /// How many examples there are to draw from.
    fn examples(&self) -> usize;

    /// Called with the examples of a step, counted from 0, before it [begins](Self::begin_step), when its weights are known.
    ///
    /// # Errors
    /// What the step needs cannot be had.
    fn prepare(&mut self, step: u64, all: &[usize]) -> Result<(), TrainError> {
        let _ = (step, all);
        Ok(())
    }

    /// Called before the examples of a step, when its weights are known.
    ///
    /// # Errors
    /// The model cannot be computed with them.
    fn begin_step(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    /// The loss on data that nothing is learned of; `None` where there are none.
    ///
    /// # Errors
    /// The loss cannot be computed.
    fn validate(&mut self) -> Result<Option<f64>, TrainError> {
        Ok(None)
    }

    /// Adds to `gradients` those of the examples `part`, and returns their share of the loss. A step's examples are
    /// `all`, taken in parts to save memory: the shares of all parts must add up to the step's loss.
    ///
    /// # Errors
    /// The loss cannot be computed.
    fn accumulate(&mut self, all: &[usize], part: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError>;
}

/// Sees every step.
pub trait Observer {
    /// Called after each step, and before the first one where the loss is measured then (as step 0).
    ///
    /// # Errors
    /// [`TrainError::Stopped`] ends training after writing a checkpoint.
    fn step(&mut self, report: &StepReport) -> Result<(), TrainError>;
}

/// Observes nothing.
impl Observer for () {
    fn step(&mut self, _: &StepReport) -> Result<(), TrainError> {
        Ok(())
    }
}

/// A closure observes.
impl<F: FnMut(&StepReport) -> Result<(), TrainError>> Observer for F {
    fn step(&mut self, report: &StepReport) -> Result<(), TrainError> {
        self(report)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Its number, counted from 1.
    pub step: u64,
    /// How many steps there will be.
    pub total_steps: u64,
    /// The loss before the step.
    pub loss: f64,
    /// The norm of the gradient before clipping.
    pub gradient_norm: f64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The loss on validation data after the step, where it was measured.
    pub validation: Option<f64>,
}

/// Settings of the loop.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// The peak learning rate.
    pub learning_rate: f64,
    /// How the rate develops.
    pub schedule: ScheduleKind,
    /// The share of the peak at which the rate ends, and from which it rises: 0 where it falls to zero.
    pub least_rate: f64,
    /// Share of all steps in which the rate rises.
    pub warmup_ratio: f64,
    /// How often the data is gone through, where `max_steps` is not given.
    pub epochs: f64,
    /// How many steps to take; takes precedence over `epochs`.
    pub max_steps: Option<u64>,
    /// Examples of one forward and backward pass.
    pub batch_size: usize,
    /// Passes whose gradients make one step.
    pub gradient_accumulation: usize,
    /// Steps that are taken of the same examples, one after the other.
    pub steps_per_batch: u64,
    /// Limit of the gradient's norm; 0 for none.
    pub max_grad_norm: f64,
    /// The optimizer's settings.
    pub optimizer: AdamWConfig,
    /// Parameters that are trained otherwise than the rest: each belongs to the first group that names it.
    pub groups: Vec<ParameterGroup>,
    /// Seed of the data's order.
    pub seed: u64,
    /// Steps between checkpoints; 0 for none.
    pub checkpoint_every: u64,
    /// Steps between measurements on validation data; 0 for none but before the first step and behind the last.
    pub validate_every: u64,
    /// Whether the weights of the measurement with the least loss are what is left behind, and not those of the last step.
    pub keep_best: bool,
    /// Measurements without a smaller loss after which training ends; 0 for no end.
    pub patience: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            learning_rate: 5e-5,
            schedule: ScheduleKind::Cosine,
            least_rate: 0.0,
            warmup_ratio: 0.0,
            epochs: 1.0,
            max_steps: None,
            batch_size: 8,
            gradient_accumulation: 1,
            steps_per_batch: 1,
            max_grad_norm: 1.0,
            optimizer: AdamWConfig::default(),
            groups: Vec::new(),
            seed: 0,
            checkpoint_every: 0,
            validate_every: 0,
            keep_best: false,
            patience: 0,
        }
    }
}

impl TrainConfig {
    /// An error for settings that make no sense.
    ///
    /// # Errors
    /// Names the setting.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |setting, problem: &str| Err(TrainError::Setting { setting, problem: problem.to_owned() });
        let [beta1, beta2] = self.optimizer.betas;
        match self {
            _ if !(self.learning_rate >= 0.0 && self.learning_rate.is_finite()) => {
                wrong("learning_rate", "must be a number of at least 0")
            }
            _ if !(0.0..=1.0).contains(&self.least_rate) => wrong("least_rate", "must lie between 0 and 1"),
            _ if !(0.0..=1.0).contains(&self.warmup_ratio) => wrong("warmup_ratio", "must lie between 0 and 1"),
            _ if self.max_steps.is_none() && !(self.epochs > 0.0 && self.epochs.is_finite()) => {
                wrong("epochs", "must be larger than 0")
            }
            _ if self.batch_size == 0 => wrong("batch_size", "must be at least 1"),
            _ if self.gradient_accumulation == 0 => wrong("gradient_accumulation", "must be at least 1"),
            _ if self.steps_per_batch == 0 => wrong("steps_per_batch", "must be at least 1"),
            _ if self.patience > 0 && self.validate_every == 0 => wrong(
                "patience",
                "counts measurements between the first step and the last: say how often by `validate_every`",
            ),
            _ if self.max_grad_norm.is_nan() || self.max_grad_norm < 0.0 => {
                wrong("max_grad_norm", "must be at least 0 (0: no limit)")
            }
            _ if !(0.0..1.0).contains(&beta1) || !(0.0..1.0).contains(&beta2) => {
                wrong("betas", "must lie between 0 and 1, 1 excluded")
            }
            _ if self.optimizer.eps.is_nan() || self.optimizer.eps <= 0.0 => wrong("eps", "must be larger than 0"),
            _ if self.optimizer.weight_decay.is_nan() || self.optimizer.weight_decay < 0.0 => {
                wrong("weight_decay", "must be at least 0")
            }
            _ => Ok(()),
        }
    }

    /// Steps that training on `examples` examples takes.
    pub fn total_steps(&self, examples: usize) -> u64 {
        let order = Order::new(examples, self.batch_size.saturating_mul(self.gradient_accumulation), self.seed);
        let batches = || (self.epochs * order.steps_per_epoch() as f64).ceil() as u64;
        self.max_steps.unwrap_or_else(|| batches().saturating_mul(self.steps_per_batch))
    }

    /// What a checkpoint must agree on in order to be continued.
    fn settings(&self, examples: usize, parameters: &TrainableParams) -> Value {
        let groups = self.groups.iter().map(|group| json!([group.pattern, group.rate, group.weight_decay]));
        let frozen = parameters.iter().map(|(name, _)| name).filter(|name| parameters.is_frozen(name));
        json!({
            "groups": groups.collect::<Vec<_>>(),
            "frozen": frozen.collect::<Vec<_>>(),
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "least_rate": self.least_rate,
            "warmup_ratio": self.warmup_ratio,
            "total_steps": self.total_steps(examples),
            "batch_size": self.batch_size,
            "gradient_accumulation": self.gradient_accumulation,
            "steps_per_batch": self.steps_per_batch,
            "max_grad_norm": self.max_grad_norm,
            "betas": self.optimizer.betas,
            "eps": self.optimizer.eps,
            "weight_decay": self.optimizer.weight_decay,
            "seed": self.seed,
            "examples": examples,
            "parameters": parameters.count(),
            "validate_every": self.validate_every,
            "keep_best": self.keep_best,
            "patience": self.patience,
        })
    }
}

/// What training did.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// The loss of every step, those before an interruption included.
    pub losses: Vec<f64>,
    /// Step and loss of every measurement on validation data, in their order.
    pub validation: Vec<(u64, f64)>,
    /// The measurement whose weights were left behind, where the best are kept.
    pub kept: Option<(u64, f64)>,
    /// Steps that a checkpoint spared.
    pub resumed_at: u64,
}

/// Trains what of `parameters` is not frozen, in place. With a `folder`, the state is written there every `checkpoint_every` steps but
/// the last, and training continues from the state that it finds; the result is then equal to the last bit to that of a run without
/// interruption.
///
/// # Errors
/// Settings that make no sense, a diverged loss, a parameter without gradient, a checkpoint that cannot be used, or
/// whatever the objective and the observer return.
pub fn train(
    parameters: &TrainableParams,
    objective: &mut dyn Objective,
    config: &TrainConfig,
    folder: Option<&Path>,
    observer: &mut dyn Observer,
) -> Result<Summary, TrainError> {
    config.check()?;
    groups::check(&config.groups, parameters)?;
    let examples = objective.examples();
    if examples == 0 {
        return Err(TrainError::Data("there are no training examples".to_owned()));
    }
    if parameters.trainable().next().is_none() {
        return Err(TrainError::Data("there is nothing to train: every parameter is frozen".to_owned()));
    }
    let total_steps = config.total_steps(examples);
    let schedule = Schedule::new(config.schedule, config.warmup_ratio, total_steps);
    let rate = |step| config.learning_rate * (config.least_rate + (1.0 - config.least_rate) * schedule.factor(step));
    let of_step = config.batch_size.saturating_mul(config.gradient_accumulation);
    let mut order = Order::new(examples, of_step, config.seed);
    let mut optimizer = AdamW::with_groups(config.optimizer, config.groups.clone());
    let settings = config.settings(examples, parameters);
    let mut course = match folder {
        Some(folder) => checkpoint::resume(folder, parameters, &mut optimizer, &settings)?.unwrap_or_default(),
        None => Course::default(),
    };
    let resumed_at = course.losses.len() as u64;
    if resumed_at == 0
        && let Some(loss) = course.measure(0, objective, parameters, config)?
    {
        let (loss, learning_rate) = (Some(loss), 0.0);
        let start = StepReport { step: 0, total_steps, loss: 0.0, gradient_norm: 0.0, learning_rate, validation: loss };
        observer.step(&start)?;
    }
    for step in resumed_at..total_steps {
        if course.has_ended(config) {
            break;
        }
        let all = order.step(step / config.steps_per_batch);
        objective.prepare(step, &all)?;
        objective.begin_step()?;
        let (loss, gradient_norm) = {
            let mut gradients = Gradients::default();
            let mut loss = 0.0;
            for part in all.chunks(config.batch_size) {
                loss += objective.accumulate(&all, part, &mut gradients)?;
            }
            finite(step, "loss", loss)?;
            let norm = global_norm(&gradients)?;
            finite(step, "gradient norm", norm)?;
            optimizer.step(parameters, &gradients, rate(step), clip_factor(norm, config.max_grad_norm))?;
            (loss, norm)
        };
        course.losses.push(loss);
        let last = step + 1 == total_steps;
        let due = last || config.validate_every > 0 && (step + 1) % config.validate_every == 0;
        let validation = if due { course.measure(step + 1, objective, parameters, config)? } else { None };
        let learning_rate = rate(step);
        let report = StepReport { step: step + 1, total_steps, loss, gradient_norm, learning_rate, validation };
        let observed = observer.step(&report);
        let due = config.checkpoint_every > 0 && (step + 1) % config.checkpoint_every == 0;
        let stopped = matches!(observed, Err(TrainError::Stopped));
        // Resuming behind the last step would take no step and so report none: the end is worth the last stretch again.
        let more = !last && !course.has_ended(config);
        if let Some(folder) = folder.filter(|_| more && (due || stopped)) {
            checkpoint::save(folder, parameters, &optimizer, &course, &settings)?;
        }
        observed?;
    }
    course.leave_best(parameters)?;
    let kept = course.best.map(|best| (best.step, best.loss));
    Ok(Summary { losses: course.losses, validation: course.validation, kept, resumed_at })
}

pub(crate) fn finite(step: u64, what: &'static str, value: f64) -> Result<(), TrainError> {
    if value.is_finite() { Ok(()) } else { Err(TrainError::Diverged { step: step + 1, what, value }) }
}
