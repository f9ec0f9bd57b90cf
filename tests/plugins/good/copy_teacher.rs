//! A trainer that cannot do without a teacher and validation data: its model becomes its teacher.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;

#[derive(Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {}

struct CopyTeacher;

impl Plugin for CopyTeacher {
    type Parameters = Parameters;
    const NAME: &'static str = "copy_teacher";
    const SUMMARY: &'static str = "Learns its teacher by heart";
    const GRID_VERSION: u32 = 0;

    fn new(_: Parameters) -> Result<Self, Error> {
        Ok(Self)
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train").stream("validation").input("teacher")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let model = |value: f32| {
            let tensors = BTreeMap::from([("a".to_owned(), ExampleTensor::f32(&[1], &[value]))]);
            ExampleModel { tensors, ..ExampleModel::default() }
        };
        let inputs = ["model", "teacher"].map(str::to_owned).to_vec();
        let mut example = Example::new("a tensor", Job::Train(Model { inputs, ..Model::default() }), model(1.0));
        example.inputs.insert("teacher".to_owned(), model(2.0));
        example.expected.tensors = model(2.0).tensors;
        Ok(vec![example])
    }
}

impl Trainer for CopyTeacher {
    fn train(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        for name in host.tensor_names()? {
            let values = host.tensor_of("teacher", &name)?;
            host.put_tensor(&name, Tensor::from_slice(values.shape(), &values.to_f32()?)?)?;
        }
        Ok(Facts::new())
    }
}

workbench_api::export_trainer!(CopyTeacher);
