//! Reinforcement learning of a policy: it writes for prompts, what it wrote is rewarded, and what was better than the rest becomes
//! more probable.

use std::cell::RefCell;

use candle_core::{Device, Tensor};
use workbench_model::decoder::{Decoder, Gradients, Head, LossOptions, Targets, gradients_of};
use workbench_model::{Context, ModelError, device};

use crate::policy::{Drawn, Extent, Lost};
use crate::rollouts::{Rollout, roll_out};
use crate::{Judge, Objective, PolicyLoss, RolloutConfig, Student, TrainError};

/// The loss of what a policy wrote. The examples of a step are prompts; it computes on grids where the student does, when it writes as
/// when it learns.
pub struct Reinforced<'a, J> {
    student: Student<'a>,
    /// Which the policy shall stay close to: a constant.
    reference: Option<Decoder>,
    /// Numbers by which the judge knows them, and tokens.
    prompts: Vec<(usize, Vec<u32>)>,
    config: RolloutConfig,
    loss: PolicyLoss,
    /// Sequences of one forward and backward pass.
    batch_size: usize,
    options: LossOptions,
    judge: J,
    device: Device,
    /// Over the variables as they were when the step began.
    decoder: Option<Decoder>,
    rollouts: Vec<Rollout>,
    /// The step, counted from 0.
    step: u64,
}

/// Sequences of one pass: padded behind.
struct Batch {
    ids: Tensor,
    context: Context,
    /// The token that follows each position.
    next: Vec<u32>,
    /// Positions of a row.
    len: usize,
}

/// Sums over a step.
#[derive(Default)]
struct Sums {
    loss: f64,
    /// Tokens of all completions, and minus the logarithms of their probabilities.
    tokens: usize,
    surprise: f64,
    /// Distances of these from the sampler's.
    gaps: f64,
    largest_gap: f64,
    /// Of the completions that count.
    divergence: f64,
    clipped: usize,
    counted: usize,
}

impl<'a, J: Judge> Reinforced<'a, J> {
    /// Training of `student` on what it writes for `prompts`, in passes of `batch_size` sequences. Steps draw from the prompts as from
    /// examples: whoever trains takes [`RolloutConfig::iterations`] steps of the same ones.
    ///
    /// # Errors
    /// Settings that make no sense; a prompt is empty, outside of the vocabulary, or too long for the model; a divergence without a
    /// reference, or a reference without weight.
    pub fn new(
        student: Student<'a>,
        reference: Option<Decoder>,
        prompts: Vec<(usize, Vec<u32>)>,
        (config, loss): (RolloutConfig, PolicyLoss),
        (batch_size, options): (usize, LossOptions),
        judge: J,
    ) -> Result<Self, TrainError> {
        config.check()?;
        loss.check()?;
        if batch_size == 0 {
            return Err(TrainError::Setting { setting: "batch_size", problem: "must be at least 1".to_owned() });
        }
        if reference.is_some() != (loss.beta > 0.0) {
            let problem = "is larger than 0 with a reference, and with one alone".to_owned();
            return Err(TrainError::Setting { setting: "beta", problem });
        }
        let (vocabulary, most) = (student.config().vocab_size, student.config().max_positions);
        for (number, ids) in &prompts {
            let wrong = |problem: String| Err(TrainError::Data(format!("prompt {number} {problem}")));
            if ids.is_empty() {
                return wrong("is empty".to_owned());
            }
            if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
                return wrong(format!("holds the token {id}, which is outside of the vocabulary of {vocabulary}"));
            }
            if ids.len().saturating_add(config.longest) > most {
                let (tokens, longest) = (ids.len(), config.longest);
                return wrong(format!(
                    "of {tokens} tokens and a completion of {longest} do not fit into {most} positions"
                ));
            }
        }
        Ok(Self {
            student,
            reference,
            prompts,
            config,
            loss,
            batch_size,
            options,
            judge,
            device: device::chosen(),
            decoder: None,
            rollouts: Vec::new(),
            step: 0,
        })
    }

    /// The model in training.
    pub fn student(&self) -> &Student<'a> {
        &self.student
    }

    /// Adds gradients and sums of one pass.
    fn pass(
        &self,
        decoder: &Decoder,
        rollouts: &mut [Rollout],
        extent: &Extent,
        gradients: &mut Gradients,
        sums: &mut Sums,
    ) -> Result<(), TrainError> {
        let batch = self.batch(rollouts)?;
        if self.step.is_multiple_of(self.config.iterations)
            && let Some(reference) = &self.reference
        {
            let hidden = reference.hidden(&batch.ids, &batch.context, &mut ())?;
            for (rollout, logs) in rollouts.iter_mut().zip(self.logs(reference.head_layer(), &hidden, &batch)?) {
                rollout.reference = logs[rollout.start - 1..rollout.ids.len() - 1].to_vec();
            }
        }
        // What the forward pass says of probabilities decides how much each of them is to grow: the gradient of the weighted sum of
        // their logarithms is that of the loss.
        let state = RefCell::new((rollouts, sums));
        let loss = |head: &Head, hidden: &Tensor| {
            let mut state = state.borrow_mut();
            let (rollouts, sums) = &mut *state;
            let mut weights = vec![0.0; batch.next.len()];
            let logs = self.logs(head, &hidden.detach(), &batch)?;
            for ((row, rollout), logs) in rollouts.iter_mut().enumerate().zip(logs) {
                let (first, end) = (rollout.start - 1, rollout.ids.len() - 1);
                let lost = self.lost(rollout, &logs[first..end], extent, sums);
                for (weight, gradient) in weights[row * batch.len + first..].iter_mut().zip(&lost.gradients) {
                    *weight = -gradient as f32;
                }
            }
            head.loss(hidden, &Targets { ids: batch.next.clone(), weights }, self.options.chunk)
        };
        let (parameters, checkpointing) = (self.student.parameters(), self.options.gradient_checkpointing);
        gradients_of(&loss, decoder, parameters, &batch.ids, &batch.context, checkpointing, gradients)?;
        Ok(())
    }

    /// The loss of a completion whose probabilities are known now.
    fn lost(&self, rollout: &mut Rollout, now: &[f64], extent: &Extent, sums: &mut Sums) -> Lost {
        if self.step.is_multiple_of(self.config.iterations) {
            rollout.before = now.to_vec();
        }
        sums.tokens += now.len();
        for (now, sampled) in now.iter().zip(&rollout.sampled) {
            let gap = (now - sampled).abs();
            sums.surprise -= now;
            sums.gaps += gap;
            sums.largest_gap = sums.largest_gap.max(gap);
        }
        if !rollout.counts {
            return Lost::default();
        }
        let lost = self.loss.of(
            &Drawn {
                now,
                before: &rollout.before,
                sampled: &rollout.sampled,
                reference: self.reference.is_some().then_some(rollout.reference.as_slice()),
                advantage: rollout.advantage,
            },
            extent,
        );
        sums.loss += lost.loss;
        sums.divergence += lost.divergence;
        sums.clipped += lost.clipped;
        sums.counted += now.len();
        lost
    }

    /// Logarithms of the probabilities of what follows each position, a list a row.
    fn logs(&self, head: &Head, hidden: &Tensor, batch: &Batch) -> Result<Vec<Vec<f64>>, ModelError> {
        let scores = head.score(hidden, &batch.next, self.options.chunk)?;
        Ok(scores.chunks(batch.len).map(|row| row.iter().map(|score| score.log_probability).collect()).collect())
    }

    fn batch(&self, rollouts: &[Rollout]) -> Result<Batch, TrainError> {
        let lens: Vec<usize> = rollouts.iter().map(|rollout| rollout.ids.len()).collect();
        let len = lens.iter().max().copied().unwrap_or(0);
        let (mut ids, mut next) = (Vec::new(), Vec::new());
        for rollout in rollouts {
            let padded = |ids: &[u32]| ids.iter().copied().chain(std::iter::repeat(0)).take(len).collect::<Vec<u32>>();
            ids.extend(padded(&rollout.ids));
            next.extend(padded(rollout.ids.get(1..).unwrap_or_default()));
        }
        let ids = Tensor::from_vec(ids, (rollouts.len(), len), &self.device).map_err(ModelError::from)?;
        Ok(Batch { ids, context: Context::full(rollouts.len(), len, Some(&lens)), next, len })
    }

    /// Tells the judge what a step found.
    fn tell(&mut self, sums: &Sums) {
        let step = self.step + 1;
        let of = |sum: f64, count: usize| sum / count.max(1) as f64;
        let first = self.step.is_multiple_of(self.config.iterations);
        let mut tell = |name: &str, value: f64| self.judge.measured(step, name, value);
        tell("entropy_estimate", of(sums.surprise, sums.tokens));
        if first {
            tell("sampling_gap", of(sums.gaps, sums.tokens));
            tell("largest_sampling_gap", sums.largest_gap);
        }
        if self.config.iterations > 1 {
            tell("clipped", of(sums.clipped as f64, sums.counted));
        }
        if self.reference.is_some() {
            tell("kl", of(sums.divergence, sums.counted));
        }
    }
}

