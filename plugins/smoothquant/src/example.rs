//! Models that llm-compressor smoothed.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use workbench_api::sdk::*;

/// A model of two blocks with its channel ranges, and its tensors after llm-compressor 0.14.0.1's `SmoothQuantModifier`.
#[derive(Deserialize)]
struct Golden {
    name: String,
    smoothing_strength: f64,
    config: Value,
    tensors: BTreeMap<String, GoldenTensor>,
    /// Smallest and largest value per channel, by site.
    statistics: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
    expected: BTreeMap<String, GoldenTensor>,
}

#[derive(Deserialize)]
struct GoldenTensor {
    shape: Vec<usize>,
    values: Vec<f32>,
}

fn tensors(golden: BTreeMap<String, GoldenTensor>) -> BTreeMap<String, ExampleTensor> {
    golden.into_iter().map(|(name, t)| (name, ExampleTensor::f32(&t.shape, &t.values))).collect()
}

pub(crate) fn examples() -> Result<Vec<Example>, Error> {
    let golden: Vec<Golden> = serde_json::from_str(include_str!("golden.json"))?;
    let mut examples: Vec<Example> = golden.into_iter().map(against_llm_compressor).collect();
    examples.push(by_hand()?);
    Ok(examples)
}

fn against_llm_compressor(golden: Golden) -> Example {
    let model = ExampleModel { config: golden.config, tensors: tensors(golden.tensors) };
    let mut example = Example::new(&golden.name, Job::Transform(Model::default()), model)
        .parameter("smoothing_strength", golden.smoothing_strength)
        .parameter("activation_range", "range");
    for (site, kinds) in golden.statistics {
        let vectors = kinds.into_iter().map(|(kind, values)| (kind, ExampleTensor::f32(&[values.len()], &values)));
        example.statistics.insert(site, vectors.collect());
    }
    example.expected = Expected { tensors: tensors(golden.expected), tolerance: 1e-5, ..Expected::default() };
    example
}

/// Grouped heads and biases: two query heads of one channel read one KV head, so o's two columns share the scale
/// sqrt(max(4, 16) / max(1, 4)) = 2; the MLP's inner channel has the scale sqrt(9 / 1) = 3.
fn by_hand() -> Result<Example, Error> {
    let block = |name: &str| format!("model.layers.0.{name}");
    let tensors = [
        ("input_layernorm.weight", vec![2], vec![1.0, 1.0]),
        ("self_attn.v_proj.weight", vec![1, 2], vec![6.0, 8.0]),
        ("self_attn.v_proj.bias", vec![1], vec![3.0]),
        ("self_attn.o_proj.weight", vec![2, 2], vec![1.0, -4.0, 0.5, 2.0]),
        ("mlp.up_proj.weight", vec![1, 2], vec![9.0, -3.0]),
        ("mlp.up_proj.bias", vec![1], vec![6.0]),
        ("mlp.down_proj.weight", vec![2, 1], vec![1.0, 0.5]),
    ];
    let example_tensor =
        |(name, shape, values): (&str, Vec<usize>, Vec<f32>)| (block(name), ExampleTensor::f32(&shape, &values));
    let model = ExampleModel {
        config: json!({ "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 1 }),
        tensors: tensors.into_iter().map(example_tensor).collect(),
    };
    let mut example = Example::new("values and up by hand", Job::Transform(Model::default()), model)
        .parameter("mappings", json!(["v->o", "up->down"]));
    let absmax = |values: &[f32]| BTreeMap::from([("absmax".to_owned(), ExampleTensor::f32(&[values.len()], values))]);
    example.statistics.insert(block("self_attn.o_proj.input"), absmax(&[4.0, 16.0]));
    example.statistics.insert(block("mlp.down_proj.input"), absmax(&[9.0]));
    let expected = [
        ("self_attn.v_proj.weight", vec![1, 2], vec![3.0, 4.0]),
        ("self_attn.v_proj.bias", vec![1], vec![1.5]),
        ("self_attn.o_proj.weight", vec![2, 2], vec![2.0, -8.0, 1.0, 4.0]),
        ("mlp.up_proj.weight", vec![1, 2], vec![3.0, -1.0]),
        ("mlp.up_proj.bias", vec![1], vec![2.0]),
        ("mlp.down_proj.weight", vec![2, 1], vec![3.0, 1.5]),
    ];
    example.expected.tensors = expected.into_iter().map(example_tensor).collect();
    Ok(example)
}
