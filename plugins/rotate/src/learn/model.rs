//! The model in training: folded anew with every step's rotations, its inputs and perhaps its weights quantized.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use workbench_api::sdk::Error;
use workbench_model::config::OnlineRotations;
use workbench_model::decoder::{
    ActivationQuantizer, Gradients, GridQuantizer, LossOptions, Parameters, Targets, loss_and_gradients,
};
use workbench_model::{Context, Decoder, ModelConfig, ModelError, Site, WeightSource};
use workbench_quant::{Grid, Matrix};

use crate::drawn::Rotations;
use crate::fold::{Sink, fold};
use crate::source::model_error;

/// Rotated tensors before they are quantized: shape and values by name.
pub(crate) type Folded = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Grids of the weights and of the inputs of all linears of the blocks.
pub(crate) struct Grids {
    pub(crate) weights: Option<Grid>,
    pub(crate) inputs: Option<Grid>,
}

/// See the module.
pub(crate) struct Model<'a> {
    source: &'a dyn WeightSource,
    original: &'a ModelConfig,
    /// Untied, with online rotations.
    pub(crate) config: ModelConfig,
    parameters: Parameters,
    decoder: Decoder,
    weights: Option<Grid>,
    options: LossOptions,
    pub(crate) folded: Folded,
}

impl<'a> Model<'a> {
    pub(crate) fn new(
        source: &'a dyn WeightSource,
        original: &'a ModelConfig,
        online: OnlineRotations,
        grids: Grids,
        options: LossOptions,
    ) -> Result<Self, Error> {
        let config = ModelConfig { tie_word_embeddings: false, online, ..original.clone() };
        let parameters =
            Parameters::load(&config, &Untied { source, config: original }, &Device::Cpu).map_err(model_error)?;
        let mut decoder = Decoder::over(&config, &parameters).map_err(model_error)?;
        if let Some(grid) = &grids.inputs {
            quantize_inputs(&mut decoder, grid).map_err(model_error)?;
        }
        let (weights, folded) = (grids.weights, Folded::new());
        Ok(Self { source, original, config, parameters, decoder, weights, options, folded })
    }

    /// Folds rotations into the original weights.
    pub(crate) fn rotate(&mut self, rotations: &Rotations) -> Result<(), Error> {
        let mut collect = Collect(Folded::new());
        fold(self.source, self.original, rotations, &mut collect)?;
        self.folded = collect.0;
        let linears: Vec<String> = self.config.linears().into_iter().map(|l| format!("{}.weight", l.name)).collect();
        for (name, (shape, values)) in &self.folded {
            let mut values = values.clone();
            if let (Some(grid), true, [rows, columns]) = (&self.weights, linears.contains(name), &shape[..]) {
                let parameters = grid.parameters(Matrix::new(&values, *rows, *columns)?)?;
                grid.fake_quantize(&mut values, *rows, *columns, &parameters)?;
            }
            self.parameters.set(name, values).map_err(model_error)?;
        }
        Ok(())
    }

    /// The share of one sequence in the mean next-token loss over `total` predictions, and its gradients.
    pub(crate) fn accumulate(&self, ids: &[u32], total: usize, gradients: &mut Gradients) -> Result<f64, Error> {
        let rows = [ids.to_vec()];
        let targets = Targets::next_token_of(&rows, &[vec![true; ids.len()]], total);
        let (tensor, context) = input(ids)?;
        loss_and_gradients(&self.decoder, &self.parameters, &tensor, &context, &targets, self.options, gradients)
            .map_err(model_error)
    }

    /// The mean next-token loss of sequences, without gradients.
    pub(crate) fn loss(&self, sequences: &[Vec<u32>]) -> Result<f64, Error> {
        let (mut sum, mut count) = (0.0, 0);
        for ids in sequences {
            let (tensor, context) = input(ids)?;
            let score = || -> Result<f64, ModelError> {
                let hidden = self.decoder.hidden(&tensor, &context, &mut ())?.narrow(1, 0, ids.len() - 1)?;
                let scores = self.decoder.head_layer().score(&hidden, &ids[1..], self.options.chunk)?;
                Ok(scores.iter().map(|score| -score.log_probability).sum())
            };
            sum += score().map_err(model_error)?;
            count += ids.len() - 1;
        }
        Ok(sum / f64::from(u32::try_from(count.max(1))?))
    }
}

fn input(ids: &[u32]) -> Result<(Tensor, Context), Error> {
    Ok((Tensor::from_vec(ids.to_vec(), (1, ids.len()), &Device::Cpu)?, Context::full(1, ids.len(), None)))
}

/// One quantizer a site, shared by the linears that read it.
fn quantize_inputs(decoder: &mut Decoder, grid: &Grid) -> Result<(), ModelError> {
    let mut last: Option<(Site, Arc<dyn ActivationQuantizer>)> = None;
    for linear in decoder.config().linears() {
        let shared = match &last {
            Some((site, shared)) if *site == linear.site => Arc::clone(shared),
            _ => Arc::new(GridQuantizer::new(grid.clone(), None, linear.in_features)?),
        };
        decoder.set_input_quantizer(&linear.name, Some(Arc::clone(&shared)))?;
        last = Some((linear.site, shared));
    }
    Ok(())
}

/// Gives a model with tied embeddings a head of its own.
struct Untied<'a> {
    source: &'a dyn WeightSource,
    config: &'a ModelConfig,
}

impl Untied<'_> {
    fn name<'n>(&self, name: &'n str) -> &'n str {
        if name == "lm_head.weight" && self.config.tie_word_embeddings { "model.embed_tokens.weight" } else { name }
    }
}

impl WeightSource for Untied<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(self.name(name))
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.source.values(self.name(name))
    }
}

struct Collect(Folded);

impl Sink for Collect {
    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), Error> {
        self.0.insert(name.to_owned(), (shape.to_vec(), values));
        Ok(())
    }
}
