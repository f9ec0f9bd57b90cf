//! Block-wise training of all parameters: the first of the two phases of EfficientQAT (Chen et al. 2024, arXiv:2407.11062, section 3.2).
//!
//! Block after block, the weights of its linears behind their rounding, the gains of its norms, and the scales and zero-points of its
//! grids are trained together so that the block answers what it will get from the quantized blocks before it as the unquantized block
//! answers what it gets from unquantized ones. What is handed out is what the last forward pass computed with: the codes of that moment on
//! the grid of that moment.
//!
//! A grid begins as the scheme's observer finds it, which is one that has zero in its range, and zero-points are codes at every step.
//!
//! A block is trained without the rounding of a quantized cache: keys and values are rounded behind it, in what later blocks read.

mod example;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Block, Facts};
use workbench_api::sdk::{Accepts, BlockQuantizer, Error, ErrorKind, Example, Host, Needs, Plugin};
use workbench_plugin_model::in_training_pool;
use workbench_quant::GRID_VERSION;

/// The plugin with its parameters.
struct BlockAp(Parameters);

impl Plugin for BlockAp {
    type Parameters = Parameters;

    const NAME: &'static str = "block_ap";
    const SUMMARY: &'static str = "EfficientQAT's first phase: trains weights, norms and grids of each block to answer as the unquantized block does";
    const PAPER: Option<&'static str> = Some("Chen et al. 2024, arXiv:2407.11062");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.check()?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("inputs")
    }

    fn accepts() -> Accepts {
        let scales = [None, Some("torch.float32"), Some("torch.float16"), Some("torch.bfloat16")];
        Accepts::any_scheme()
            .weights(
                "strategy",
                ["tensor", "channel", "group", "block"],
                "a tensor-wide scale above those of groups is not learned; `rtn` and `gptq` take any",
            )
            .weights("scale_dtype", scales, "scales are learned as numbers; `rtn` and `gptq` take any")
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

impl BlockQuantizer for BlockAp {
    fn quantize_block(&self, block: &Block, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, block, host)).map_err(|error| {
            let diverged = error.kind == ErrorKind::Numeric;
            let error = error.context(format!("training block {}", block.block));
            if diverged { error.with_hint("lower `weight_learning_rate` and `quantizer_learning_rate`") } else { error }
        })
    }
}

workbench_api::export_block_quantizer!(BlockAp);
