//! The layers that a decoder is made of.

use std::{cell::OnceCell, sync::Arc};

use candle_core::{Device, Tensor};
use workbench_matmul as matmul;

use super::kernels::cross_entropy::{TokenScore, scores};
use super::ops::{self, View};
use super::parameters::{Loading, PackedLoading, TensorSource};
use super::quantizer::ActivationQuantizer;
use super::taps::Taps;
use crate::arch::{EMBEDDINGS, FINAL_NORM, LM_HEAD, LinearInfo};
use crate::device::{HOST, OnHost};
use crate::{ModelConfig, ModelError, Precision, Site, WeightSource};

/// How a linear holds its weight `[outputs, inputs]`.
enum Weight {
    /// With a backward pass.
    Tensor(Tensor),
    /// For products in its precision.
    Packed(matmul::Weight),
    /// Let go, because nothing will pass the linear any more.
    Freed([usize; 2]),
}

/// What linears read, behind their quantizer.
struct Input {
    x: Tensor,
    packed: OnceCell<matmul::Input>,
}

impl Input {
    fn new(x: Tensor) -> Self {
        Self { x, packed: OnceCell::new() }
    }

    /// Packed once, for all linears of a block: they multiply in one precision.
    fn packed(&self, precision: Precision) -> Result<&matmul::Input, ModelError> {
        if self.packed.get().is_none() {
            // Nobody else fills it: a cell belongs to one thread.
            let _ = self.packed.set(ops::packed(&self.x, precision)?);
        }
        self.packed.get().ok_or_else(|| ModelError::Compute(candle_core::Error::Msg("an input got lost".into())))
    }
}

impl Weight {
    fn shape(&self) -> &[usize] {
        match self {
            Self::Tensor(weight) => weight.dims(),
            Self::Packed(weight) => weight.shape(),
            Self::Freed(shape) => shape,
        }
    }

    /// The weight of a name, packed if the source has it so.
    fn take(name: &str, shape: [usize; 2], source: &dyn TensorSource) -> Result<Self, ModelError> {
        match source.packed(name, shape)? {
            Some(weight) => Ok(Self::Packed(weight)),
            None => source.tensor(name, &shape).map(Self::Tensor),
        }
    }

    fn pack(weight: &Tensor, precision: Precision) -> Result<Self, ModelError> {
        let (outputs, inputs) = weight.dims2()?;
        let weight = weight.to_device(&HOST)?.contiguous()?;
        Ok(Self::Packed(matmul::Weight::new(View::new(&weight)?.values(), outputs, inputs, precision)))
    }
}

/// A linear with an optional quantizer on its input.
pub(super) struct Linear {
    pub(super) name: String,
    weight: Weight,
    bias: Option<Tensor>,
    quantizer: Option<Arc<dyn ActivationQuantizer>>,
}

impl Linear {
    /// A linear of a block.
    pub(super) fn new(info: &LinearInfo, source: &dyn TensorSource) -> Result<Self, ModelError> {
        let weight = Weight::take(&info.weight(), [info.out_features, info.in_features], source)?;
        let bias = info.bias().map(|name| source.tensor(&name, &[info.out_features])).transpose()?;
        Ok(Self { name: info.name.clone(), weight, bias, quantizer: None })
    }

    pub(super) fn set_quantizer(&mut self, quantizer: Option<Arc<dyn ActivationQuantizer>>) {
        self.quantizer = quantizer;
    }

    pub(super) fn set_weight(&mut self, weight: Tensor) -> Result<(), ModelError> {
        if weight.dims() != self.weight.shape() {
            let message = format!("`{}` is of shape {:?}, not {:?}", self.name, self.weight.shape(), weight.shape());
            return Err(candle_core::Error::Msg(message).into());
        }
        self.weight = match &self.weight {
            Weight::Tensor(before) => Weight::Tensor(weight.to_device(before.device())?),
            Weight::Packed(before) => Weight::pack(&weight, before.precision())?,
            Weight::Freed(_) => return Err(self.freed()),
        };
        Ok(())
    }

    /// Frees the weight. The linear cannot be used any more.
    pub(super) fn free(&mut self) {
        if let [outputs, inputs] = *self.weight.shape() {
            self.weight = Weight::Freed([outputs, inputs]);
        }
    }

    fn freed(&self) -> ModelError {
        candle_core::Error::Msg(format!("the weight of `{}` was let go", self.name)).into()
    }

