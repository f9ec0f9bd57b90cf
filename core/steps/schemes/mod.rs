//! From schemes to grids: what quantizations and trainings on grids share.

mod global_scales;
mod kv_cache;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use workbench_api::job::Linear;
use workbench_model::{
    Checkpoint, ModelConfig,
    arch::{EMBEDDINGS, LinearInfo},
    checkpoint::Dtype,
};
use workbench_quant::{Compute, Conventions, Dynamic, Grid, QuantizationArgs, StorageDtype};

pub(super) use self::kv_cache::CacheGrids;
use super::host;
use crate::{
    error::{Error, Result},
    graph::{
        experts, fused,
        params::{Group, WeightDtype},
    },
};

/// A model of which weights are put on grids.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub checkpoint: &'a Checkpoint,
    /// The dtype in which the result is written, where that is another than the model's own.
    pub dtype: Option<WeightDtype>,
}

impl<'a> From<&'a Checkpoint> for Written<'a> {
    /// In the model's own dtype.
    fn from(checkpoint: &'a Checkpoint) -> Self {
        Self { checkpoint, dtype: None }
    }
}

impl Written<'_> {
    /// In which scales of a weight are stored: as the weight itself would be.
    pub(super) fn storage(self, weight: &str) -> StorageDtype {
        match (self.dtype, self.checkpoint.dtype(weight)) {
            (Some(WeightDtype::Float16), _) | (None, Some(Dtype::F16)) => StorageDtype::F16,
            (Some(WeightDtype::Bfloat16), _) | (None, Some(Dtype::BF16)) => StorageDtype::Bf16,
            // GGUF blocks are handed out in f32, and so are their scales.
            _ => StorageDtype::F32,
        }
    }
}

/// A linear with its grids.
pub(super) struct Target {
    pub info: LinearInfo,
    pub weights: Grid,
    pub inputs: Option<Grid>,
}

impl Target {
    /// The grid of its input, if its scale comes from calibration data.
    pub(super) fn calibrated_inputs(&self) -> Option<&Grid> {
        self.inputs.as_ref().filter(|grid| grid.args().dynamic != Dynamic::Yes)
    }

    /// Whether it is this module, and one of a decoder block.
    pub(super) fn is_of_block(&self, module: &str) -> bool {
        self.info.name == module && self.info.site.block.is_some()
    }

    /// What a plugin is told about it.
    ///
    /// # Errors
    /// Never: a grid is JSON.
    pub(super) fn linear(&self, config: &ModelConfig) -> Result<Linear> {
        let inputs = self.inputs.as_ref().map(json_of).transpose()?.unwrap_or_default();
        Ok(Linear { grid: json_of(&self.weights)?, input_grid: inputs, ..host::linear(&self.info, config) })
    }
}

/// A grid as plugins are told it.
///
/// # Errors
/// Never: a grid is JSON.
pub(super) fn json_of(grid: &Grid) -> Result<Value> {
    serde_json::to_value(grid).map_err(|e| Error::internal(e.to_string()))
}

/// The type of scales: that of the model where they are stored, and of the arithmetic where every input gives its own.
fn scales_of(args: &QuantizationArgs, stored: StorageDtype) -> StorageDtype {
    if args.dynamic == Dynamic::No { stored } else { StorageDtype::F32 }
}

/// The grid of a module's weight or input.
///
/// # Errors
/// The arguments have none.
pub(super) fn grid_of(
    model: Written<'_>,
    module: &str,
    args: &QuantizationArgs,
    conventions: Conventions,
) -> Result<Grid> {
    let stored = model.storage(&model.checkpoint.config().weight_of(module));
    Grid::new(args, scales_of(args, stored), conventions)
        .map_err(|e| Error::refused(format!("no grid for `{module}`")).cause(e.to_string()).maybe_hint(e.hint()))
}

/// The linears that schemes are for, with their grids, in forward order.
///
/// # Errors
/// A scheme has no grid, or is for a linear that the model does not have; a weight cannot be read.
pub(super) fn targets(groups: &[Group], model: Written<'_>) -> Result<Vec<Target>> {
    let mut grids = BTreeMap::new();
    for group in groups {
        let Some(weights) = &group.scheme.args.weights else {
            return Err(Error::internal("a group without weight arguments"));
        };
        // The embeddings are no linear.
        for module in group.modules.iter().filter(|module| *module != EMBEDDINGS) {
            let grid = |args: &QuantizationArgs| grid_of(model, module, args, group.scheme.conventions);
            let inputs = group.scheme.args.input_activations.as_ref().map(grid).transpose()?;
            grids.insert(module.as_str(), (grid(weights)?, inputs));
        }
    }
    let config = model.checkpoint.config();
    let linears = config.linears().into_iter().chain([config.head()]);
    let mut targets: Vec<Target> = linears
        .filter_map(|info| grids.remove(info.name.as_str()).map(|(weights, inputs)| Target { info, weights, inputs }))
        .collect();
    global_scales::share(targets.iter_mut().map(|t| (t.info.name.as_str(), &mut t.weights)), model.checkpoint)?;
    match grids.keys().next() {
        Some(unknown) => Err(Error::refused(format!("the model has no layer `{unknown}`"))),
        None => Ok(targets),
    }
}

/// The grids of quantized inputs by module.
pub(super) fn inputs(targets: &[Target]) -> BTreeMap<&str, &Grid> {
    targets.iter().filter_map(|t| Some((t.info.name.as_str(), t.inputs.as_ref()?))).collect()
}

/// What the loaders of others will not like about this choice of schemes.
pub(super) fn warnings(groups: &[Group], model: Written<'_>) -> Vec<String> {
    let schemes = groups.iter().flat_map(|group| group.modules.iter().map(|m| (m.as_str(), &group.scheme))).collect();
    let mut warnings = fused::splits(&schemes);
    warnings.extend(experts::unread(model.checkpoint.config(), &schemes));
    let stored_in_bf16 = |module: &String| model.storage(&format!("{module}.weight")) == StorageDtype::Bf16;
    let rounds_in_bf16 = |group: &&Group| group.scheme.conventions.compute == Compute::Bf16;
    if groups.iter().filter(rounds_in_bf16).any(|group| !group.modules.iter().all(stored_in_bf16)) {
        warnings.push(
            "`compute: \"bf16\"` evaluates weights as bfloat16 arithmetic dequantizes them, and this model's are not stored in bfloat16: \
             what opens the folder computes in its own dtype, with other last bits"
                .to_owned(),
        );
    }
    warnings
}

/// How many linears of the blocks are quantized, for the record.
pub(super) fn layers(targets: &[Target], config: &ModelConfig) -> Value {
    let in_blocks = targets.iter().filter(|target| target.info.site.block.is_some()).count();
    json!({ "quantized": in_blocks, "of": config.linears().len() })
}

/// Every grid in use with the number of layers on it.
pub(super) fn grids(targets: &[Target], embeddings: Option<&Grid>) -> Value {
    let mut seen: Vec<(Value, usize)> = Vec::new();
    let linears = targets.iter().map(|target| (&target.weights, target.inputs.as_ref()));
    for (weights, inputs) in linears.chain(embeddings.map(|grid| (grid, None))) {
        let weights = weights.clone().with_global_scale(None);
        let grid = json!({ "weights": weights, "inputs": inputs });
        match seen.iter_mut().find(|(known, _)| *known == grid) {
            Some((_, count)) => *count += 1,
            None => seen.push((grid, 1)),
        }
    }
    seen.into_iter().map(|(grid, layers)| json!({ "layers": layers, "grid": grid })).collect()
}
