//! The model in training: folded anew with every step's rotations, its inputs and perhaps its weights quantized.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use workbench_api::sdk::Error;
use workbench_model::arch::{LM_HEAD, LinearInfo, Role, block_of};
use workbench_model::decoder::{
    ActivationQuantizer, Divergence, Gradients, Head, LossOptions, Targets, TensorSource, TrainableParams,
    gradients_of, loss_and_gradients,
};
use workbench_model::{Context, Decoder, ModelConfig, ModelError, Site, SiteKind, WeightSource, device};
use workbench_plugin_model::model_error;
use workbench_quant::{Grid, Matrix};
use workbench_rotation::Square;

use super::gradient::{Rounded, Shared, Sum, Sums, locked};
use super::loss::Loss;
use super::scales::Scales;
use super::site::{SiteQuantizer, wrong};
use crate::fold::{Sink, fold};
use crate::rotations::Rotations;

/// Grids of the weights and of the inputs of all linears of the blocks.
pub(crate) struct Grids {
    pub(crate) weights: Option<Grid>,
    pub(crate) inputs: Option<Grid>,
    pub(crate) scales: Scales,
}

/// See the module.
pub(crate) struct Model<'a> {
    source: &'a dyn WeightSource,
    original: &'a ModelConfig,
    /// Untied, with online rotations.
    pub(crate) config: ModelConfig,
    pub(crate) parameters: TrainableParams,
    pub(crate) decoder: Decoder,
    grids: Grids,
    options: LossOptions,
    /// The unquantized model, if that is what is learned from.
    teacher: Option<Decoder>,
    sums: Sums,
    /// The weights of the blocks before they are rounded, if they are.
    pub(crate) folded: BTreeMap<String, Vec<f32>>,
}