    fn quantize(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        match &self.quantizer {
            Some(quantizer) => quantizer.apply(x),
            None => Ok(x.clone()),
        }
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        self.multiply(&Input::new(self.quantize(x)?), None)
    }

    /// The output for `x`, added to `onto`.
    pub(super) fn forward_onto(&self, onto: &Tensor, x: &Tensor) -> Result<Tensor, ModelError> {
        self.multiply(&Input::new(self.quantize(x)?), Some(onto))
    }

    fn multiply(&self, input: &Input, onto: Option<&Tensor>) -> Result<Tensor, ModelError> {
        let bias = self.bias.as_ref();
        match &self.weight {
            Weight::Tensor(weight) => {
                let y = ops::linear(&input.x, weight, bias)?;
                match onto {
                    Some(onto) => Ok((onto + y)?),
                    None => Ok(y),
                }
            }
            Weight::Packed(weight) => {
                Ok(ops::linear_packed((input.packed(weight.precision())?, input.x.shape()), weight, bias, onto)?)
            }
            Weight::Freed(_) => Err(self.freed()),
        }
    }

    /// Runs linears that read the same input. Where they share a quantizer, it works once, and so does packing.
    pub(super) fn forward_together<const N: usize>(linears: [&Self; N], x: &Tensor) -> Result<[Tensor; N], ModelError> {
        let mut inputs: Vec<(Option<&Arc<dyn ActivationQuantizer>>, Input)> = Vec::with_capacity(N);
        let mut outputs = Vec::with_capacity(N);
        for linear in linears {
            let quantizer = linear.quantizer.as_ref();
            let same = |other: &Option<&Arc<dyn ActivationQuantizer>>| match (quantizer, other) {
                (None, None) => true,
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                _ => false,
            };
            let index = match inputs.iter().position(|(other, _)| same(other)) {
                Some(index) => index,
                None => {
                    inputs.push((quantizer, Input::new(linear.quantize(x)?)));
                    inputs.len() - 1
                }
            };
            outputs.push(linear.multiply(&inputs[index].1, None)?);
        }
        // There are as many outputs as linears.
        outputs.try_into().map_err(|_| ModelError::Compute(candle_core::Error::Msg("outputs got lost".into())))
    }
}

/// An RMSNorm.
pub(super) struct Norm {
    weight: Tensor,
    eps: f64,
}

impl Norm {
    pub(super) fn new(name: &str, size: usize, eps: f64, source: &dyn TensorSource) -> Result<Self, ModelError> {
        Ok(Self { weight: source.tensor(&format!("{name}.weight"), &[size])?, eps })
    }

    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::rms_norm(x, &self.weight, self.eps)?)
    }
}

/// The token embedding.
pub struct Embedding {
    weight: Tensor,
}

impl Embedding {
    /// Loads the table alone.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::new(config, &Loading { source, device })
    }

    /// Hidden states `[batch, len, hidden]` of `ids`, `batch` sequences one after the other, without loading the table.
    ///
    /// # Errors
    /// A token outside of the vocabulary; a malformed source.
    pub fn look_up(
        config: &ModelConfig,
        source: &dyn WeightSource,
        ids: &[u32],
        batch: usize,
    ) -> Result<Tensor, ModelError> {
        let rows = source.rows(&config.weight_of(EMBEDDINGS), ids)?;
        Ok(Tensor::from_vec(rows, (batch, ids.len() / batch.max(1), config.hidden_size), &HOST)?)
    }

    pub(super) fn new(config: &ModelConfig, source: &dyn TensorSource) -> Result<Self, ModelError> {
        Ok(Self { weight: source.tensor(&config.weight_of(EMBEDDINGS), &[config.vocab_size, config.hidden_size])? })
    }

    pub(super) fn device(&self) -> &Device {
        self.weight.device()
    }

    /// Hidden states `[batch, len, hidden]` of `ids` `[batch, len]` (u32).
    pub fn forward(&self, ids: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::embedding(ids, &self.weight)?)
    }
}

/// The norm behind the last block: what it gives is the input of `lm_head`.
pub struct FinalNorm(Norm);

