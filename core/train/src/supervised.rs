//! Training on sequences with a label mask: to predict the next token, or to predict what a teacher predicts.

use candle_core::{Device, Tensor};
use workbench_model::decoder::{
    Decoder, Detached, Divergence, Gradients, Head, LossOptions, Stages, Targets, TrainableParams, gradients_of,
};
use workbench_model::{Context, ModelConfig, ModelError, device};

use crate::{Objective, Student, TrainError};

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Which of them the model shall learn to predict; as long as `ids`. The first one never counts: nothing precedes it.
    pub mask: Vec<bool>,
}

/// What is minimized, per token that counts.
pub enum Loss {
    /// -log p of the token.
    CrossEntropy,
    /// The divergence of the predicted distribution from a teacher's, at the same place of the same sequence.
    Distillation {
        /// Who is learned from: a constant.
        teacher: Box<Decoder>,
        /// Which divergence.
        divergence: Divergence,
    },
}

/// The mean loss of all tokens that count in a step, however the step is cut into parts.
pub struct Supervised<'a> {
    student: Student<'a>,
    /// Over the variables as they were when the step began. With gradient checkpointing there is none: blocks are made as they are
    /// visited, so that the rounded weights of one exist at a time.
    decoder: Option<Decoder>,
    examples: Vec<Example>,
    validation: Vec<Example>,
    loss: Loss,
    options: LossOptions,
    device: Device,
}

/// Sequences of one batch: padded behind.
struct Batch {
    ids: Tensor,
    context: Context,
    targets: Targets,
}

impl<'a> Supervised<'a> {
    /// Training of `student` on `examples`.
    ///
    /// # Errors
    /// When there is no token to learn, or a token is outside of the vocabulary.
    pub fn new(
        student: Student<'a>,
        examples: Vec<Example>,
        loss: Loss,
        options: LossOptions,
    ) -> Result<Self, TrainError> {
        check("example", &examples, student.config())?;
        let device = device::chosen();
        Ok(Self { student, decoder: None, examples, validation: Vec::new(), loss, options, device })
    }

    /// Next-token training of `parameters` as they are.
    ///
    /// # Errors
    /// As [`new`](Self::new); parameters do not fit the configuration.
    pub fn next_token(
        config: &ModelConfig,
        parameters: &'a TrainableParams,
        examples: Vec<Example>,
        options: LossOptions,
    ) -> Result<Self, TrainError> {
        Self::new(Student::plain(config, parameters)?, examples, Loss::CrossEntropy, options)
    }

    /// Sequences that nothing is learned of, on which the loss is measured now and then.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn validated_on(mut self, examples: Vec<Example>) -> Result<Self, TrainError> {
        check("validation example", &examples, self.student.config())?;
        self.validation = examples;
        Ok(self)
    }

    /// The model in training.
    pub fn student(&self) -> &Student<'a> {
        &self.student
    }

    /// The mean loss of tokens that count in some sequences, as the model is now. With gradient checkpointing the blocks of the model
    /// are made one at a time here too, for many sequences each.
    ///
    /// # Errors
    /// What is computed is no number.
    pub fn loss_on(&self, examples: &[Example]) -> Result<f64, TrainError> {
        let total = count(examples.iter());
        let detached = Detached(self.student.weights());
        let blockwise = self.student.over(&detached)?;
        let stages: Box<dyn Stages + '_> = match self.options.gradient_checkpointing {
            true => Box::new(blockwise),
            false => Box::new(blockwise.whole()?),
        };
        let (mut sum, mut rest) = (0.0, examples);
        while !rest.is_empty() {
            let (group, behind) = rest.split_at(group_of(rest));
            let batches = group.iter().map(|example| self.batch(&[example], total));
            sum += self.losses(&*stages, &batches.collect::<Result<Vec<_>, _>>()?)?;
            rest = behind;
        }
        Ok(sum)
    }

    /// The sum of some batches' losses, for which each block is asked for once.
    fn losses(&self, stages: &dyn Stages, batches: &[Batch]) -> Result<f64, TrainError> {
        let hidden = batches.iter().map(|batch| stages.embed(&batch.ids));
        let mut hidden = hidden.collect::<Result<Vec<_>, _>>()?;
        for index in 0..stages.blocks() {
            let block = stages.block(index)?;
            for (hidden, batch) in hidden.iter_mut().zip(batches) {
                *hidden = block.forward(hidden, &batch.context, &mut ())?;
            }
        }
        let mut sum = 0.0;
        for (hidden, batch) in hidden.iter().zip(batches) {
            sum += match &self.loss {
                Loss::Distillation { .. } => {
                    let value = self.loss(stages.head(), hidden, batch)?;
                    f64::from(value.to_scalar::<f32>().map_err(ModelError::from)?)
                }
                Loss::CrossEntropy => {
                    let Targets { ids, weights } = &batch.targets;
                    let scores = stages.head().score(hidden, ids, self.options.chunk)?;
                    scores.iter().zip(weights).map(|(s, weight)| -s.log_probability * f64::from(*weight)).sum()
                }
            };
        }
        Ok(sum)
    }

    /// Some sequences side by side, whose tokens count 1 / `total` each.
    fn batch(&self, examples: &[&Example], total: usize) -> Result<Batch, TrainError> {
        let lens: Vec<usize> = examples.iter().map(|example| example.ids.len()).collect();
        let len = lens.iter().max().copied().unwrap_or(0);
        let (mut rows, mut masks) = (Vec::new(), Vec::new());
        for example in examples {
            let (mut ids, mut mask) = (example.ids.clone(), example.mask.clone());
            ids.resize(len, 0);
            mask.resize(len, false);
            rows.push(ids);
            masks.push(mask);
        }
        let targets = Targets::next_token_of(&rows, &masks, total);
        let ids = Tensor::from_vec(rows.concat(), (examples.len(), len), &self.device).map_err(ModelError::from)?;
        Ok(Batch { ids, context: Context::full(examples.len(), len, Some(&lens)), targets })
    }

    fn loss(&self, head: &Head, hidden: &Tensor, batch: &Batch) -> Result<Tensor, ModelError> {
        match &self.loss {
            Loss::CrossEntropy => head.loss(hidden, &batch.targets, self.options.chunk),
            Loss::Distillation { teacher, divergence } => {
                let of_teacher = teacher.hidden(&batch.ids, &batch.context, &mut ())?;
                let weights = &batch.targets.weights;
                head.distillation(hidden, teacher.head_layer(), &of_teacher, weights, *divergence, self.options.chunk)
            }
        }
    }
}

