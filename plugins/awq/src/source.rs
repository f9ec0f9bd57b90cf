//! What the host hands out, as the search takes it.

use candle_core::{Device, Tensor as Values};
use workbench_api::sdk::{Error, Host};
use workbench_model::{ModelError, WeightSource};

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

/// All sequences of the stream `calibration` as ids `[1, tokens]`, one batch each.
///
/// # Errors
/// There is no calibration data, it is empty, or an id is none of the `vocabulary`.
pub(crate) fn sequences(host: &Host<'_>, vocabulary: usize) -> Result<Vec<Values>, Error> {
    let mut all = Vec::new();
    while let Some(batch) = host.next_batch("calibration").map_err(without_data)? {
        let ids = batch.get("input_ids")?.values::<u32>()?;
        if ids.is_empty() {
            return Err(Error::input(format!("calibration sequence {} is empty", all.len())));
        }
        if let Some(id) = ids.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::input(format!(
                "token {id} of calibration sequence {} is not in the vocabulary",
                all.len()
            )));
        }
        all.push(Values::from_slice(ids, (1, ids.len()), &Device::Cpu)?);
        host.check_cancelled()?;
    }
    if all.is_empty() {
        return Err(without_data(Error::input("the calibration data holds no token")));
    }
    Ok(all)
}

fn without_data(error: Error) -> Error {
    error.with_hint("pass calibration: dataset(…).tokens(#{ … })")
}

/// The host's error for one of the model's.
pub(crate) fn model_error(error: ModelError) -> Error {
    let hint = error.hint().map(str::to_owned);
    crate::parameters::with_hint(Error::input(error.to_string()), hint)
}
