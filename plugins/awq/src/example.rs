//! A model that llm-compressor scaled. The unit tests have larger ones: an example travels in the plugin's descriptor.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use workbench_api::sdk::*;
use workbench_model::ModelConfig;
use workbench_model::arch::{self, PairKind};

/// A model, calibration sequences, and the model's tensors after llm-compressor 0.14.0.1's `AWQModifier` for 4 bits, asymmetric,
/// in groups.
#[derive(Deserialize)]
pub(crate) struct Golden {
    pub(crate) name: String,
    pub(crate) group_size: usize,
    pub(crate) parameters: Map<String, Value>,
    pub(crate) config: Value,
    pub(crate) sequences: Vec<Vec<i64>>,
    /// By the module that is divided: the search's objective at the identity and at its best point.
    #[cfg(test)]
    pub(crate) losses: BTreeMap<String, [f64; 2]>,
    pub(crate) tensors: BTreeMap<String, GoldenTensor>,
    pub(crate) expected: BTreeMap<String, GoldenTensor>,
}

#[derive(Deserialize)]
pub(crate) struct GoldenTensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    let golden: Golden = serde_json::from_str(include_str!("example.json"))?;
    Ok(vec![against_llm_compressor(golden)])
}

fn tensors(golden: BTreeMap<String, GoldenTensor>) -> BTreeMap<String, ExampleTensor> {
    golden.into_iter().map(|(name, t)| (name, ExampleTensor::f32(&t.shape, &t.values))).collect()
}

/// The pairs of a model, as a host says them.
fn pairs(config: &Value) -> Vec<Pair> {
    let config = ModelConfig::from_json(config, Path::new("config.json"));
    let mapping = |kind| match kind {
        PairKind::NormToQkv => Mapping::NormToQkv,
        PairKind::ValueToOutput => Mapping::ValueToOutput,
        PairKind::NormToGateUp => Mapping::NormToGateUp,
        PairKind::UpToDown => Mapping::UpToDown,
    };
    let blocks = config.iter().flat_map(ModelConfig::blocks);
    let pair = |pair: arch::Pair| Pair {
        mapping: mapping(pair.kind),
        block: arch::block_name(pair.block),
        source: pair.source,
        readers: pair.readers,
        site: pair.site.to_string(),
    };
    blocks.flat_map(|block| block.pairs()).map(pair).collect()
}

pub(crate) fn against_llm_compressor(golden: Golden) -> Example {
    let job = Job::Transform(Model { pairs: pairs(&golden.config), ..Model::default() });
    let model = ExampleModel { config: golden.config, tensors: tensors(golden.tensors) };
    let scheme = json!({ "num_bits": 4, "symmetric": false, "strategy": "group", "group_size": golden.group_size });
    let mut example = Example::new(&golden.name, job, model).parameter("scheme", scheme);
    example.parameters.extend(golden.parameters);
    let batch = |ids: &Vec<i64>| {
        let tensor = ExampleTensor::integers(Dtype::U32, &[ids.len()], ids);
        BTreeMap::from([("input_ids".to_owned(), tensor)])
    };
    example.streams.insert("calibration".to_owned(), golden.sequences.iter().map(batch).collect());
    example.expected = Expected { tensors: tensors(golden.expected), tolerance: 1e-4, ..Expected::default() };
    example
}
