//! An example that can be worked out by hand.

use std::collections::BTreeMap;

use serde_json::json;
use workbench_api::sdk::*;

/// The pairs of a block of Llama.
pub(crate) fn pairs(block: &str) -> Vec<Pair> {
    let known: [(Mapping, &str, &[&str], &str); 4] = [
        (
            Mapping::NormToQkv,
            "input_layernorm",
            &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            "self_attn.input",
        ),
        (Mapping::ValueToOutput, "self_attn.v_proj", &["self_attn.o_proj"], "self_attn.o_proj.input"),
        (Mapping::NormToGateUp, "post_attention_layernorm", &["mlp.gate_proj", "mlp.up_proj"], "mlp.input"),
        (Mapping::UpToDown, "mlp.up_proj", &["mlp.down_proj"], "mlp.down_proj.input"),
    ];
    let pair = |(mapping, source, readers, site): (Mapping, &str, &[&str], &str)| Pair {
        mapping,
        block: block.to_owned(),
        source: format!("{block}.{source}"),
        readers: readers.iter().map(|reader| format!("{block}.{reader}")).collect(),
        site: format!("{block}.{site}"),
    };
    known.into_iter().map(pair).collect()
}

/// Grouped heads and biases: two query heads of one channel read one KV head, so o's two columns share the scale
/// sqrt(max(4, 16) / max(1, 4)) = 2; the MLP's inner channel has the scale sqrt(9 / 1) = 3.
pub(crate) fn by_hand() -> Example {
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
    let mut example = Example::new(
        "values and up by hand",
        Job::Transform(Model { pairs: pairs("model.layers.0"), ..Model::default() }),
        model,
    )
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
    example
}
