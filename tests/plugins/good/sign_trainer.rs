//! A trainer that returns codes: learns the scale of each row's signs by gradient descent on a stream of inputs, with a
//! checkpoint in its scratch folder.

use std::collections::BTreeMap;
use std::fs;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_api::sdk::*;
use workbench_api::serde_json;
use workbench_test_plugins::{sign_grid, signs};

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    /// Passes over the stream.
    #[schemars(range(min = 1))]
    epochs: u32,
    /// Step size.
    #[schemars(extend("exclusiveMinimum" = 0))]
    learning_rate: f32,
    /// A tensor that it puts beside its codes.
    extra: Option<String>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { epochs: 40, learning_rate: 0.1, extra: None }
    }
}

struct SignTrainer(Parameters);

impl Plugin for SignTrainer {
    type Parameters = Parameters;
    const NAME: &'static str = "sign_trainer";
    const SUMMARY: &'static str = "Learns the scales of signs by gradient descent";
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        let (module, weight) = ("model.layers.0.mlp.up_proj", "model.layers.0.mlp.up_proj.weight");
        let linear =
            Linear { module: module.to_owned(), weight: weight.to_owned(), grid: sign_grid()?, ..Linear::default() };
        let mut model = ExampleModel::default();
        model.tensors.insert(weight.to_owned(), ExampleTensor::f32(&[2, 2], &[1.0, -3.0, 2.0, 2.0]));
        let streams = vec![Stream { name: "train".to_owned(), batches: Some(2) }];
        let job =
            Job::Train(Model { linears: vec![linear], inputs: vec!["model".to_owned()], streams, ..Model::default() });
        let mut example = Example::new("gradient descent finds the mean magnitude", job, model);
        let batch = |x: [f32; 2]| BTreeMap::from([("x".to_owned(), ExampleTensor::f32(&[1, 2], &x))]);
        example.streams.insert("train".to_owned(), vec![batch([1.0, 0.0]), batch([0.0, 1.0])]);
        let codes = ExampleCodes { codes: vec![1, -1, 1, 1], scales: vec![2.0, 2.0], zero_points: None };
        example.expected.codes.insert(module.to_owned(), codes);
        example.expected.tolerance = 0.1;
        Ok(vec![example])
    }
}

/// The inputs that a batch holds, `[tokens, columns]`: as `x`, or as token ids, each of which stands for a unit vector.
fn inputs(batch: &Batch<'_>, columns: usize) -> Result<Vec<f32>, Error> {
    if let Ok(x) = batch.get("x") {
        return Ok(x.to_f32()?.into_owned());
    }
    let ids = batch.get("input_ids")?.values::<u32>()?;
    Ok(ids.iter().flat_map(|id| (0..columns).map(move |j| f32::from(u8::from(*id as usize % columns == j)))).collect())
}

impl Trainer for SignTrainer {
    fn train(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let mut step = 0;
        for linear in &model.linears {
            let weight = host.tensor(&linear.weight)?;
            let (rows, columns) = weight.matrix_shape()?;
            let weight = weight.to_f32()?;
            let codes = signs(&weight);
            let mut scales = vec![0.0f32; rows];
            for _ in 0..self.0.epochs {
                while let Some(batch) = host.next_batch("train")? {
                    host.check_cancelled()?;
                    let x = inputs(&batch, columns)?;
                    let mut loss = 0.0f64;
                    for (row, scale) in scales.iter_mut().enumerate() {
                        for x in x.chunks_exact(columns) {
                            let at = row * columns;
                            let sum = |f: &dyn Fn(usize) -> f32| (0..columns).map(|j| x[j] * f(at + j)).sum::<f32>();
                            let sign = sum(&|i| f32::from(codes[i]));
                            let error = *scale * sign - sum(&|i| weight[i]);
                            *scale -= self.0.learning_rate * error * sign;
                            loss += f64::from(error * error);
                        }
                    }
                    host.metric(step, "loss", loss);
                    step += 1;
                }
                host.rewind("train")?;
            }
            fs::write(host.scratch()?.join("scales.json"), serde_json::to_vec(&scales)?)?;
            let quantized = QuantizedLinear {
                codes,
                shape: [rows, columns],
                scale_shape: [rows, 1],
                scales,
                grid: sign_grid()?,
                ..Default::default()
            };
            host.put_codes(&linear.module, &quantized)?;
        }
        if let Some(name) = &self.0.extra {
            host.put_tensor(name, Tensor::from_slice(&[2], &[1.0f32, 2.0])?)?;
        }
        Ok(Facts::from_iter([("steps".to_owned(), step.into())]))
    }
}

workbench_api::export_trainer!(SignTrainer);
