//! Examples: a job with known results, small enough to stand in a plugin's descriptor.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::abi::{Dtype, Tensor};
use crate::error::Error;
use crate::job::{Facts, Job};

/// A tensor written out. F64 holds every value of the other dtypes but the largest integers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExampleTensor {
    /// Type of the elements.
    pub dtype: Dtype,
    /// Sizes, outermost dimension first.
    pub shape: Vec<usize>,
    /// The values row by row.
    pub values: Vec<f64>,
}

impl ExampleTensor {
    /// An F32 tensor.
    pub fn f32(shape: &[usize], values: &[f32]) -> Self {
        Self { dtype: Dtype::F32, shape: shape.to_vec(), values: values.iter().map(|&v| f64::from(v)).collect() }
    }

    /// A tensor of integers.
    pub fn integers(dtype: Dtype, shape: &[usize], values: &[i64]) -> Self {
        Self { dtype, shape: shape.to_vec(), values: values.iter().map(|&v| v as f64).collect() }
    }

    /// The tensor in memory.
    ///
    /// # Errors
    /// The values are not as many as the shape says, or the dtype is one that an example cannot hold.
    pub fn tensor(&self) -> Result<Tensor<'static>, Error> {
        let values = &self.values;
        let shape = &self.shape;
        match self.dtype {
            Dtype::F64 => Tensor::from_vec(shape, values.clone()),
            Dtype::F32 => Tensor::from_vec(shape, values.iter().map(|&v| v as f32).collect()),
            Dtype::BF16 => Tensor::from_vec(shape, values.iter().map(|&v| half::bf16::from_f64(v)).collect()),
            Dtype::F16 => Tensor::from_vec(shape, values.iter().map(|&v| half::f16::from_f64(v)).collect()),
            Dtype::I64 => Tensor::from_vec(shape, values.iter().map(|&v| v as i64).collect()),
            Dtype::I32 => Tensor::from_vec(shape, values.iter().map(|&v| v as i32).collect()),
            Dtype::I8 => Tensor::from_vec(shape, values.iter().map(|&v| v as i8).collect()),
            Dtype::U32 => Tensor::from_vec(shape, values.iter().map(|&v| v as u32).collect()),
            Dtype::U8 => Tensor::from_vec(shape, values.iter().map(|&v| v as u8).collect()),
            other => Err(Error::unsupported(format!("an example cannot hold a tensor of {other:?}"))),
        }
    }
}

/// Tensors by name.
pub type ExampleTensors = BTreeMap<String, ExampleTensor>;

/// A model of an example.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExampleModel {
    /// Its config.json.
    pub config: Value,
    /// Its tensors.
    pub tensors: ExampleTensors,
}

/// Codes that an example expects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ExampleCodes {
    /// `[out_features, in_features]` row by row; equal to the last bit.
    pub codes: Vec<i8>,
    /// `[rows, groups]` row by row; equal within the example's tolerance.
    pub scales: Vec<f32>,
    /// As `scales`; equal to the last bit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zero_points: Option<Vec<i32>>,
}

/// What an example expects. What is not named here is not compared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// Tensors put, by name.
    #[serde(default)]
    pub tensors: ExampleTensors,
    /// Codes put, by module.
    #[serde(default)]
    pub codes: BTreeMap<String, ExampleCodes>,
    /// Entries of the patch to the configuration.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// Facts of the report.
    #[serde(default)]
    pub facts: Facts,
    /// Largest difference of two numbers, relative to the larger of the expected one and 1. Zero: equal.
    #[serde(default)]
    pub tolerance: f64,
}

/// A job, everything it works on, and what must come out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Example {
    /// One line on what it shows.
    pub name: String,
    /// Parameters; those not given have their defaults.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// The job.
    pub job: Job,
    /// Models by input name.
    pub inputs: BTreeMap<String, ExampleModel>,
    /// Codes of the model by module, where a trainer starts from codes: of linears of the job with one scale a row, group or tensor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub codes: BTreeMap<String, ExampleCodes>,
    /// Statistics by site and kind.
    #[serde(default)]
    pub statistics: BTreeMap<String, ExampleTensors>,
    /// Batches by stream.
    #[serde(default)]
    pub streams: BTreeMap<String, Vec<ExampleTensors>>,
    /// What the host answers to calls, by method.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub answers: BTreeMap<String, Value>,
    /// The seed.
    #[serde(default)]
    pub seed: u64,
    /// What must come out.
    pub expected: Expected,
}

impl Example {
    /// An example on one model, with nothing expected yet.
    pub fn new(name: &str, job: Job, model: ExampleModel) -> Self {
        Self {
            name: name.to_owned(),
            parameters: Map::new(),
            job,
            inputs: BTreeMap::from([("model".to_owned(), model)]),
            codes: BTreeMap::new(),
            statistics: BTreeMap::new(),
            streams: BTreeMap::new(),
            answers: BTreeMap::new(),
            seed: 0,
            expected: Expected::default(),
        }
    }

    /// Sets a parameter.
    #[must_use]
    pub fn parameter(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.parameters.insert(name.to_owned(), value.into());
        self
    }
}
