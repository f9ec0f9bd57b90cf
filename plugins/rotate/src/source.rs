//! The host's model as weights, and the host as what takes the folded ones.

use workbench_api::sdk::{Error, Host, Tensor};
use workbench_model::{ModelError, WeightSource};

use crate::STREAM;
use crate::fold::Sink;

/// The host's model.
pub(crate) struct HostWeights<'a, 'h>(pub(crate) &'a Host<'h>);

impl WeightSource for HostWeights<'_, '_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.tensor_info(name).ok().flatten().map(|info| info.shape.to_vec())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let tensor = self.0.tensor(name).map_err(|error| ModelError::Text(error.to_string()))?;
        let values = tensor.to_f32().map_err(|error| ModelError::Text(format!("tensor `{name}`: {error}")))?;
        Ok(values.into_owned())
    }
}

/// Puts tensors of the resulting model.
pub(crate) struct HostSink<'a, 'h>(pub(crate) &'a Host<'h>);

impl Sink for HostSink<'_, '_> {
    fn put(&mut self, name: &str, shape: &[usize], values: Vec<f32>) -> Result<(), Error> {
        self.0.put_tensor(name, Tensor::from_vec(shape, values)?)
    }

    fn progress(&mut self, done: u64, total: u64) -> Result<(), Error> {
        self.0.progress(done, total);
        self.0.check_cancelled()
    }
}

/// All calibration sequences.
pub(crate) fn sequences(host: &Host<'_>) -> Result<Vec<Vec<u32>>, Error> {
    let next = || {
        host.next_batch(STREAM)
            .map_err(|error| error.with_hint("give the node a calibration dataset: `calibration: dataset(…)`"))
    };
    let mut all = Vec::new();
    while let Some(batch) = next()? {
        let ids = batch.get("input_ids")?;
        if ids.shape().len() != 1 {
            return Err(Error::input(format!("`input_ids` is of shape {:?}, not [tokens]", ids.shape())));
        }
        all.push(ids.values::<u32>()?.to_vec());
        host.check_cancelled()?;
    }
    Ok(all)
}

/// The host's error for one of the model's.
pub(crate) fn model_error(error: ModelError) -> Error {
    let hint = error.hint().map(str::to_owned);
    let error = Error::input(error.to_string());
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}
