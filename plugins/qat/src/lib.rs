//! Quantization-aware training: a model is trained as it will compute, its weights, inputs, keys and values rounded to the grids of a
//! scheme, and the codes that it was trained with are what is handed out.
//!
//! The loss is the divergence from the predictions of the unquantized model, or of another teacher, or the cross-entropy of the data.
//! Weights are trained in full precision behind the rounding (masters), through which gradients pass straight (Bengio et al. 2013);
//! scales are taken from the masters at every step, fixed, or learned themselves. From a model of codes the masters begin at the numbers
//! that these stand for, and fixed or learned scales at theirs.

mod example;
mod grids;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Accepts, Error, Example, Host, Needs, Plugin, StartsFrom, Trainer};
use workbench_plugin_model::in_training_pool;
use workbench_quant::GRID_VERSION;

/// The plugin with its parameters.
pub struct Qat(Parameters);

impl Plugin for Qat {
    type Parameters = Parameters;

    const NAME: &'static str = "qat";
    const SUMMARY: &'static str =
        "trains a model on the grids of a scheme, by the divergence from the unquantized model or by its data";
    const PAPER: Option<&'static str> =
        Some("Liu et al. 2023, arXiv:2305.17888 (LLM-QAT); Esser et al. 2020, arXiv:1902.08153 (LSQ)");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.check()?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train").optional_stream("validation").optional_input("teacher")
    }

    fn accepts() -> Accepts {
        Accepts::any_scheme().inputs(
            "strategy",
            ["token", "group"],
            "one scale for all that stands side by side would hang on the batch, and on what fills it up",
        )
    }

    fn examples() -> Result<Vec<Example>, Error> {
        example::examples()
    }
}

impl Trainer for Qat {
    const TAKES_SCHEMES: bool = true;
    const STARTS_FROM: StartsFrom = StartsFrom::Either;

    fn train(&self, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, job, host))
    }
}

workbench_api::export_trainer!(Qat);
