//! A decoder block in training: it shall answer the inputs that it will get as the unquantized one answers those of the unquantized
//! model.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use workbench_model::decoder::{
    ActivationQuantizer, Detached, Gradients, GridQuantizer, TensorSource, TrainableParams,
};
use workbench_model::{Activations, Block, Context, ModelConfig, ModelError, Site, device};
use workbench_quant::Grid;

use crate::{Objective, TrainError};

/// The inputs of a block, and what it shall answer: a sequence each, without padding.
pub struct BlockData {
    inputs: Activations,
    targets: Activations,
}

/// Some sequences side by side, padded behind.
struct Batch {
    input: Tensor,
    target: Tensor,
    /// How much the squares of each token's errors count, `[batch, len]` in f64: nothing, where it is padding.
    weights: Tensor,
    context: Context,
}

impl BlockData {
    /// Activations `[1, tokens, hidden]` of as many sequences each.
    ///
    /// # Errors
    /// There are none, or those of inputs and targets are not of the same shapes.
    pub fn new(inputs: Activations, targets: Activations) -> Result<Self, TrainError> {
        let single = |index| inputs.shape(index)[0] == 1 && inputs.shape(index) == targets.shape(index);
        if inputs.is_empty() || inputs.len() != targets.len() || !(0..inputs.len()).all(single) {
            return Err(TrainError::Data("inputs and targets of a block are not of the same sequences".to_owned()));
        }
        Ok(Self { inputs, targets })
    }

    /// How many sequences there are.
    pub fn sequences(&self) -> usize {
        self.inputs.len()
    }

    /// Tokens of some sequences.
    pub fn tokens(&self, sequences: &[usize]) -> usize {
        sequences.iter().map(|index| self.inputs.shape(*index)[1]).sum()
    }

    /// Some sequences, whose tokens are some of `total` that count.
    fn batch(&self, sequences: &[usize], total: usize, device: &Device) -> Result<Batch, ModelError> {
        let lens: Vec<usize> = sequences.iter().map(|index| self.inputs.shape(*index)[1]).collect();
        let len = lens.iter().max().copied().unwrap_or(0);
        let together = |from: &Activations| -> Result<Tensor, ModelError> {
            let padded = sequences.iter().zip(&lens).map(|(index, own)| -> Result<Tensor, ModelError> {
                Ok(from.get(*index)?.pad_with_zeros(1, 0, len - own)?)
            });
            let padded = padded.collect::<Result<Vec<Tensor>, ModelError>>()?;
            Ok(Tensor::cat(&padded, 0)?.to_device(device)?)
        };
        let (input, target) = (together(&self.inputs)?, together(&self.targets)?);
        let each = 1.0 / (total * input.dim(D::Minus1)?).max(1) as f64;
        let of_row = |own: &usize| (0..len).map(|token| if token < *own { each } else { 0.0 }).collect::<Vec<_>>();
        let weights: Vec<f64> = lens.iter().flat_map(of_row).collect();
        let weights = Tensor::from_vec(weights, (lens.len(), len), device)?;
        Ok(Batch { input, target, weights, context: Context::full(lens.len(), len, Some(&lens)) })
    }
}

impl Batch {
    /// The share of these tokens in the mean of squared errors: a scalar of f64. What stands in the place of padding counts nothing.
    fn loss(&self, block: &Block) -> Result<Tensor, ModelError> {
        let output = block.forward(&self.input, &self.context, &mut ())?;
        let squares = (output - &self.target)?.sqr()?.sum(D::Minus1)?.to_dtype(DType::F64)?;
        Ok((squares * &self.weights)?.sum_all()?)
    }
}

/// A block over tensors that are being learned, and the grids to which its inputs are rounded.
pub struct StudentBlock<'a> {
    config: ModelConfig,
    index: usize,
    source: &'a dyn TensorSource,
    inputs: Vec<(String, Arc<dyn ActivationQuantizer>)>,
}

impl<'a> StudentBlock<'a> {
    /// Block `index` over `source`; the inputs of linears are rounded to dynamic grids, by the names of modules.
    ///
    /// # Errors
    /// A grid does not fit its linear, or needs scales from calibration data; the block has no such linear.
    pub fn new(
        config: &ModelConfig,
        index: usize,
        source: &'a dyn TensorSource,
        mut inputs: BTreeMap<String, Grid>,
    ) -> Result<Self, ModelError> {
        let mut shared: Vec<(Site, Grid, Arc<dyn ActivationQuantizer>)> = Vec::new();
        let mut all = Vec::new();
        for linear in config.block(index).linears {
            let Some(grid) = inputs.remove(&linear.name) else { continue };
            let known = shared.iter().find(|(site, other, _)| *site == linear.site && *other == grid);
            let found = match known {
                Some((_, _, found)) => Arc::clone(found),
                None => {
                    let made: Arc<dyn ActivationQuantizer> =
                        Arc::new(GridQuantizer::new(grid.clone(), None, linear.in_features)?);
                    shared.push((linear.site, grid, Arc::clone(&made)));
                    made
                }
            };
            all.push((linear.name, found));
        }
        if let Some(unknown) = inputs.keys().next() {
            return Err(ModelError::Text(format!(
                "block {index} has no linear `{unknown}` whose input could be rounded"
            )));
        }
        Ok(Self { config: config.clone(), index, source, inputs: all })
    }

