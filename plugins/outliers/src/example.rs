//! Examples small enough to be worked out by hand.

use std::collections::BTreeMap;

use serde_json::json;
use workbench_api::sdk::*;

const UP: &str = "model.layers.0.mlp.up_proj.weight";
const BIAS: &str = "model.layers.0.mlp.up_proj.bias";
const DOWN: &str = "model.layers.0.mlp.down_proj.weight";

/// One block with a hidden size of 2 and 3 channels between `up_proj` and `down_proj`, in bf16.
fn model() -> ExampleModel {
    let tensor = |shape: &[usize], values: &[f64]| ExampleTensor {
        dtype: Dtype::BF16,
        shape: shape.to_vec(),
        values: values.to_vec(),
    };
    ExampleModel {
        config: json!({ "model_type": "llama" }),
        tensors: BTreeMap::from([
            (UP.to_owned(), tensor(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 0.5, 0.25])),
            (BIAS.to_owned(), tensor(&[3], &[1.0, -1.0, 2.0])),
            (DOWN.to_owned(), tensor(&[2, 3], &[8.0, 16.0, 32.0, -8.0, -16.0, -32.0])),
        ]),
    }
}

fn example(name: &str) -> Example {
    let module = |tensor: &str| tensor.trim_end_matches(".weight").to_owned();
    let pair = Pair {
        mapping: Mapping::UpToDown,
        block: "model.layers.0".to_owned(),
        source: module(UP),
        readers: vec![module(DOWN)],
        site: format!("{}.input", module(DOWN)),
    };
    Example::new(name, Job::Transform(Model { pairs: vec![pair], ..Model::default() }), model())
        .parameter("channels", 1)
        .parameter("scale", 8)
}

pub(crate) fn by_activations() -> Example {
    let mut example = example("the channel with the largest activations grows");
    let absmax = ExampleTensor::f32(&[3], &[1.0, 2.0, 6.0]);
    let kinds = BTreeMap::from([("absmax".to_owned(), absmax)]);
    example.statistics.insert("model.layers.0.mlp.down_proj.input".to_owned(), kinds);
    let expected = &mut example.expected;
    expected.tensors.insert(UP.to_owned(), ExampleTensor::f32(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 4.0, 2.0]));
    expected.tensors.insert(BIAS.to_owned(), ExampleTensor::f32(&[3], &[1.0, -1.0, 16.0]));
    expected.tensors.insert(DOWN.to_owned(), ExampleTensor::f32(&[2, 3], &[8.0, 16.0, 4.0, -8.0, -16.0, -4.0]));
    let channels = json!({ "model.layers.0": { "picked": [2], "by": "maximum_over_median", "score": [3.0] } });
    expected.facts.insert("channels".to_owned(), channels);
    example
}

pub(crate) fn by_weights() -> Example {
    let mut example = example("without calibration data the channel with the largest weights grows");
    let expected = &mut example.expected;
    expected.tensors.insert(UP.to_owned(), ExampleTensor::f32(&[3, 2], &[1.0, 2.0, 24.0, 32.0, 0.5, 0.25]));
    expected.tensors.insert(BIAS.to_owned(), ExampleTensor::f32(&[3], &[1.0, -8.0, 2.0]));
    expected.tensors.insert(DOWN.to_owned(), ExampleTensor::f32(&[2, 3], &[8.0, 2.0, 32.0, -8.0, -2.0, -32.0]));
    let channels = json!({ "model.layers.0": { "picked": [1], "by": "up_proj_row_norm", "score": [5.0] } });
    expected.facts.insert("channels".to_owned(), channels);
    example
}
