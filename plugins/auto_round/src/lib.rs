//! Rounding that is learned block by block by signed gradient descent: SignRound, the method of AutoRound (Cheng et al. 2023,
//! arXiv:2309.05516).
//!
//! The weights stay. Of each is learned by how much of a step it is moved before it is rounded, and of each group by how much its range is
//! narrowed at either end, so that the block answers what it will get from the quantized blocks before it as the unquantized block
//! answers what it gets from unquantized ones.
//!
//! A block is trained without the rounding of a quantized cache: keys and values are rounded behind it, in what later blocks read.

mod example;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Block, Facts};
use workbench_api::sdk::{Accepts, BlockQuantizer, Error, Example, Host, Needs, Plugin};
use workbench_plugin_model::in_training_pool;
use workbench_quant::GRID_VERSION;

/// The plugin with its parameters.
struct AutoRound(Parameters);

impl Plugin for AutoRound {
    type Parameters = Parameters;

    const NAME: &'static str = "auto_round";
    const SUMMARY: &'static str =
        "SignRound: learns by signed gradient descent which way each weight is rounded, and the ranges of groups";
    const PAPER: Option<&'static str> = Some("Cheng et al. 2023, arXiv:2309.05516");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("inputs")
    }

    fn accepts() -> Accepts {
        let observers = [None, Some("minmax"), Some("memoryless_minmax"), Some("static_minmax")];
        Accepts::any_scheme()
            .weights("type", ["int"], "it learns which of two integers a weight becomes; `rtn` and `gptq` take any")
            .weights(
                "strategy",
                ["tensor", "channel", "group", "block"],
                "it learns ranges of a tensor, of rows, groups or blocks; `rtn` and `gptq` take any",
            )
            .weights("observer", observers, "`auto_round` learns ranges itself; `rtn` takes any observer")
            .inputs("dynamic", [true], "static scales of inputs are calibrated behind the training; `gptq` takes them")
            .inputs(
                "strategy",
                ["token", "group"],
                "one scale for all that stands side by side would hang on the batch, and on what fills it up",
            )
    }

    fn examples() -> Result<Vec<Example>, Error> {
        example::examples()
    }
}

impl BlockQuantizer for AutoRound {
    fn quantize_block(&self, block: &Block, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, block, host))
            .map_err(|error| error.context(format!("learning to round block {}", block.block)))
    }
}

workbench_api::export_block_quantizer!(AutoRound);
