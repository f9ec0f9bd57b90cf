//! A transform that is none: takes the mean off every row of the embedding, as some rotation tools do. A norm that subtracts means
//! would not notice; an RMSNorm does.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

const EMBEDDINGS: &str = "model.embed_tokens.weight";

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {}

struct CenterEmbeddings;

impl Plugin for CenterEmbeddings {
    type Parameters = Parameters;
    const NAME: &'static str = "center_embeddings";
    const SUMMARY: &'static str = "Takes the mean off every row of the embedding";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let mut model = ExampleModel::default();
        model.tensors.insert(EMBEDDINGS.to_owned(), ExampleTensor::f32(&[1, 2], &[1.0, 3.0]));
        let mut example = Example::new("a row of mean 2", Job::Transform(Model::default()), model);
        example.expected.tensors.insert(EMBEDDINGS.to_owned(), ExampleTensor::f32(&[1, 2], &[-1.0, 1.0]));
        Ok(vec![example])
    }
}

impl Transform for CenterEmbeddings {
    fn transform(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let embeddings = host.tensor(EMBEDDINGS)?;
        let (_, columns) = embeddings.matrix_shape()?;
        let mut values = embeddings.to_f32()?.into_owned();
        for row in values.chunks_exact_mut(columns) {
            let mean = row.iter().sum::<f32>() / columns as f32;
            row.iter_mut().for_each(|value| *value -= mean);
        }
        host.put_tensor(EMBEDDINGS, Tensor::from_vec(embeddings.shape(), values)?)?;
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(CenterEmbeddings);
