//! Next-token training on sequences with a label mask.

use candle_core::{Device, Tensor};
use workbench_model::decoder::{Gradients, LossOptions, Targets, TrainableParams, loss_and_gradients};
use workbench_model::{Context, Decoder, ModelConfig};

use crate::{Objective, TrainError};

/// One sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Example {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Which of them the model shall learn to predict; as long as `ids`. The first one never counts: nothing precedes it.
    pub mask: Vec<bool>,
}

/// The mean cross-entropy of all tokens that count in a step, however the step is cut into parts.
pub struct NextToken<'a> {
    decoder: Decoder,
    parameters: &'a TrainableParams,
    examples: Vec<Example>,
    options: LossOptions,
    device: Device,
}

impl<'a> NextToken<'a> {
    /// Training of `parameters` on `examples`.
    ///
    /// # Errors
    /// When there is no token to learn, a token is outside of the vocabulary, or parameters do not fit the configuration.
    pub fn new(
        config: &ModelConfig,
        parameters: &'a TrainableParams,
        examples: Vec<Example>,
        options: LossOptions,
    ) -> Result<Self, TrainError> {
        for (index, example) in examples.iter().enumerate() {
            if example.ids.len() != example.mask.len() {
                let (ids, mask) = (example.ids.len(), example.mask.len());
                return Err(TrainError::Data(format!("example {index} has {ids} tokens and a mask of {mask}")));
            }
            if let Some(id) = example.ids.iter().find(|id| **id as usize >= config.vocab_size) {
                let vocabulary = config.vocab_size;
                return Err(TrainError::Data(format!(
                    "example {index}: token {id} is outside of the vocabulary of {vocabulary}"
                )));
            }
        }
        if !examples.iter().any(|example| example.mask.iter().skip(1).any(|counts| *counts)) {
            return Err(TrainError::Data(
                "no token of the training data is to be learned: every label is masked".into(),
            ));
        }
        let decoder = Decoder::over(config, parameters)?;
        let device = decoder.device().clone();
        Ok(Self { decoder, parameters, examples, options, device })
    }

    fn mask_of(&self, examples: &[usize]) -> Vec<Vec<bool>> {
        examples.iter().map(|index| self.examples[*index].mask.clone()).collect()
    }
}

impl Objective for NextToken<'_> {
    fn examples(&self) -> usize {
        self.examples.len()
    }

    fn accumulate(&mut self, all: &[usize], part: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        let total = Targets::count(&self.mask_of(all));
        let lens: Vec<usize> = part.iter().map(|index| self.examples[*index].ids.len()).collect();
        let len = lens.iter().max().copied().unwrap_or(0);
        let (mut rows, mut mask) = (Vec::new(), self.mask_of(part));
        for (index, mask) in part.iter().zip(&mut mask) {
            let mut ids = self.examples[*index].ids.clone();
            ids.resize(len, 0);
            mask.resize(len, false);
            rows.push(ids);
        }
        let targets = Targets::next_token_of(&rows, &mask, total);
        let ids = Tensor::from_vec(rows.concat(), (part.len(), len), &self.device)
            .map_err(workbench_model::ModelError::from)?;
        let context = Context::full(part.len(), len, Some(&lens));
        Ok(loss_and_gradients(&self.decoder, self.parameters, &ids, &context, &targets, self.options, gradients)?)
    }
}
