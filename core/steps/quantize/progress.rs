//! What a quantization has found out so far, and a run that continues it takes over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use workbench_quant::Parameters;

use crate::error::{Error, Result};

/// The part of a record that grows with the blocks.
///
/// JSON is kept as text: reading a number from text may change its last bit, and a record must not tell whether its run was
/// interrupted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What the plugin reported, by module, in the order of its jobs.
    pub reports: Vec<(String, String)>,
    /// Ranges of calibrated inputs, by site.
    pub ranges: Vec<(String, String)>,
    /// Calibrated scales of inputs, by module.
    pub scales: BTreeMap<String, StoredParameters>,
    /// Ranges of keys and values, by site.
    #[serde(default)]
    pub kv_ranges: Vec<(String, String)>,
    /// Their scales, by block.
    #[serde(default)]
    pub kv_scales: BTreeMap<usize, [StoredParameters; 2]>,
    /// Sites with static scales whose values were all zero: of inputs, and of keys and values.
    #[serde(default)]
    pub silent: [Vec<String>; 2],
}

/// Places in [`Progress::silent`].
pub(super) const INPUTS: usize = 0;
pub(super) const KEYS_AND_VALUES: usize = 1;

/// Puts the sites that were zero throughout into a fact, if there are any.
pub(super) fn silent_sites(fact: &mut Value, sites: &[String]) {
    if !sites.is_empty() {
        fact["silent_sites"] = json!(sites);
    }
}

/// The JSON of texts by name.
pub(super) fn parsed(texts: Vec<(String, String)>) -> Result<Value> {
    let parse = |(name, text): (String, String)| Ok((name, serde_json::from_str(&text)?));
    let map: serde_json::Result<Map<String, Value>> = texts.into_iter().map(parse).collect();
    Ok(Value::Object(map.map_err(|e| Error::internal("the progress cannot be read back").cause(e.to_string()))?))
}

/// [`Parameters`] with the bits of their scales.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredParameters {
    scales: Vec<u32>,
    zero_points: Option<Vec<i32>>,
    global_scale: Option<u32>,
    shape: [usize; 2],
}

impl From<&Parameters> for StoredParameters {
    fn from(p: &Parameters) -> Self {
        let scales = p.scales.iter().map(|s| s.to_bits()).collect();
        let global_scale = p.global_scale.map(f32::to_bits);
        Self { scales, zero_points: p.zero_points.clone(), global_scale, shape: p.shape }
    }
}

impl From<&StoredParameters> for Parameters {
    fn from(p: &StoredParameters) -> Self {
        let scales = p.scales.iter().map(|s| f32::from_bits(*s)).collect();
        let global_scale = p.global_scale.map(f32::from_bits);
        Self { scales, zero_points: p.zero_points.clone(), global_scale, shape: p.shape }
    }
}
