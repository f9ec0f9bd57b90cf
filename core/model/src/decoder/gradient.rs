//! Gradients by the model's variables, with or without keeping the activations of every block.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor, Var};

use super::ops::View;
use super::{Context, Head, Stages, Targets, TrainableParams};
use crate::ModelError;

/// Gradients by the names of the parameters.
#[derive(Default)]
pub struct Gradients {
    tensors: BTreeMap<String, Tensor>,
}

impl Gradients {
    /// The gradient by the parameter of that name.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// Names and gradients in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Shows a gradient's values to a function, without a copy; `None` if there is no such gradient. CPU only.
    pub fn read<T>(&self, name: &str, f: impl FnOnce(&[f32]) -> T) -> Result<Option<T>, ModelError> {
        let Some(tensor) = self.tensors.get(name) else { return Ok(None) };
        let tensor = tensor.contiguous()?;
        Ok(Some(f(View::new(&tensor)?.values())))
    }

    /// Adds the gradients that a backward pass has found, of all that is not frozen.
    pub fn add(&mut self, parameters: &TrainableParams, found: &mut GradStore) -> Result<(), ModelError> {
        for (name, var) in parameters.trainable() {
            if let Some(gradient) = found.remove(var.as_tensor()) {
                let sum = match self.tensors.remove(name) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                };
                self.tensors.insert(name.to_owned(), sum);
            }
        }
        Ok(())
    }
}

/// The inputs of a decoder's blocks: all that gradient checkpointing keeps of a forward pass.
struct Tape {
    ids: Tensor,
    context: Context,
    inputs: Vec<Tensor>,
    /// The first stage that a variable is in: the embedding is stage 0, block `i` stage `i + 1`.
    first: Option<usize>,
}

impl Tape {
    /// Whether it leads to a variable at all.
    fn leads_to_variables(&self) -> bool {
        self.first.is_some()
    }

    /// Runs each block again, last to first, and adds up the gradients of all blocks and the embedding, given the
    /// gradient by the last block's output. They are equal to the last bit to those of an ordinary backward pass. What lies before
    /// the first variable is left alone.
    fn backward(
        self,
        decoder: &dyn Stages,
        parameters: &TrainableParams,
        gradient: &Tensor,
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        let Some(first) = self.first else { return Ok(()) };
        let mut gradient = gradient.clone();
        for (index, input) in self.inputs.into_iter().enumerate().rev() {
            // Whether there is something to learn before this block.
            let further = first <= index;
            let input = if further { Var::from_tensor(&input)?.into_inner() } else { input };
            let output = decoder.block(index)?.forward(&input, &self.context, &mut ())?;
            let mut found = seed(&output, gradient)?.backward()?;
            let by_input = found.remove(&input);
            gradients.add(parameters, &mut found)?;
            if !further {
                return Ok(());
            }
            gradient =
                by_input.ok_or_else(|| candle_core::Error::Msg("a block passes no gradient to its input".into()))?;
        }
        let mut found = seed(&decoder.embed(&self.ids)?, gradient)?.backward()?;
        gradients.add(parameters, &mut found)
    }
}

/// The output of the last block, detached from the graph, and the tape that leads back from it.
fn forward_checkpointed(decoder: &dyn Stages, ids: &Tensor, context: &Context) -> Result<(Tensor, Tape), ModelError> {
    let embedded = decoder.embed(ids)?;
    let mut first = embedded.track_op().then_some(0);
    let mut hidden = embedded.detach();
    let mut inputs = Vec::with_capacity(decoder.blocks());
    for index in 0..decoder.blocks() {
        let output = decoder.block(index)?.forward(&hidden, context, &mut ())?;
        first = first.or(output.track_op().then_some(index + 1));
        inputs.push(std::mem::replace(&mut hidden, output.detach()));
    }
    Ok((hidden, Tape { ids: ids.clone(), context: context.clone(), inputs, first }))
}

/// How the loss of a batch is computed.
#[derive(Clone, Copy, Debug)]
pub struct LossOptions {
    /// Keep only the inputs of blocks and compute the rest again on the way back.
    pub gradient_checkpointing: bool,
    /// Positions whose logits exist at one time.
    pub chunk: usize,
}

impl Default for LossOptions {
    fn default() -> Self {
        Self { gradient_checkpointing: false, chunk: 1024 }
    }
}

/// A loss of the last block's output `[batch, len, hidden]` through the head: a scalar of f32.
pub type Loss<'a> = dyn Fn(&Head, &Tensor) -> Result<Tensor, ModelError> + 'a;

/// The loss of a batch `ids` `[batch, len]`, and its gradients added to `gradients`.
///
/// The decoder must have been built over `parameters`. With gradient checkpointing it is asked for one block at a time. The recursion that walks the graph is as deep as the graph: call
/// this from a thread with a stack of 64 MiB, or with gradient checkpointing.
///
/// # Errors
/// Whatever the model or `loss` return.
pub fn gradients_of(
    loss: &Loss<'_>,
    decoder: &dyn Stages,
    parameters: &TrainableParams,
    ids: &Tensor,
    context: &Context,
    gradient_checkpointing: bool,
    gradients: &mut Gradients,
) -> Result<f64, ModelError> {
    if !gradient_checkpointing {
        let mut hidden = decoder.embed(ids)?;
        for index in 0..decoder.blocks() {
            hidden = decoder.block(index)?.forward(&hidden, context, &mut ())?;
        }
        let loss = loss(decoder.head(), &hidden)?;
        let value = f64::from(loss.to_scalar::<f32>()?);
        gradients.add(parameters, &mut loss.backward()?)?;
        return Ok(value);
    }
    let (hidden, tape) = forward_checkpointed(decoder, ids, context)?;
    let hidden = if tape.leads_to_variables() { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
    let loss = loss(decoder.head(), &hidden)?;
    let value = f64::from(loss.to_scalar::<f32>()?);
    let mut found = loss.backward()?;
    let gradient = found.remove(&hidden);
    gradients.add(parameters, &mut found)?;
    drop((found, loss));
    if tape.leads_to_variables() {
        let missing = || candle_core::Error::Msg("the loss passes no gradient to the hidden states".into());
        tape.backward(decoder, parameters, &gradient.ok_or_else(missing)?, gradients)?;
    }
    Ok(value)
}

/// [`gradients_of`] the weighted cross-entropy.
///
/// # Errors
/// Targets that do not fit the batch.
pub fn loss_and_gradients(
    decoder: &dyn Stages,
    parameters: &TrainableParams,
    ids: &Tensor,
    context: &Context,
    targets: &Targets,
    options: LossOptions,
    gradients: &mut Gradients,
) -> Result<f64, ModelError> {
    let loss = |head: &Head, hidden: &Tensor| head.loss(hidden, targets, options.chunk);
    gradients_of(&loss, decoder, parameters, ids, context, options.gradient_checkpointing, gradients)
}

/// A scalar whose gradient by `x` is `gradient`: where a backward pass begins that does not begin at a loss.
fn seed(x: &Tensor, gradient: Tensor) -> CandleResult<Tensor> {
    x.apply_op1(Seed { gradient })
}

struct Seed {
    gradient: Tensor,
}

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), Shape::from(())))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some(self.gradient.clone()))
    }
}