    /// The block as it is now, through which gradients pass to the variables.
    ///
    /// # Errors
    /// A weight is not finite.
    pub fn block(&self) -> Result<Block, ModelError> {
        self.over(self.source)
    }

    /// The same without a graph.
    ///
    /// # Errors
    /// A weight is not finite.
    pub fn detached(&self) -> Result<Block, ModelError> {
        self.over(&Detached(self.source))
    }

    fn over(&self, source: &dyn TensorSource) -> Result<Block, ModelError> {
        let mut block = Block::over(&self.config, source, self.index)?;
        for (module, quantizer) in &self.inputs {
            block.set_input_quantizer(module, Some(Arc::clone(quantizer)))?;
        }
        Ok(block)
    }
}

/// The mean of squared errors of a block's output, over all numbers of all tokens of a step, however the step is cut into parts.
pub struct BlockRegression<'a> {
    student: StudentBlock<'a>,
    parameters: &'a TrainableParams,
    data: &'a BlockData,
    training: Vec<usize>,
    validation: Vec<usize>,
    /// Over the variables as they were when the step began.
    block: Option<Block>,
}

impl<'a> BlockRegression<'a> {
    /// Training of `student`, which was built over `parameters`, on all sequences but the last `validation`, on which nothing is
    /// learned.
    ///
    /// # Errors
    /// Nothing is left to learn of.
    pub fn new(
        student: StudentBlock<'a>,
        parameters: &'a TrainableParams,
        data: &'a BlockData,
        validation: usize,
    ) -> Result<Self, TrainError> {
        let all = data.sequences();
        if validation >= all {
            let problem = format!("is {validation}, and there are {all} sequences: nothing is left to learn of");
            return Err(TrainError::Setting { setting: "validation_sequences", problem });
        }
        let (training, validation) = ((0..all - validation).collect(), (all - validation..all).collect());
        Ok(Self { student, parameters, data, training, validation, block: None })
    }

    /// The mean of squared errors on what is learned of, as the block is now.
    ///
    /// # Errors
    /// What is computed is no number.
    pub fn training_loss(&self) -> Result<f64, TrainError> {
        self.loss_on(&self.training)
    }

    /// The same on what nothing is learned of; `None` where there is none.
    ///
    /// # Errors
    /// As there.
    pub fn validation_loss(&self) -> Result<Option<f64>, TrainError> {
        (!self.validation.is_empty()).then(|| self.loss_on(&self.validation)).transpose()
    }

    fn loss_on(&self, sequences: &[usize]) -> Result<f64, TrainError> {
        let (block, device) = (self.student.detached()?, device::chosen());
        let (total, mut sum) = (self.data.tokens(sequences), 0.0);
        for sequence in sequences {
            let batch = self.data.batch(&[*sequence], total, &device)?;
            sum += batch.loss(&block)?.to_scalar::<f64>().map_err(ModelError::from)?;
        }
        Ok(sum)
    }
}

impl Objective for BlockRegression<'_> {
    fn examples(&self) -> usize {
        self.training.len()
    }

    fn begin_step(&mut self) -> Result<(), TrainError> {
        // What was rounded for the last step goes first: the block is there once.
        self.block = None;
        self.block = Some(self.student.block()?);
        Ok(())
    }

    fn accumulate(&mut self, all: &[usize], part: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        let Some(block) = &self.block else { return Err(TrainError::Data("no step has begun".to_owned())) };
        let sequences = |examples: &[usize]| examples.iter().map(|index| self.training[*index]).collect::<Vec<_>>();
        let total = self.data.tokens(&sequences(all));
        let batch = self.data.batch(&sequences(part), total, &device::chosen())?;
        let loss = batch.loss(block)?;
        let value = loss.to_scalar::<f64>().map_err(ModelError::from)?;
        let mut found = loss.backward().map_err(ModelError::from)?;
        gradients.add(self.parameters, &mut found)?;
        Ok(value)
    }

    fn validate(&mut self) -> Result<Option<f64>, TrainError> {
        self.block = None;
        self.validation_loss()
    }
}