/// Tokens whose hidden states are held at one time where the loss is measured.
const MEASURED: usize = 16_384;

/// How many of some sequences are measured together: one at least.
fn group_of(examples: &[Example]) -> usize {
    let mut tokens = 0;
    let fits = |example: &&Example| {
        tokens += example.ids.len();
        tokens <= MEASURED
    };
    examples.iter().take_while(fits).count().max(1)
}

/// Tokens that count.
fn count<'e>(examples: impl Iterator<Item = &'e Example>) -> usize {
    examples.map(|example| example.mask.iter().skip(1).filter(|counts| **counts).count()).sum()
}

fn check(what: &str, examples: &[Example], config: &ModelConfig) -> Result<(), TrainError> {
    for (index, example) in examples.iter().enumerate() {
        if example.ids.len() != example.mask.len() {
            let (ids, mask) = (example.ids.len(), example.mask.len());
            return Err(TrainError::Data(format!("{what} {index} has {ids} tokens and a mask of {mask}")));
        }
        if let Some(id) = example.ids.iter().find(|id| **id as usize >= config.vocab_size) {
            let vocabulary = config.vocab_size;
            return Err(TrainError::Data(format!(
                "{what} {index}: token {id} is outside of the vocabulary of {vocabulary}"
            )));
        }
    }
    if count(examples.iter()) == 0 {
        let data = if what == "example" { "training data" } else { "validation data" };
        return Err(TrainError::Data(format!("no token of the {data} is to be learned: every label is masked")));
    }
    Ok(())
}

impl Objective for Supervised<'_> {
    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn begin_step(&mut self) -> Result<(), TrainError> {
        // What was rounded for the last step goes first: the model is there once.
        self.decoder = None;
        if !self.options.gradient_checkpointing {
            self.decoder = Some(self.student.decoder()?);
        }
        Ok(())
    }

    fn accumulate(&mut self, all: &[usize], part: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        let total = count(all.iter().map(|index| &self.examples[*index]));
        let examples: Vec<&Example> = part.iter().map(|index| &self.examples[*index]).collect();
        let batch = self.batch(&examples, total)?;
        let loss = |head: &Head, hidden: &Tensor| self.loss(head, hidden, &batch);
        let mut gradients_by = |decoder: &dyn Stages| {
            let (parameters, checkpointing) = (self.student.parameters(), self.options.gradient_checkpointing);
            gradients_of(&loss, decoder, parameters, &batch.ids, &batch.context, checkpointing, gradients)
        };
        let value = match &self.decoder {
            Some(decoder) => gradients_by(decoder),
            None => gradients_by(&self.student.over(self.student.weights())?),
        };
        Ok(value?)
    }

    fn validate(&mut self) -> Result<Option<f64>, TrainError> {
        if self.validation.is_empty() {
            return Ok(None);
        }
        self.decoder = None;
        self.loss_on(&self.validation).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_measured_in_groups() {
        let of = |lens: &[usize]| {
            let examples = lens.iter().map(|len| Example { ids: vec![0; *len], mask: vec![true; *len] });
            group_of(&examples.collect::<Vec<_>>())
        };
        let half = MEASURED / 2;
        assert_eq!([of(&[1, 1]), of(&[half, half, 1]), of(&[half, half + 1])], [2, 2, 1]);
        assert_eq!(of(&[2 * MEASURED, 1]), 1, "one that is too long is measured alone");
    }
}
