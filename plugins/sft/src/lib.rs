//! Supervised fine-tuning: next-token training of all weights, from a model's weights or from random ones.

mod example;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Error, Example, Host, Plugin, Trainer};

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
        parameters.config().check().map_err(train::error)?;
        Ok(Self(parameters))
    }

    fn examples() -> Result<Vec<Example>, Error> {
        example::examples()
    }
}

impl Trainer for Sft {
    fn train(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        train::run(&self.0, host)
    }
}

workbench_api::export_trainer!(Sft);
