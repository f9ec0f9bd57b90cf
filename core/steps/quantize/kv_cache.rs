//! The quantized KV cache of an artifact: its grid, and its static scales from calibration data.

use serde::Deserialize;
use serde_json::{Value, json};
use workbench_quant::{Conventions, Dynamic, Grid, QuantizationArgs, StorageDtype};

use super::made::Made;
use crate::{
    calib::{self, Room},
    error::{Error, Result},
    exec::NodeReporter,
};

/// `kv_cache` among a node's parameters.
#[derive(Debug, Deserialize)]
pub(super) struct KvCache {
    args: QuantizationArgs,
    conventions: Conventions,
}

impl KvCache {
    /// How keys and values are quantized.
    pub(super) fn args(&self) -> &QuantizationArgs {
        &self.args
    }
}

/// Puts grid and scales, and returns what the record says. Static scales are those of the keys and values of the model as it
/// was given: one pass without any quantizer.
///
/// # Errors
/// The arguments have no grid, calibration data are missing, or an activation is not finite.
pub(super) fn put(
    made: &mut Made<'_>,
    cache: &KvCache,
    stored: StorageDtype,
    sequences: Option<&[Vec<u32>]>,
    room: Room,
    reporter: &NodeReporter,
) -> Result<Value> {
    let grid = Grid::new(&cache.args, stored, cache.conventions)
        .map_err(|e| Error::refused("no grid for the KV cache").cause(e.to_string()).maybe_hint(e.hint()))?;
    made.artifact.put_kv_cache(&grid);
    if grid.args().dynamic != Dynamic::No {
        return Ok(json!({ "grid": grid }));
    }
    let sequences = sequences.ok_or_else(|| Error::refused("static KV-cache scales need calibration data"))?;
    let mut ranges = serde_json::Map::new();
    let of_heads = grid.of_heads(made.checkpoint.config().head_dim);
    for (block, [key, value]) in
        calib::kv_scales(made.checkpoint, &of_heads, sequences, room, reporter)?.into_iter().enumerate()
    {
        made.artifact.put_kv_scales(block, &key.parameters, &value.parameters)?;
        ranges.insert(format!("model.layers.{block}"), json!({ "key": key.range, "value": value.range }));
    }
    let observed = json!({ "mode": "full_precision", "ranges": ranges });
    Ok(json!({ "grid": grid, "observer": grid.args().observer, "observed": observed }))
}
