//! End-to-end training of quantization parameters: a model of codes keeps its codes and zero-points, and its scales are learned.
//!
//! It is the second phase of EfficientQAT: whatever made the codes, the steps between them are trained on the loss of the model as a
//! whole. A weight is s (q - z), so that the gradient by a scale is the sum over its weights of their gradients times q - z: nothing is
//! rounded but the scale itself, there are no weights of full precision behind the codes, and the optimizer's state is as small as the
//! scales are few. Norms, embeddings and whatever else has no codes stay as they are.

mod example;
mod parameters;
mod train;

use parameters::Parameters;
use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Accepts, Error, Example, Host, Needs, Plugin, StartsFrom, Trainer};
use workbench_api::serde_json::Value;
use workbench_plugin_model::in_training_pool;
use workbench_quant::GRID_VERSION;

/// The plugin with its parameters.
pub struct E2eQp(Parameters);

impl Plugin for E2eQp {
    type Parameters = Parameters;

    const NAME: &'static str = "e2e_qp";
    const SUMMARY: &'static str = "trains the scales of a model of codes, which stay, on the loss of the whole model";
    const PAPER: Option<&'static str> = Some("Chen et al. 2024, arXiv:2407.11062 (EfficientQAT, section 3.3)");
    const GRID_VERSION: u32 = GRID_VERSION;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        parameters.check()?;
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        Needs::nothing().stream("train").optional_stream("validation").optional_input("teacher")
    }

    fn accepts() -> Accepts {
        let dtypes = ["torch.float32", "torch.bfloat16", "torch.float16"].map(Value::from);
        Accepts::any_scheme()
            .weights("strategy", ["tensor", "channel", "group", "block"], "scales in FP8 are not learned")
            .weights("scale_dtype", [Value::Null].into_iter().chain(dtypes), "scales in so few bits are not learned")
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

impl Trainer for E2eQp {
    const STARTS_FROM: StartsFrom = StartsFrom::Codes;

    fn train(&self, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        in_training_pool(host, || train::run(&self.0, job, host))
    }
}

workbench_api::export_trainer!(E2eQp);
