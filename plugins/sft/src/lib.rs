//! Supervised fine-tuning: next-token training of all weights, from a model's weights or from random ones.

mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Error, Example, Host, Needs, Plugin, Trainer};
use workbench_plugin_model::{in_training_pool, one_step_by_hand, train_error};

/// The plugin with its parameters.
pub struct Sft(Parameters);

impl Plugin for Sft {
    type Parameters = Parameters;

    const NAME: &'static str = "sft";
    const SUMMARY: &'static str =
        "next-token training of all weights with AdamW, from a model's weights or from random ones";
    const PAPER: Option<&'static str> = Some("Loshchilov & Hutter 2019, Decoupled Weight Decay Regularization (AdamW)");
    /// It rounds nothing.
    const GRID_VERSION: u32 = 0;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.training.config().check().map_err(train_error)?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train").optional_stream("validation")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![one_step_by_hand()])
    }
}

impl Trainer for Sft {
    fn train(&self, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, job, host))
    }
}

workbench_api::export_trainer!(Sft);
