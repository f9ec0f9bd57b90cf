//! The transform `rotate`: rotates hidden states, values, queries and keys, and the input of `down_proj`.
//!
//! A rotation spreads the few large channels of an activation over all of them, and the function stays as it is: what one
//! weight rotates the next one rotates back.

mod example;
mod fold;
mod learn;
mod parameters;
mod rotations;
mod source;

use serde_json::json;
use workbench_api::sdk::*;
use workbench_model::ModelConfig;
use workbench_model::checkpoint::transform_config;
use workbench_model::decoder::keep_pages;
use workbench_plugin_model::{HostWeights, calibration, model_config, thread_pool};

use fold::fold;
use parameters::{Learn, Parameters, Place};
use rotations::Rotations;
use source::HostSink;

/// The stream of calibration sequences.
const STREAM: &str = "calibration";

/// Walking the graph of a backward pass recurses once per operation.
const STACK: usize = 64 << 20;

/// The plugin with its parameters.
pub struct Rotate(Parameters);

impl Plugin for Rotate {
    type Parameters = Parameters;

    const NAME: &'static str = "rotate";
    const SUMMARY: &'static str =
        "Rotates activations by Hadamard or random orthogonal matrices, folded into the weights";
    const PAPER: Option<&'static str> =
        Some("Ashkboos et al. 2024, QuaRot, arXiv:2404.00456; Liu et al. 2024, SpinQuant, arXiv:2405.16406");
    const GRID_VERSION: u32 = workbench_quant::GRID_VERSION;
    const TAKES_EXPERTS: bool = true;

    fn new(parameters: Parameters) -> Result<Self, Error> {
        let mut places = parameters.rotations.clone();
        places.sort_unstable();
        places.dedup();
        if places.is_empty() || places.len() != parameters.rotations.len() {
            return Err(Error::parameters("`rotations` must name one or more of R1, R2, R3 and R4, each once"));
        }
        if let Some(learn) = &parameters.learn {
            learn::grids(learn)?;
            if learn.steps == 0
                || learn.batch_size == 0
                || !(learn.learning_rate >= 0.0 && learn.learning_rate.is_finite())
            {
                let message = "`learn` needs steps and a batch size of at least 1, and a learning rate of at least 0";
                return Err(Error::parameters(message));
            }
        }
        Ok(Self(parameters))
    }

    fn needs(&self) -> Needs {
        match self.0.learn {
            Some(_) => Needs::nothing().stream(STREAM),
            None => Needs::nothing().optional_stream(STREAM),
        }
    }

    fn examples() -> Result<Vec<Example>, Error> {
        Ok(vec![example::by_hand()])
    }
}

impl Transform for Rotate {
    fn transform(&self, _: &Model, host: &Host<'_>) -> Result<Facts, Error> {
        keep_pages();
        thread_pool(host, Some(STACK))?.install(|| self.run(host))
    }
}

impl Rotate {
    fn run(&self, host: &Host<'_>) -> Result<Facts, Error> {
        let config = model_config(host)?;
        let mut rotations = Rotations::draw(&self.0, &config)?;
        let mut facts = Facts::new();
        if let Some(learn) = &self.0.learn {
            if config.experts.is_some() {
                return Err(Error::unsupported(
                    "rotations of a mixture of experts cannot be learned: a step leaves experts without a gradient",
                )
                .with_hint("leave `learn` out"));
            }
            facts.insert("learned".to_owned(), self.learn(learn, &config, &mut rotations, host)?);
        }
        fold(&HostWeights::new(host), &config, &rotations, &mut HostSink(host))?;
        if self.0.has(Place::R1) && config.tie_word_embeddings {
            // The gain of the last norm goes into the head alone.
            host.patch_config(&json!({ "tie_word_embeddings": false }))?;
        }
        if rotations.online != config.online {
            let transforms = transform_config(rotations.online);
            let patch = json!({ "quant_method": "compressed-tensors", "transform_config": transforms });
            host.patch_config(&json!({ "quantization_config": patch }))?;
        }
        facts.insert("rotations".to_owned(), rotations.facts()?);
        Ok(facts)
    }

    fn learn(
        &self,
        learn: &Learn,
        config: &ModelConfig,
        rotations: &mut Rotations,
        host: &Host<'_>,
    ) -> Result<serde_json::Value, Error> {
        let sequences = calibration(host, config.vocab_size)?;
        let sequences: Vec<Vec<u32>> = sequences.into_iter().map(|sequence| sequence.ids).collect();
        let folder = host.scratch()?.join("rotations");
        let run = learn::Run {
            source: &HostWeights::new(host),
            config,
            learn,
            seed: self.0.seed,
            sequences: &sequences,
            folder: Some(&folder),
        };
        run.learn(rotations, &mut |step| {
            for (name, value) in [
                ("loss", step.loss),
                ("learning_rate", step.learning_rate),
                ("step_size", step.step_size),
                ("gradient_norm", step.gradient_norm),
                ("deviation_from_orthogonality", step.deviation),
            ] {
                host.metric(step.number, name, value);
            }
            host.progress(step.number, learn.steps);
            host.check_cancelled()
        })
    }
}

workbench_api::export_transform!(Rotate);