impl<J: Judge> Objective for Reinforced<'_, J> {
    fn examples(&self) -> usize {
        self.prompts.len()
    }

    fn prepare(&mut self, step: u64, all: &[usize]) -> Result<(), TrainError> {
        self.step = step;
        if !step.is_multiple_of(self.config.iterations) {
            return match self.rollouts.is_empty() {
                true => Err(TrainError::Data(format!("step {}: what was written for it is gone", step + 1))),
                false => Ok(()),
            };
        }
        self.decoder = None;
        let prompts: Vec<(usize, &[u32])> =
            all.iter().filter_map(|index| self.prompts.get(*index)).map(|(n, ids)| (*n, ids.as_slice())).collect();
        let decoder = self.student.detached()?;
        self.rollouts = roll_out(&decoder, &prompts, &self.config, step, &mut self.judge)?;
        Ok(())
    }

    fn begin_step(&mut self) -> Result<(), TrainError> {
        self.decoder = None;
        self.decoder = Some(self.student.decoder()?);
        Ok(())
    }

    /// Of all prompts of a step at once: what they are divided by is known of all of them alone, and memory goes by `batch_size`.
    fn accumulate(&mut self, all: &[usize], part: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        if all != part {
            let problem = "must be all prompts of a step".to_owned();
            return Err(TrainError::Setting { setting: "batch_size", problem });
        }
        let Some(decoder) = self.decoder.take() else {
            return Err(TrainError::Data("no step has begun".to_owned()));
        };
        let mut rollouts = std::mem::take(&mut self.rollouts);
        let counted = |rollouts: &[Rollout]| rollouts.iter().filter(|r| r.counts).map(Rollout::tokens).sum::<usize>();
        let (completions, tokens) = (rollouts.len(), counted(&rollouts));
        let passes = completions.div_ceil(self.batch_size);
        let mut sums = Sums::default();
        for pass in rollouts.chunks_mut(self.batch_size) {
            let tokens_of_pass = counted(pass);
            let extent = Extent { completions, tokens, passes, tokens_of_pass, longest: self.config.longest };
            self.pass(&decoder, pass, &extent, gradients, &mut sums)?;
        }
        self.rollouts = rollouts;
        self.tell(&sums);
        Ok(sums.loss)
    }
}
