//! The model in training, as it computes.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::Tensor;
use workbench_model::arch::{LM_HEAD, block_of};
use workbench_model::decoder::{
    ActivationQuantizer, Block, Blockwise, CodedParams, CodedWeight, Decoder, Detached, FakeQuantizedParams,
    GridQuantizer, TensorSource, TrainableParams, WeightQuantizer,
};
use workbench_model::{ModelConfig, ModelError, Site};
use workbench_quant::{Grid, QuantizedWeight};

/// What of a model is computed on grids.
#[derive(Clone, Debug, Default)]
pub struct Grids {
    /// Of weights, by their names.
    pub weights: BTreeMap<String, WeightQuantizer>,
    /// Weights that are codes and stay it, by their names.
    pub codes: BTreeMap<String, CodedWeight>,
    /// Of the inputs of linears, by modules. They are dynamic.
    pub inputs: BTreeMap<String, Grid>,
    /// Of keys and of values `[tokens, kv_heads · head_dim]`. It is dynamic.
    pub kv_cache: Option<Grid>,
    /// Whether gradients pass through the extremes that dynamic scales of inputs, keys and values come from.
    pub inputs_follow_ranges: bool,
}

/// Variables, and the grids on which the model over them computes.
pub struct Student<'a> {
    config: ModelConfig,
    parameters: &'a TrainableParams,
    weights: Weights<'a>,
    inputs: Vec<(String, Arc<dyn ActivationQuantizer>)>,
    kv_cache: Option<Arc<dyn ActivationQuantizer>>,
}

/// Weights that are rounded, weights of codes, and variables as they are.
struct Weights<'a> {
    rounded: FakeQuantizedParams<'a>,
    coded: CodedParams<'a>,
}

impl TensorSource for Weights<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        if self.coded.has(name) { self.coded.tensor(name, shape) } else { self.rounded.tensor(name, shape) }
    }
}

impl<'a> Student<'a> {
    /// A model that computes with its variables as they are.
    ///
    /// # Errors
    /// Never.
    pub fn plain(config: &ModelConfig, parameters: &'a TrainableParams) -> Result<Self, ModelError> {
        Self::on_grids(config, parameters, Grids::default())
    }

    /// A model some of whose numbers are rounded to grids.
    ///
    /// # Errors
    /// A grid does not fit what it is for, or needs scales from calibration data.
    pub fn on_grids(config: &ModelConfig, parameters: &'a TrainableParams, grids: Grids) -> Result<Self, ModelError> {
        let Grids { weights, codes, mut inputs, kv_cache, inputs_follow_ranges } = grids;
        let quantizer = |grid: Grid, features| -> Result<Arc<dyn ActivationQuantizer>, ModelError> {
            let quantizer = GridQuantizer::new(grid, None, features)?;
            Ok(Arc::new(if inputs_follow_ranges { quantizer.following_ranges() } else { quantizer }))
        };
        let mut shared: Vec<(Site, Grid, Arc<dyn ActivationQuantizer>)> = Vec::new();
        let mut all = Vec::new();
        for linear in config.linears().into_iter().chain([config.head()]) {
            let Some(grid) = inputs.remove(&linear.name) else { continue };
            let known = shared.iter().find(|(site, other, _)| *site == linear.site && *other == grid);
            let found = match known {
                Some((_, _, found)) => Arc::clone(found),
                None => {
                    let made = quantizer(grid.clone(), linear.in_features)?;
                    shared.push((linear.site, grid, Arc::clone(&made)));
                    made
                }
            };
            all.push((linear.name, found));
        }
        if let Some(unknown) = inputs.keys().next() {
            return Err(ModelError::Text(format!("the model has no linear `{unknown}` whose input could be rounded")));
        }
        let kv_cache = kv_cache.map(|grid| quantizer(grid, config.num_kv_heads * config.head_dim)).transpose()?;
        let weights = Weights {
            rounded: FakeQuantizedParams::new(parameters, weights)?,
            coded: CodedParams::new(parameters, codes)?,
        };
        Ok(Self { config: config.clone(), parameters, weights, inputs: all, kv_cache })
    }

    /// The variables.
    pub fn parameters(&self) -> &'a TrainableParams {
        self.parameters
    }

    /// The configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model with its weights as they are now, through which gradients pass to the variables.
    ///
    /// # Errors
    /// A weight is not finite.
    pub fn decoder(&self) -> Result<Decoder, ModelError> {
        self.over(&self.weights)?.whole()
    }

    /// The same without a graph: for validation and generation.
    ///
    /// # Errors
    /// A weight is not finite.
    pub fn detached(&self) -> Result<Decoder, ModelError> {
        self.over(&Detached(&self.weights))?.whole()
    }

    /// Its tensors, of which some are rounded when they are asked for.
    pub fn weights(&self) -> &dyn TensorSource {
        &self.weights
    }

    /// The model over [`weights`](Self::weights), or what stands for them, a block at a time: what is rounded exists while its block
    /// is visited.
    ///
    /// # Errors
    /// The source lacks a tensor; a weight is not finite.
    pub fn over<'s>(&'s self, source: &'s dyn TensorSource) -> Result<Blockwise<'s>, ModelError> {
        let mut made = Blockwise::over(&self.config, source, |index, block| self.prepare(index, block))?;
        let of_head = self.inputs.iter().find(|(module, _)| module == LM_HEAD);
        made.set_head_quantizer(of_head.map(|(_, quantizer)| Arc::clone(quantizer)));
        Ok(made)
    }

    /// Puts the quantizers of a block.
    fn prepare(&self, index: usize, block: &mut Block) -> Result<(), ModelError> {
        for (module, quantizer) in self.inputs.iter().filter(|(module, _)| block_of(module) == Some(index)) {
            block.set_input_quantizer(module, Some(Arc::clone(quantizer)))?;
        }
        if let Some(quantizer) = &self.kv_cache {
            block.set_kv_quantizers(Some(Arc::clone(quantizer)), Some(Arc::clone(quantizer)));
        }
        Ok(())
    }

    /// The codes of a weight: those of the numbers that [`decoder`](Self::decoder) multiplies.
    ///
    /// # Errors
    /// The weight is on no grid, or not finite.
    pub fn quantized(&self, weight: &str) -> Result<QuantizedWeight, ModelError> {
        let Weights { rounded, coded } = &self.weights;
        if coded.has(weight) { coded.quantized(weight) } else { rounded.quantized(weight) }
    }
}
