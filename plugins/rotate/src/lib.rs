//! The transform `rotate`: rotates hidden states, values, queries and keys, and the input of `down_proj`.
//!
//! A rotation spreads the few large channels of an activation over all of them, and the function stays as it is: what one
//! weight rotates the next one rotates back.

mod drawn;
mod example;
mod fold;
mod parameters;
mod source;

use std::path::Path;

use serde_json::json;
use workbench_api::sdk::*;
use workbench_model::ModelConfig;
use workbench_model::checkpoint::transform_config;

use drawn::Rotations;
use fold::fold;
use parameters::{Parameters, Place};
use source::{HostSink, HostWeights, model_error};

/// The plugin with its parameters.
pub struct Rotate(Parameters);

impl Plugin for Rotate {
    type Parameters = Parameters;

    const NAME: &'static str = "rotate";
    const SUMMARY: &'static str =
        "Rotates activations by Hadamard or random orthogonal matrices, folded into the weights";
    const PAPER: Option<&'static str> =
        Some("Ashkboos et al. 2024, QuaRot, arXiv:2404.00456; Liu et al. 2024, SpinQuant, arXiv:2405.16406");
    /// It rounds nothing.
    const GRID_VERSION: u32 = 0;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        let mut places = parameters.rotations.clone();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() || places.len() != parameters.rotations.len() {
            return Err(Error::parameters("`rotations` must name one or more of R1, R2, R3 and R4, each once"));
        }
        Ok(Self(parameters))
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![example::by_hand()])
    }
}

impl Transform for Rotate {
    fn transform(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(host.threads().max(1)).build()?;
        pool.install(|| self.run(host))
    }
}

impl Rotate {
    fn run(&self, host: &Host<'_>) -> Result<Facts, Error> {
        let config = ModelConfig::from_json(&host.config()?, Path::new("config.json")).map_err(model_error)?;
        let rotations = Rotations::draw(&self.0, &config)?;
        fold(&HostWeights(host), &config, &rotations, &mut HostSink(host))?;
        if self.0.has(Place::R1) && config.tie_word_embeddings {
            // The gain of the last norm goes into the head alone.
            host.patch_config(&json!({ "tie_word_embeddings": false }))?;
        }
        if rotations.online != config.online {
            let transforms = transform_config(rotations.online);
            let patch = json!({ "quant_method": "compressed-tensors", "transform_config": transforms });
            host.patch_config(&json!({ "quantization_config": patch }))?;
        }
        Ok(Facts::from_iter([("rotations".to_owned(), rotations.facts()?)]))
    }
}

workbench_api::export_transform!(Rotate);
