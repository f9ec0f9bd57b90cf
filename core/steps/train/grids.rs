//! The grids that a trainer learns codes on: made as a quantization makes them, or those of the codes that it starts from.

use serde_json::{Map, Value, json};
use workbench_api::job::{Linear, Model};
use workbench_model::{Checkpoint, ModelConfig, arch::LinearInfo};

use super::{
    super::{
        artifact::Artifact,
        host,
        schemes::{self, CacheGrids, Target, Written},
    },
    start::Start,
};
use crate::{
    error::{Error, Result},
    graph::{
        coded::Schemes,
        params::{self, Group, WeightDtype},
    },
};

/// What a training is asked to quantize; nothing, where no scheme was given.
#[derive(Default)]
pub(super) struct Grids {
    targets: Vec<Target>,
    cache: Option<CacheGrids>,
    /// Whether the model's weights are codes on them already.
    codes: bool,
    /// What a reader of the result has to know.
    warnings: Vec<String>,
}

impl Grids {
    /// The grids of schemes. Static scales are stored as what is not quantized is written.
    ///
    /// # Errors
    /// A scheme does not fit the model, or needs what a training does not have.
    pub(super) fn new(
        groups: &[Group],
        kv_cache: Option<&params::KvCache>,
        start: &Start,
        dtype: Option<WeightDtype>,
    ) -> Result<Self> {
        if groups.is_empty() && kv_cache.is_none() {
            return Ok(Self::default());
        }
        let Start::Weights(checkpoint) = start else {
            return Err(Error::refused("grids are chosen by weights, and the model begins without any"));
        };
        let model = Written { checkpoint, dtype };
        let targets = schemes::targets(groups, model)?;
        let modules = || groups.iter().flat_map(|group| &group.modules);
        if let Some(module) = modules().find(|module| targets.iter().all(|target| !target.is_of_block(module))) {
            return Err(Error::refused(format!("codes of `{module}`, outside of the decoder blocks, are not trained")));
        }
        if let Some(target) = targets.iter().find(|target| target.calibrated_inputs().is_some()) {
            return Err(Error::refused(format!("the input of `{}` has a static scale", target.info.name))
                .cause("a training has no calibration data to take it from")
                .hint("choose dynamic activations"));
        }
        let cache = kv_cache.map(|given| CacheGrids::new(given, model)).transpose()?;
        if cache.as_ref().is_some_and(CacheGrids::is_static) {
            return Err(Error::refused("the KV cache has static scales")
                .cause("a training has no calibration data to take them from")
                .hint("choose a dynamic cache"));
        }
        Ok(Self { targets, cache, codes: false, warnings: schemes::warnings(groups, model) })
    }

    /// The grids of a model of codes.
    ///
    /// # Errors
    /// None of its linears is one of codes; something has codes or static scales that a training does not take.
    pub(super) fn of_codes(start: &Start) -> Result<Self> {
        let Start::Weights(checkpoint) = start else {
            return Err(Error::refused(
                "a training of codes needs a model that has some, and this one begins without weights",
            ));
        };
        if let Some(module) = checkpoint.quantized_embeddings().first() {
            return Err(Error::refused(format!(
                "the weight of `{module}` is codes, and those outside of the decoder blocks are not trained"
            ))
            .hint("quantize the model with the linears of its blocks as targets"));
        }
        let linears = checkpoint.config().linears().into_iter();
        let targets = linears.filter_map(|info| target_of_codes(checkpoint, info).transpose());
        let targets: Vec<Target> = targets.collect::<Result<_>>()?;
        if targets.is_empty() {
            return Err(Error::refused("the weights of the model are no codes: none of its linears has a grid")
                .hint("quantize it first"));
        }
        if let Some(target) = targets.iter().find(|target| target.calibrated_inputs().is_some()) {
            return Err(Error::refused(format!("the input of `{}` has a static scale", target.info.name))
                .hint("quantize the model with dynamic activations"));
        }
        let quantizer = if checkpoint.config().num_layers > 0 { checkpoint.kv_quantizer(0)? } else { None };
        let cache = quantizer.map(|found| CacheGrids::of(found.grid, checkpoint.config()));
        if cache.as_ref().is_some_and(CacheGrids::is_static) {
            return Err(
                Error::refused("the KV cache has static scales").hint("quantize the model with a dynamic cache")
            );
        }
        let warnings = schemes::warnings(&Schemes::of(checkpoint)?.groups, (&**checkpoint).into());
        Ok(Self { targets, cache, codes: true, warnings })
    }

    /// What the trainer is told: all linears of the blocks, with grids where they are quantized.
    ///
    /// # Errors
    /// Never: a grid is JSON.
    pub(super) fn job(&self, config: &ModelConfig) -> Result<Model> {
        let linear = |info: &LinearInfo| -> Result<Linear> {
            match self.targets.iter().find(|target| target.info.name == info.name) {
                Some(target) => target.linear(config),
                None => Ok(host::linear(info, config)),
            }
        };
        let linears = config.linears().iter().map(linear).collect::<Result<_>>()?;
        let kv_cache = self.cache.as_ref().map(|cache| schemes::json_of(&cache.heads)).transpose()?;
        Ok(Model { linears, kv_cache: kv_cache.unwrap_or_default(), codes: self.codes, ..Model::default() })
    }

    /// Declares inputs and cache in the model that is written, before its weights are put.
    ///
    /// # Errors
    /// The model has no such linear.
    pub(super) fn declare(&self, artifact: &mut Artifact) -> Result<()> {
        for (module, grid) in schemes::inputs(&self.targets) {
            artifact.put_input_quantizer(module, grid)?;
        }
        if let Some(cache) = &self.cache {
            artifact.put_kv_cache(&cache.grid);
        }
        Ok(())
    }

    /// Records them as a quantization does.
    pub(super) fn note(&self, config: &ModelConfig, facts: &mut Map<String, Value>) {
        if self.targets.is_empty() && self.cache.is_none() {
            return;
        }
        facts.insert("layers".into(), schemes::layers(&self.targets, config));
        facts.insert("grids".into(), schemes::grids(&self.targets, None));
        if !self.warnings.is_empty() {
            facts.insert("warnings".into(), json!(self.warnings));
        }
        if let Some(cache) = &self.cache {
            facts.insert("kv_cache".into(), cache.fact());
        }
    }
}

/// A linear of codes with its grids; `None` for one of plain weights.
///
/// # Errors
/// A scale is damaged; its input is rounded, and its weight is none of codes.
fn target_of_codes(checkpoint: &Checkpoint, info: LinearInfo) -> Result<Option<Target>> {
    let inputs = checkpoint.input_quantizer(&info.name)?.map(|input| input.grid);
    match (checkpoint.weight_grid(&info.name), inputs) {
        (Some(weights), inputs) => Ok(Some(Target { weights: weights.clone(), inputs, info })),
        (None, None) => Ok(None),
        (None, Some(_)) => {
            Err(Error::refused(format!("the input of `{}` is rounded, and its weight is no codes", info.name))
                .hint("quantize weights and inputs together"))
        }
    }
}
