//! What a quantization has found out so far, and a run that continues it takes over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use workbench_quant::{Grid, GridError, QuantParams};

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

impl Progress {
    /// What its scales have that they cannot have: they were checked when they were observed, and are again where they are taken
    /// over. `inputs` are the grids of calibrated inputs by module, `cache` that of keys and values.
    pub(super) fn fault(&self, inputs: &BTreeMap<&str, &Grid>, cache: Option<&Grid>) -> Option<String> {
        let of_inputs = self.scales.iter().map(|(module, stored)| {
            let place = format!("the input of `{module}`");
            (place, inputs.get(module.as_str()).copied(), stored)
        });
        let of_cache = self.kv_scales.iter().flat_map(|(block, stored)| {
            let place = |what: &str| format!("the {what} of block {block}");
            [(place("keys"), cache, &stored[0]), (place("values"), cache, &stored[1])]
        });
        of_inputs.chain(of_cache).find_map(|(place, grid, stored)| match grid {
            Some(grid) => stored.check(grid).err().map(|error| format!("{place}: {error}")),
            None => Some(format!("{place} has a scale, and is not calibrated")),
        })
    }
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

/// [`QuantParams`] with the bits of their scales.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct StoredParameters {
    scales: Vec<u32>,
    zero_points: Option<Vec<i32>>,
    global_scale: Option<u32>,
    shape: [usize; 2],
}

impl StoredParameters {
    /// Whether they are such as their grid has, in the dtype in which they are stored.
    fn check(&self, grid: &Grid) -> Result<(), GridError> {
        let parameters = QuantParams::from(self);
        let (count, wanted) = (parameters.scales.len(), parameters.shape.iter().product::<usize>());
        if count != wanted || parameters.zero_points.as_ref().is_some_and(|points| points.len() != count) {
            return Err(GridError::Shape(format!("{count} scales in the place of {wanted}")));
        }
        grid.check_parameters(&parameters)?;
        grid.check_rounding(&parameters.scales)
    }
}

impl From<&QuantParams> for StoredParameters {
    fn from(p: &QuantParams) -> Self {
        let scales = p.scales.iter().map(|s| s.to_bits()).collect();
        let global_scale = p.global_scale.map(f32::to_bits);
        Self { scales, zero_points: p.zero_points.clone(), global_scale, shape: p.shape }
    }
}

impl From<&StoredParameters> for QuantParams {
    fn from(p: &StoredParameters) -> Self {
        let scales = p.scales.iter().map(|s| f32::from_bits(*s)).collect();
        let global_scale = p.global_scale.map(f32::from_bits);
        Self { scales, zero_points: p.zero_points.clone(), global_scale, shape: p.shape }
    }
}

#[cfg(test)]
mod tests {
    use workbench_quant::{Conventions, QuantizationArgs, StorageDtype, Strategy};

    use super::*;

    #[test]
    fn scales_that_their_grid_cannot_have_are_a_fault() {
        let args = QuantizationArgs { strategy: Strategy::Tensor, ..QuantizationArgs::default() };
        let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
        let observed = grid.parameters_from_range(&[-1.0], &[2.0]).unwrap();
        let with = |change: fn(&mut QuantParams)| {
            let mut parameters = observed.clone();
            change(&mut parameters);
            let both = [StoredParameters::from(&observed), StoredParameters::from(&parameters)];
            let scales = BTreeMap::from([("a".to_owned(), StoredParameters::from(&parameters))]);
            let inputs = Progress { scales, ..Progress::default() };
            let cache = Progress { kv_scales: BTreeMap::from([(3, both)]), ..Progress::default() };
            let grids = BTreeMap::from([("a", &grid)]);
            [inputs.fault(&grids, None), cache.fault(&BTreeMap::new(), Some(&grid))]
        };
        assert_eq!(with(|_| {}), [None, None]);
        for (change, what) in [
            ((|p| p.scales[0] = f32::NAN) as fn(&mut QuantParams), "scale 0 is NaN, not a positive number"),
            (|p| p.scales[0] = f32::INFINITY, "scale 0 is inf"),
            (|p| p.scales[0] = 0.0, "scale 0 is 0"),
            (|p| p.scales[0] = -0.5, "scale 0 is -0.5"),
            (|p| p.scales[0] = 0.1, "which bfloat16 holds as"),
            (|p| p.scales.clear(), "0 scales in the place of 1"),
            (|p| p.zero_points = Some(vec![3]), "the grid is symmetric"),
        ] {
            let [input, cache] = with(change).map(Option::unwrap);
            assert!(input.starts_with("the input of `a`: ") && input.contains(what), "{input}");
            assert!(cache.starts_with("the values of block 3: ") && cache.contains(what), "{cache}");
        }
        let progress = Progress { scales: BTreeMap::from([("a".into(), (&observed).into())]), ..Progress::default() };
        assert!(progress.fault(&BTreeMap::new(), Some(&grid)).unwrap().contains("is not calibrated"));
    }
}
