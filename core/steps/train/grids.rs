//! The grids that a trainer learns codes on: made as a quantization makes them.

use serde_json::{Map, Value, json};
use workbench_api::job::{Linear, Model};
use workbench_model::{ModelConfig, arch::LinearInfo};

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
    graph::params::{self, Group, WeightDtype},
};

/// What a training is asked to quantize; nothing, where no scheme was given.
#[derive(Default)]
pub(super) struct Grids {
    targets: Vec<Target>,
    cache: Option<CacheGrids>,
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
        Ok(Self { targets, cache, warnings: schemes::warnings(groups, model) })
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
        Ok(Model { linears, kv_cache: kv_cache.unwrap_or_default(), ..Model::default() })
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