impl<'a> Model<'a> {
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        original: &'a ModelConfig,
        rotations: &Rotations,
        grids: Grids,
        loss: Loss,
        options: LossOptions,
    ) -> Result<Self, Error> {
        let config = ModelConfig { tie_word_embeddings: false, online: rotations.online, ..original.clone() };
        let parameters = TrainableParams::load(&config, &Untied { source, config: original }, &device::chosen())
            .map_err(model_error)?;
        let first = format!("{}.weight", config.block(0).attention_norm.name);
        let tracked = Tracked { parameters: &parameters, first, weights: grids.weights.is_some() };
        let mut decoder = Decoder::over(&config, &tracked).map_err(model_error)?;
        let sums = Sums::new(rotations.sizes(), config.num_layers)?;
        quantize_inputs(&mut decoder, &grids, &sums).map_err(model_error)?;
        let teacher = match loss {
            Loss::NextToken => None,
            Loss::Divergence => Some(Decoder::load(original, source, &device::chosen()).map_err(model_error)?),
        };
        let folded = BTreeMap::new();
        let mut model = Self { source, original, config, parameters, decoder, grids, options, teacher, sums, folded };
        for linear in model.config.linears() {
            // Those that no rotation changes are rounded here once.
            let values = model.parameters.values(&weight_of(&linear)).map_err(model_error)?;
            model.set_weight(&linear, values)?;
        }
        Ok(model)
    }

    /// Folds rotations into the original weights.
    pub(crate) fn rotate(&mut self, rotations: &Rotations) -> Result<(), Error> {
        let mut collect = Collect(BTreeMap::new());
        fold(self.source, self.original, rotations, &mut collect)?;
        for linear in self.config.linears() {
            if let Some(values) = collect.0.remove(&weight_of(&linear)) {
                self.set_weight(&linear, values)?;
            }
        }
        for (name, values) in collect.0 {
            self.parameters.set(&name, values).map_err(model_error)?;
        }
        Ok(())
    }

    /// Rounds the weight of a linear, if weights are, and keeps the unrounded one.
    fn set_weight(&mut self, linear: &LinearInfo, values: Vec<f32>) -> Result<(), Error> {
        let name = weight_of(linear);
        let Some(grid) = &self.grids.weights else {
            return self.parameters.set(&name, values).map_err(model_error);
        };
        let (rows, columns) = (linear.out_features, linear.in_features);
        let parameters = grid.parameters(Matrix::new(&values, rows, columns)?)?;
        let mut rounded = values.clone();
        grid.fake_quantize(&mut rounded, rows, columns, &parameters)?;
        self.folded.insert(name.clone(), values);
        self.parameters.set(&name, rounded).map_err(model_error)
    }

    /// The share of one sequence in the mean loss over `total` predictions, and its gradients.
    pub(crate) fn accumulate(&self, ids: &[u32], total: usize, gradients: &mut Gradients) -> Result<f64, Error> {
        let (tensor, context) = input(ids)?;
        let Some(teacher) = &self.teacher else {
            let targets = Targets::next_token_of(&[ids.to_vec()], &[vec![true; ids.len()]], total);
            let (decoder, parameters) = (&self.decoder, &self.parameters);
            return loss_and_gradients(decoder, parameters, &tensor, &context, &targets, self.options, gradients)
                .map_err(model_error);
        };
        let weight = 1.0 / f64::from(u32::try_from(total.max(1))?);
        let mut follow = || {
            let known = teacher.hidden(&tensor, &context, &mut ())?;
            let loss = |head: &Head, hidden: &Tensor| self.divergence(head, hidden, teacher, &known, weight as f32);
            let (decoder, checkpointing) = (&self.decoder, self.options.gradient_checkpointing);
            gradients_of(&loss, decoder, &self.parameters, &tensor, &context, checkpointing, gradients)
        };
        follow().map_err(model_error)
    }

    /// `weight` times the sum of KL(teacher, student) over all positions of a sequence but the last one, after which there is no
    /// token to predict.
    fn divergence(
        &self,
        head: &Head,
        hidden: &Tensor,
        teacher: &Decoder,
        known: &Tensor,
        weight: f32,
    ) -> Result<Tensor, ModelError> {
        let mut weights = vec![weight; hidden.dim(1)?];
        if let Some(last) = weights.last_mut() {
            *last = 0.0;
        }
        head.distillation(hidden, teacher.head_layer(), known, &weights, Divergence::FORWARD, self.options.chunk)
    }

    /// The gradients by R1 and by the R2 of each block, of what was accumulated since the last call.
    pub(crate) fn by_rotation(&self, gradients: &Gradients) -> Result<Vec<Square>, Error> {
        for linear in self.config.linears() {
            self.add_weight(&linear, gradients)?;
        }
        self.sums.take()
    }

    /// What the rounding of a weight adds.
    fn add_weight(&self, linear: &LinearInfo, gradients: &Gradients) -> Result<(), Error> {
        let name = weight_of(linear);
        let (Some(grid), Some(x)) = (&self.grids.weights, self.folded.get(&name)) else { return Ok(()) };
        let gradient = gradients.read(&name, <[f32]>::to_vec).map_err(model_error)?;
        let gradient = gradient.ok_or_else(|| Error::input(format!("`{name}` has no gradient")))?;
        let rounded = self.parameters.values(&name).map_err(model_error)?;
        let terms = self.grids.scales.terms(grid, x, &rounded, &gradient, linear.in_features)?;
        let found = Rounded { x, rounded: &rounded, gradient: &gradient, terms: &terms };
        let rows = |sum: &Shared| locked(sum, |sum: &mut Sum| sum.add_rows(found));
        let columns = |sum: &Shared| locked(sum, |sum: &mut Sum| sum.add_columns(found, linear.in_features));
        let values = linear.site.block.and_then(|block| self.sums.values(block));
        let hidden = self.sums.hidden.as_ref();
        match linear.site.kind {
            SiteKind::OutputInput => {
                hidden.map_or(Ok(()), columns)?;
                values.map_or(Ok(()), rows)?;
            }
            SiteKind::DownInput => hidden.map_or(Ok(()), columns)?,
            _ => {
                hidden.map_or(Ok(()), rows)?;
                if linear.role == Role::Value {
                    values.map_or(Ok(()), columns)?;
                }
            }
        }
        Ok(())
    }

    /// The mean loss of sequences, without gradients.
    pub(crate) fn loss(&self, sequences: &[Vec<u32>]) -> Result<f64, Error> {
        let (mut sum, mut count) = (0.0, 0);
        for ids in sequences {
            let (tensor, context) = input(ids)?;
            let score = || -> Result<f64, ModelError> {
                let hidden = self.decoder.hidden(&tensor, &context, &mut ())?;
                if let Some(teacher) = &self.teacher {
                    let known = teacher.hidden(&tensor, &context, &mut ())?;
                    let head = self.decoder.head_layer();
                    let value = self.divergence(head, &hidden.detach(), teacher, &known, 1.0)?;
                    return Ok(f64::from(value.to_scalar::<f32>()?));
                }
                let hidden = hidden.narrow(1, 0, ids.len() - 1)?;
                let scores = self.decoder.head_layer().score(&hidden, &ids[1..], self.options.chunk)?;
                Ok(scores.iter().map(|score| -score.log_probability).sum())
            };
            sum += score().map_err(model_error)?;
            count += ids.len() - 1;
        }
        Ok(sum / f64::from(u32::try_from(count.max(1))?))
    }
}

