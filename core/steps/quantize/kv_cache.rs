//! The quantized KV cache of an artifact: its grid, and its static scales from calibration data.

use std::sync::Arc;

use serde_json::{Value, json};
use workbench_model::{
    Checkpoint, Site, SiteKind,
    decoder::{ActivationQuantizer, Block, GridQuantizer},
    statistics::Wants,
};
use workbench_quant::{Grid, QuantParams};

use super::super::schemes::CacheGrids;
use crate::{
    calib::{InputScale, Observation, SiteObserver},
    error::{Error, Result},
    graph::params,
};

/// How keys and values are rounded before they are cached.
pub(super) struct KvCache {
    grids: CacheGrids,
    /// The scale of the keys of a block whose values were not reached yet.
    key: Option<InputScale>,
}

/// Static scales of a block's keys and values.
pub(super) struct KvScales {
    pub key: QuantParams,
    pub value: QuantParams,
    /// What was observed at either site, for the record.
    pub ranges: [(Site, Value); 2],
    /// Sites that were zero throughout.
    pub silent: Vec<String>,
}

impl KvCache {
    /// The cache of a model.
    ///
    /// # Errors
    /// The arguments have no grid.
    pub(super) fn new(params: &params::KvCache, checkpoint: &Checkpoint) -> Result<Self> {
        Ok(Self { grids: CacheGrids::new(params, checkpoint.into())?, key: None })
    }

    /// How keys and values are quantized, by the arguments of the format.
    pub(super) fn grid(&self) -> &Grid {
        &self.grids.grid
    }

    /// The grid of its scales, if they come from calibration data.
    pub(super) fn calibrated(&self) -> Option<&Grid> {
        Some(&self.grids.heads).filter(|_| self.is_static())
    }

    /// Whether its scales come from calibration data.
    pub(super) fn is_static(&self) -> bool {
        self.grids.is_static()
    }

    /// What is to be gathered of keys or values.
    pub(super) fn observe(&self, site: Site) -> Result<Option<SiteObserver>> {
        if !self.is_static() {
            return Ok(None);
        }
        Ok(Some(SiteObserver::new(
            site,
            self.grids.features,
            Wants::default(),
            std::slice::from_ref(&self.grids.heads),
        )?))
    }

    /// All keys (first) or all values (then) of a block have passed. What follows in the block sees them rounded. Returns the
    /// block's scales, if they are static and known now.
    ///
    /// # Errors
    /// Static scales were not observed.
    pub(super) fn visit(
        &mut self,
        site: Site,
        observation: Option<Observation>,
        block: Option<&mut Block>,
    ) -> Result<Option<KvScales>> {
        let scale = observation.and_then(|observation| observation.input_scales.into_iter().next());
        if self.is_static() && scale.is_none() {
            return Err(Error::internal(format!("{site} was not observed")));
        }
        if site.kind == SiteKind::Key {
            self.key = scale;
            return Ok(None);
        }
        let (key, value) = (self.key.take(), scale);
        if let Some(block) = block {
            let quantizer = |scale: &Option<InputScale>| -> Result<Arc<dyn ActivationQuantizer>> {
                let parameters = scale.as_ref().map(|scale| scale.parameters.clone());
                Ok(Arc::new(GridQuantizer::new(self.grids.heads.clone(), parameters, self.grids.features)?))
            };
            block.set_kv_quantizers(Some(quantizer(&key)?), Some(quantizer(&value)?));
        }
        let (Some(key), Some(value)) = (key, value) else { return Ok(None) };
        let of_keys = Site { kind: SiteKind::Key, ..site };
        let silent = [key.silent_site(of_keys), value.silent_site(site)].into_iter().flatten().collect();
        let ranges = [(of_keys, key.range), (site, value.range)];
        Ok(Some(KvScales { key: key.parameters, value: value.parameters, ranges, silent }))
    }

    /// What the record says about it; `mode` is the order in which calibration data passed, `ranges` by site.
    pub(super) fn fact(&self, mode: &Value, ranges: Value) -> Value {
        let mut fact = self.grids.fact();
        if self.is_static() {
            fact["observer"] = json!(self.grids.grid.args().observer);
            fact["observed"] = json!({ "mode": mode, "ranges": ranges });
        }
        fact
    }
}
