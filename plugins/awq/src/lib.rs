//! The transform `awq`: scales the input channels of linears, searched block by block so that rounding the scaled weights
//! changes what their module computes as little as possible.
//!
//! It rounds nothing of the model: it leaves an equivalent one, whose weights a quantizer then rounds with less damage. What
//! the search rounds to is the parameter `scheme`.

mod algorithm;
mod example;
mod kept;
mod observed;
mod parameters;
mod search;
#[cfg(test)]
mod tests;

use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Error, Example, Host, Needs, Plugin, Transform};

use parameters::Parameters;

struct Awq(Parameters);

impl Plugin for Awq {
    type Parameters = Parameters;
    const NAME: &'static str = "awq";
    const SUMMARY: &'static str = "Scales channels so that rounding the weights changes the outputs least";
    const PAPER: Option<&'static str> = Some("Lin et al. 2023, arXiv:2306.00978");
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;
    const TAKES_EXPERTS: bool = true;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.span(&parameters.rounding()?)?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("calibration")
    }

    fn examples() -> Result<Vec<Example>, Error> {
        example::examples()
    }
}

impl Transform for Awq {
    fn transform(&self, model: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        search::run(&self.0, model, host)
    }
}

workbench_api::export_transform!(Awq);
