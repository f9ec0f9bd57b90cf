//! The quantized KV cache of an artifact: its grid, and its static scales from calibration data.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use workbench_model::{Checkpoint, Site, SiteKind};
use workbench_quant::{Conventions, Dynamic, Grid, QuantizationArgs, StorageDtype};

use super::artifact::Artifact;
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

/// Puts grid and scales. Static scales are those of the keys and values of the model as it was given: one pass without any
/// quantizer.
///
/// # Errors
/// The arguments have no grid, calibration data are missing, or an activation is not finite.
pub(super) fn put(
    artifact: &mut Artifact,
    cache: &KvCache,
    stored: StorageDtype,
    checkpoint: &Checkpoint,
    calibration: Option<(&[Vec<u32>], Room)>,
    reporter: &NodeReporter,
    facts: &mut Map<String, Value>,
) -> Result<()> {
    let grid = Grid::new(&cache.args, stored, cache.conventions)
        .map_err(|e| Error::refused("no grid for the KV cache").cause(e.to_string()).maybe_hint(e.hint()))?;
    artifact.put_kv_cache(&grid);
    let mut fact = json!({ "grid": grid });
    if grid.args().dynamic == Dynamic::No {
        let (sequences, room) =
            calibration.ok_or_else(|| Error::refused("static KV-cache scales need calibration data"))?;
        let config = checkpoint.config();
        let of_heads = grid.of_heads(config.head_dim);
        let sites = |kind| (0..config.num_layers).map(move |block| Site::in_block(block, kind));
        let sites: BTreeMap<Site, Grid> =
            sites(SiteKind::Key).chain(sites(SiteKind::Value)).map(|site| (site, of_heads.clone())).collect();
        let scales = calib::scales(checkpoint, &sites, sequences, room, reporter)?;
        for block in 0..config.num_layers {
            let of = |kind| &scales[&Site::in_block(block, kind)].parameters;
            artifact.put_kv_scales(block, of(SiteKind::Key), of(SiteKind::Value))?;
        }
        fact["observer"] = json!(grid.args().observer);
        let ranges: Map<String, Value> = scales.into_iter().map(|(site, s)| (site.to_string(), s.range)).collect();
        fact["observed"] = json!({ "mode": "full_precision", "ranges": ranges });
    }
    facts.insert("kv_cache".into(), fact);
    Ok(())
}