impl FinalNorm {
    /// Loads the norm alone, without the weight of the head.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::new(config, &Loading { source, device })
    }

    fn new(config: &ModelConfig, source: &dyn TensorSource) -> Result<Self, ModelError> {
        Norm::new(FINAL_NORM, config.hidden_size, config.rms_norm_eps, source).map(Self)
    }

    /// The input of `lm_head` `[.., hidden]` of the last block's output.
    pub fn forward(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        self.0.forward(hidden)
    }
}

/// Other devices than the memory of the program multiply in f32.
pub(super) fn only_f32(precision: Precision, device: &Device) -> Result<(), ModelError> {
    match precision {
        Precision::F32 => Ok(()),
        other => Err(candle_core::Error::Msg(format!("products in {other:?} are not there for {device:?}")).into()),
    }
}

/// The final norm and `lm_head`.
pub struct Head {
    norm: FinalNorm,
    linear: Linear,
}

impl Head {
    /// Loads the head alone.
    pub fn load(config: &ModelConfig, source: &dyn WeightSource, device: &Device) -> Result<Self, ModelError> {
        Self::new(config, &Loading { source, device })
    }

    /// The same for products in a precision: there is no backward pass.
    pub fn load_packed(
        config: &ModelConfig,
        source: &dyn WeightSource,
        precision: Precision,
        _: OnHost,
    ) -> Result<Self, ModelError> {
        Self::new(config, &PackedLoading { source, precision })
    }

    /// The head as scoring wants it: packed where it can be.
    ///
    /// # Errors
    /// A malformed source; a precision that the device does not have.
    pub fn load_for_scoring(
        config: &ModelConfig,
        source: &dyn WeightSource,
        precision: Precision,
        device: &Device,
    ) -> Result<Self, ModelError> {
        match OnHost::of(device) {
            Some(host) => Self::load_packed(config, source, precision, host),
            None => only_f32(precision, device).and_then(|()| Self::load(config, source, device)),
        }
    }

    pub(super) fn new(config: &ModelConfig, source: &dyn TensorSource) -> Result<Self, ModelError> {
        let weight = Weight::take(&config.weight_of(LM_HEAD), [config.vocab_size, config.hidden_size], source)?;
        Self::with_weight(config, source, weight)
    }

    /// The head beside these embeddings, whose table it shares where they are tied.
    pub(super) fn beside(
        embedding: &Embedding,
        config: &ModelConfig,
        source: &dyn TensorSource,
    ) -> Result<Self, ModelError> {
        match config.weight_of(LM_HEAD) == config.weight_of(EMBEDDINGS) {
            true => Self::with_weight(config, source, Weight::Tensor(embedding.weight.clone())),
            false => Self::new(config, source),
        }
    }

    fn with_weight(config: &ModelConfig, source: &dyn TensorSource, weight: Weight) -> Result<Self, ModelError> {
        let norm = FinalNorm::new(config, source)?;
        let linear = Linear { name: LM_HEAD.into(), weight, bias: None, quantizer: None };
        Ok(Self { norm, linear })
    }

    /// Puts a quantizer on the input of `lm_head`, or takes it away.
    pub fn set_input_quantizer(&mut self, quantizer: Option<Arc<dyn ActivationQuantizer>>) {
        self.linear.set_quantizer(quantizer);
    }

    /// Logits `[.., vocabulary]` of the last block's output `[.., hidden]`, final norm included.
    pub fn forward(&self, hidden: &Tensor, taps: &mut dyn Taps) -> Result<Tensor, ModelError> {
        let normed = self.norm.forward(hidden)?;
        taps.observe(Site::head(), &normed)?;
        self.linear.forward(&normed)
    }

    /// Scores each position of `hidden` `[.., hidden]` against its target, `chunk` positions at a time, so that the
    /// logits of a large vocabulary never exist as a whole.
    pub fn score(&self, hidden: &Tensor, targets: &[u32], chunk: usize) -> Result<Vec<TokenScore>, ModelError> {
        let hidden = hidden.flatten_to(hidden.rank().saturating_sub(2))?;
        let (rows, vocabulary) = (hidden.dim(0)?, self.linear.weight.shape()[0]);
        let wrong = targets.iter().find(|target| **target as usize >= vocabulary);
        if targets.len() != rows || wrong.is_some() || chunk == 0 {
            let message = format!(
                "{rows} positions were given {} targets (vocabulary {vocabulary}, first one outside: {wrong:?}) in chunks of {chunk}",
                targets.len()
            );
            return Err(candle_core::Error::Msg(message).into());
        }
        let mut all = Vec::with_capacity(rows);
        for start in (0..rows).step_by(chunk) {
            let n = chunk.min(rows - start);
            let logits = self.forward(&hidden.narrow(0, start, n)?, &mut ())?;
            let logits = logits.to_dtype(candle_core::DType::F32)?.to_device(&HOST)?.contiguous()?;
            all.extend(scores(View::new(&logits)?.values(), vocabulary, &targets[start..start + n]));
        }
        Ok(all)
    }

