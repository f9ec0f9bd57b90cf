//! Errors of the workspace's crates as errors of a plugin.

use workbench_api::sdk::Error;
use workbench_quant::GridError;

/// The plugin's error for one of a grid's, with its hint.
pub fn grid_error(error: &GridError) -> Error {
    let message = error.to_string();
    let made = match error {
        GridError::NonFinite { .. } => Error::numeric(message),
        GridError::GroupSize { .. } => Error::parameters(message),
        _ => Error::input(message),
    };
    made.maybe_hint(error.hint())
}

/// The plugin's error for one of a model's, with its hint.
#[cfg(feature = "model")]
pub fn model_error(error: workbench_model::ModelError) -> Error {
    let hint = error.hint().map(str::to_owned);
    Error::input(error.to_string()).maybe_hint(hint)
}
