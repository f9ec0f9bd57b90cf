//! Promises a tensor that it does not put.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
struct Parameters {}

struct WrongExample;

impl Plugin for WrongExample {
    type Parameters = Parameters;
    const NAME: &'static str = "wrong_example";
    const SUMMARY: &'static str = "Promises a tensor that it does not put.";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let mut example = Example::new("a promise", Job::Transform(Model::default()), ExampleModel::default());
        example.expected.tensors.insert("a".to_owned(), ExampleTensor::f32(&[1], &[1.0]));
        Ok(vec![example])
    }
}

impl Transform for WrongExample {
    fn transform(&self, _: &Model, _: &Host<'_>) -> Result<Facts, Error> {
        Ok(Facts::new())
    }
}

workbench_api::export_transform!(WrongExample);