    /// What `lm_head` multiplies `[n, hidden]`, of the last block's output `[.., hidden]`: behind the norm and its quantizer.
    fn input(&self, hidden: &Tensor) -> Result<Tensor, ModelError> {
        let normed = self.linear.quantize(&self.norm.forward(hidden)?)?;
        Ok(normed.flatten_to(normed.rank().saturating_sub(2))?)
    }

    /// The sum over positions of `-weights[i] * log p(targets[i])` of `hidden` `[.., hidden]`: differentiable, and chunked
    /// like [`score`](Self::score). The input quantizer of `lm_head`, if any, is applied.
    pub fn loss(&self, hidden: &Tensor, targets: &super::Targets, chunk: usize) -> Result<Tensor, ModelError> {
        let normed = self.input(hidden)?;
        match &self.linear.weight {
            Weight::Tensor(weight) => Ok(ops::cross_entropy(&normed, weight, &targets.ids, &targets.weights, chunk)?),
            _ => Err(candle_core::Error::Msg("a loss needs weights with a backward pass".into()).into()),
        }
    }

    /// The sum over positions of `weights[i]` times the divergence of this model's prediction from a teacher's, a scalar, of both
    /// models' last blocks' outputs `hidden` `[.., hidden]` and `teacher_hidden` `[.., the teacher's hidden]`, which each head norms
    /// and quantizes as it does always. Chunked like [`score`](Self::score): logits of both exist for `chunk` positions. A position
    /// of weight zero is not looked at.
    ///
    /// Differentiable by `hidden` and this head; the teacher is a constant, and can be held in any form. Where nothing leads to a
    /// variable nothing is kept, and the weight can be held in any form too.
    ///
    /// # Errors
    /// Vocabularies of different sizes; other numbers of positions or weights; a divergence that [is none](super::Divergence::check);
    /// a variable behind a weight without a backward pass.
    pub fn distillation(
        &self,
        hidden: &Tensor,
        teacher: &Self,
        teacher_hidden: &Tensor,
        weights: &[f32],
        divergence: super::Divergence,
        chunk: usize,
    ) -> Result<Tensor, ModelError> {
        divergence.check()?;
        let wrong = |message: String| -> ModelError { candle_core::Error::Msg(message).into() };
        let (vocabulary, other) = (self.linear.weight.shape()[0], teacher.linear.weight.shape()[0]);
        if vocabulary != other {
            return Err(wrong(format!(
                "the student's vocabulary has {vocabulary} entries, the teacher's {other}: their predictions cannot be compared"
            )));
        }
        let (normed, frozen) = (self.input(hidden)?, teacher.input(&teacher_hidden.detach())?.detach());
        let (rows, of_teacher) = (normed.dim(0)?, frozen.dim(0)?);
        if rows != of_teacher {
            return Err(wrong(format!("{rows} positions of the student and {of_teacher} of the teacher")));
        }
        let logits = |linear: &Linear, input: &Tensor, start: usize, n: usize| -> Result<Tensor, ModelError> {
            Ok(linear.multiply(&Input::new(input.narrow(0, start, n)?), None)?.detach())
        };
        let of_teacher = |start: usize, n: usize| logits(&teacher.linear, &frozen, start, n);
        match &self.linear.weight {
            Weight::Tensor(weight) if normed.track_op() || weight.track_op() => {
                ops::distillation(&normed, weight, &of_teacher, weights, divergence, chunk)
            }
            _ if normed.track_op() => Err(wrong("a loss needs weights with a backward pass".into())),
            _ => {
                let of_student = |start: usize, n: usize| logits(&self.linear, &normed, start, n);
                let shape = (rows, vocabulary);
                let value = ops::divergence(shape, &of_student, &of_teacher, weights, divergence, chunk)?;
                Ok(Tensor::new(value as f32, normed.device())?)
            }
        }
    }
}
