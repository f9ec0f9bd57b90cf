//! The host's models.

use std::path::Path;

use rayon::{ThreadPool, ThreadPoolBuilder};
use workbench_api::sdk::{Dtype, Error, Host, Tensor};
use workbench_model::source::no_row;
use workbench_model::{ModelConfig, ModelError, WeightSource, checkpoint};

use crate::model_error;

/// A model of the host as weights.
#[derive(Clone, Copy)]
pub struct HostWeights<'a, 'h> {
    host: &'a Host<'h>,
    input: &'static str,
}

impl<'a, 'h> HostWeights<'a, 'h> {
    /// The model that the job is about.
    pub fn new(host: &'a Host<'h>) -> Self {
        Self::of(host, "model")
    }

    /// Another model that the node has, for example `teacher`.
    pub fn of(host: &'a Host<'h>, input: &'static str) -> Self {
        Self { host, input }
    }

    fn tensor(&self, name: &str) -> Result<Tensor<'_>, ModelError> {
        self.host.tensor_of(self.input, name).map_err(|error| ModelError::Text(error.to_string()))
    }
}

impl WeightSource for HostWeights<'_, '_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.host.tensor_info_of(self.input, name).ok().flatten().map(|info| info.shape.to_vec())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        widened(name, &self.tensor(name)?)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let tensor = self.tensor(name)?;
        let columns = tensor.shape().last().copied().unwrap_or(1);
        let size = columns * tensor.dtype().size();
        let mut found = Vec::with_capacity(rows.len() * size);
        for row in rows {
            let start = *row as usize * size;
            found.extend_from_slice(tensor.bytes().get(start..start + size).ok_or_else(|| no_row(name, *row))?);
        }
        let window = Tensor::from_bytes(tensor.dtype(), &[rows.len(), columns], &found);
        widened(name, &window.map_err(|error| ModelError::Text(error.to_string()))?)
    }

    /// What is not stored dense the host hands out whole, in f32: of that dtype nobody can tell.
    fn has_rows(&self, name: &str) -> bool {
        let info = self.host.tensor_info_of(self.input, name).ok().flatten();
        info.is_some_and(|info| matches!(info.dtype, Dtype::F16 | Dtype::BF16))
    }
}

fn widened(name: &str, tensor: &Tensor<'_>) -> Result<Vec<f32>, ModelError> {
    let half = match tensor.dtype() {
        Dtype::F16 => Some(checkpoint::Dtype::F16),
        Dtype::BF16 => Some(checkpoint::Dtype::BF16),
        _ => None,
    };
    if let Some(half) = half {
        return Ok(checkpoint::widened(tensor.bytes(), half));
    }
    let values = tensor.to_f32().map_err(|error| ModelError::Text(format!("tensor `{name}`: {error}")))?;
    Ok(values.into_owned())
}

/// The configuration of the model that the job is about.
///
/// # Errors
/// It cannot be read, or describes no model that the decoder runs.
pub fn model_config(host: &Host<'_>) -> Result<ModelConfig, Error> {
    model_config_of(host, "model")
}

/// The configuration of another model that the node has, for example `teacher`.
///
/// # Errors
/// It cannot be read, or describes no model that the decoder runs.
pub fn model_config_of(host: &Host<'_>, input: &str) -> Result<ModelConfig, Error> {
    ModelConfig::from_json(&host.config_of(input)?, Path::new("config.json")).map_err(model_error)
}

/// A pool of as many threads as the node may use, each with a stack of so many bytes, where that is given.
///
/// # Errors
/// The system refuses threads.
pub fn thread_pool(host: &Host<'_>, stack: Option<usize>) -> Result<ThreadPool, Error> {
    let pool = ThreadPoolBuilder::new().num_threads(host.threads().max(1));
    Ok(stack.into_iter().fold(pool, ThreadPoolBuilder::stack_size).build()?)
}