fn weight_of(linear: &LinearInfo) -> String {
    format!("{}.weight", linear.name)
}

fn input(ids: &[u32]) -> Result<(Tensor, Context), Error> {
    Ok((Tensor::from_vec(ids.to_vec(), (1, ids.len()), &device::chosen())?, Context::full(1, ids.len(), None)))
}

/// One quantizer a site, shared by the linears that read it.
fn quantize_inputs(decoder: &mut Decoder, grids: &Grids, sums: &Sums) -> Result<(), ModelError> {
    let Some(grid) = &grids.inputs else { return Ok(()) };
    let mut last: Option<(Site, Arc<dyn ActivationQuantizer>)> = None;
    for linear in decoder.config().linears() {
        // Groups that do not divide the channels are known before the first token.
        grid.parameters_shape(1, linear.in_features).map_err(wrong)?;
        let shared = match &last {
            Some((site, shared)) if *site == linear.site => Arc::clone(shared),
            _ => {
                let sum = match (linear.site.kind, linear.site.block) {
                    (SiteKind::AttentionInput | SiteKind::MlpInput, _) => sums.hidden.clone(),
                    (SiteKind::OutputInput, Some(block)) => sums.values(block).cloned(),
                    _ => None,
                };
                Arc::new(SiteQuantizer { grid: grid.clone(), scales: grids.scales, sum })
            }
        };
        decoder.set_input_quantizer(&linear.name, Some(Arc::clone(&shared)))?;
        last = Some((linear.site, shared));
    }
    Ok(())
}

/// Parameters of which only those lead to a gradient that somebody reads.
struct Tracked<'a> {
    parameters: &'a TrainableParams,
    /// The gain of the first norm.
    first: String,
    /// Whether that holds for the weights of the blocks.
    weights: bool,
}

impl TensorSource for Tracked<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.parameters.tensor(name, shape)?;
        let weight = self.weights && block_of(name).is_some() && shape.len() == 2;
        // The first norm's gain makes a graph of everything behind it: without a variable there is no backward pass.
        let first = name == self.first;
        // A detached tensor shares its values with the variable.
        Ok(if weight || first { tensor } else { tensor.detach() })
    }
}

/// Gives a model with tied embeddings a head of its own.
struct Untied<'a> {
    source: &'a dyn WeightSource,
    config: &'a ModelConfig,
}

impl Untied<'_> {
    fn name<'n>(&self, name: &'n str) -> Cow<'n, str> {
        match name.strip_suffix(".weight") {
            Some(LM_HEAD) => self.config.weight_of(LM_HEAD).into(),
            _ => name.into(),
        }
    }
}

impl WeightSource for Untied<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(&self.name(name))
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.source.values(&self.name(name))
    }
}

struct Collect(BTreeMap<String, Vec<f32>>);

impl Sink for Collect {
    fn put(&mut self, name: &str, _: &[usize], values: Vec<f32>) -> Result<(), Error> {
        self.0.insert(name.to_owned(), values);
        Ok(())
    }
}
