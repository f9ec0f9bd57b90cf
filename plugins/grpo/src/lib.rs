//! Group relative policy optimization: a model writes several completions of each prompt, rewards say which are better than the others
//! of their prompt, and these become more probable.
//!
//! With a scheme the policy computes on its grids, when it writes as when it learns, so that what is rewarded is what will be deployed;
//! gradients pass straight through the rounding. Without one it trains plain weights. The reference that it may be held to is the model
//! as it is given, unquantized.

mod example;
mod grids;
mod judge;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Facts, Model};
use workbench_api::rollouts::PROMPTS;
use workbench_api::sdk::{Accepts, Error, Example, Host, Needs, Plugin, Trainer};
use workbench_plugin_model::in_training_pool;
use workbench_quant::GRID_VERSION;

/// The plugin with its parameters.
pub struct Grpo(Parameters);

impl Plugin for Grpo {
    type Parameters = Parameters;

    const NAME: &'static str = "grpo";
    const SUMMARY: &'static str =
        "reinforcement learning of what a model writes, on the grids of a scheme or in full precision";
    const PAPER: Option<&'static str> = Some(
        "Shao et al. 2024, arXiv:2402.03300 (GRPO); Yu et al. 2025, arXiv:2503.14476 (DAPO); Liu et al. 2025, arXiv:2503.20783 (Dr. GRPO)",
    );
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.check()?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream(PROMPTS)
    }

    fn accepts() -> Accepts {
        Accepts::any_scheme().inputs(
            "strategy",
            ["token", "group"],
            "one scale for all that stands side by side would hang on the batch, and on what fills it up",
        )
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(example::examples())
    }
}

impl Trainer for Grpo {
    const TAKES_SCHEMES: bool = true;
    const SCHEME_OPTIONAL: bool = true;

    fn train(&self, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, job, host))
    }
}

workbench_api::export_trainer!(Grpo);
