//! A transform that adds a tensor and patches the configuration: gives a model with tied embeddings a head of its own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_api::serde_json::json;

const EMBEDDINGS: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {}

struct Untie;

impl Plugin for Untie {
    type Parameters = Parameters;
    const NAME: &'static str = "untie";
    const SUMMARY: &'static str = "Gives a model with tied embeddings a head of its own";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let mut model = ExampleModel { config: json!({ "tie_word_embeddings": true }), ..Default::default() };
        let embeddings = ExampleTensor { dtype: Dtype::BF16, shape: vec![2, 2], values: vec![1.0, -2.0, 0.5, 4.0] };
        model.tensors.insert(EMBEDDINGS.to_owned(), embeddings.clone());
        let mut example = Example::new("the head is the embeddings", Job::Transform(Model::default()), model);
        example.expected.tensors.insert(HEAD.to_owned(), embeddings);
        example.expected.config.insert("tie_word_embeddings".to_owned(), false.into());
        Ok(vec![example])
    }
}

impl Transform for Untie {
    fn transform(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        if host.config()?["tie_word_embeddings"] != true || host.tensor_info(HEAD)?.is_some() {
            return Err(Error::input("the embeddings are not tied").with_hint("leave this transform out"));
        }
        host.put_tensor(HEAD, host.tensor(EMBEDDINGS)?)?;
        host.patch_config(&json!({ "tie_word_embeddings": false }))?;
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(Untie);
