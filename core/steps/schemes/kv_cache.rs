//! The grids of a quantized KV cache.

use serde_json::{Value, json};
use workbench_model::{
    ModelConfig,
    arch::{LinearInfo, Role},
};
use workbench_quant::{Dynamic, Grid};

use super::{Written, scales_of};
use crate::{
    error::{Error, Result},
    graph::params,
};

/// How keys and values are rounded before they are cached.
pub(in crate::steps) struct CacheGrids {
    /// By the arguments of the format.
    pub grid: Grid,
    /// Of the keys, or values, of all heads side by side.
    pub heads: Grid,
    /// The features of these.
    pub features: usize,
}

impl CacheGrids {
    /// Those of a model, whose own dtype is that of static scales.
    ///
    /// # Errors
    /// The arguments have no grid.
    pub(in crate::steps) fn new(params: &params::KvCache, model: Written<'_>) -> Result<Self> {
        let config = model.checkpoint.config();
        let first = config.block(0);
        let keys = first.linear(Role::Key).map(LinearInfo::weight).unwrap_or_default();
        let stored = scales_of(&params.args, model.storage(&keys));
        let grid = Grid::new(&params.args, stored, params.conventions)
            .map_err(|e| Error::refused("no grid for the KV cache").cause(e.to_string()).maybe_hint(e.hint()))?;
        Ok(Self::of(grid, config))
    }

    /// Those of a grid.
    pub(in crate::steps) fn of(grid: Grid, config: &ModelConfig) -> Self {
        let (heads, features) = (grid.of_heads(config.head_dim), config.num_kv_heads * config.head_dim);
        Self { grid, heads, features }
    }

    /// Whether its scales come from calibration data.
    pub(in crate::steps) fn is_static(&self) -> bool {
        self.grid.args().dynamic == Dynamic::No
    }

    /// What the record says about them.
    pub(in crate::steps) fn fact(&self) -> Value {
        json!({ "grid": self.grid })
    }
}
