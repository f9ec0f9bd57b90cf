//! One run.

use serde_json::json;
use workbench_api::job::Facts;
use workbench_api::sdk::{Error, Host, Level, Tensor};
use workbench_model::decoder::{LossOptions, TrainableParams, keep_pages};
use workbench_model::{WeightSource, device};
use workbench_plugin_model::{HostWeights, Sequence, model_config, model_error, sequences, thread_pool};
use workbench_train::{Example, NextToken, StepReport, Summary, TrainError, train};

use crate::parameters::{Init, Parameters};

/// Walking the graph of a backward pass recurses once per operation.
const STACK: usize = 64 << 20;

/// Trains and puts the weights.
pub(crate) fn run(parameters: &Parameters, host: &Host<'_>) -> Result<Facts, Error> {
    keep_pages();
    thread_pool(host, Some(STACK))?.install(|| in_pool(parameters, host))
}

fn in_pool(parameters: &Parameters, host: &Host<'_>) -> Result<Facts, Error> {
    let config = model_config(host)?;
    let device = device::chosen();
    let weights = match parameters.init {
        Init::Random => TrainableParams::random(&config, parameters.initializer_range, parameters.seed, &device),
        Init::Model if host.tensor_names()?.is_empty() => {
            return Err(Error::input("the model has a configuration but no weights")
                .with_hint("begin with random ones: `init: \"random\"`"));
        }
        Init::Model => TrainableParams::load(&config, &HostWeights::new(host), &device),
    };
    let weights = weights.map_err(model_error)?;
    let found = sequences(host, "train", config.vocab_size)?.into_iter();
    let examples: Vec<Example> = found.map(|Sequence { ids, learn }| Example { ids, mask: learn }).collect();
    let tokens: usize = examples.iter().map(|example| example.ids.len()).sum();
    let learned: usize = examples.iter().map(|e| e.mask.iter().skip(1).filter(|learn| **learn).count()).sum();
    host.log(
        Level::Info,
        &format!(
            "{} parameters, {} sequences, {tokens} tokens, {learned} of them learned",
            weights.count(),
            examples.len()
        ),
    );
    let options =
        LossOptions { gradient_checkpointing: parameters.gradient_checkpointing, chunk: parameters.loss_chunk };
    let sequences = examples.len();
    let mut objective = NextToken::new(&config, &weights, examples, options).map_err(error)?;
    let folder = host.scratch()?.join("sft");
    let mut observer = |step: &StepReport| observe(step, host);
    let summary = train(&weights, &mut objective, &parameters.config(), Some(&folder), &mut observer).map_err(error)?;
    put(&weights, host)?;
    Ok(facts(&summary, sequences, tokens, learned, weights.count()))
}

fn observe(step: &StepReport, host: &Host<'_>) -> Result<(), TrainError> {
    host.metric(step.step, "loss", step.loss);
    host.metric(step.step, "learning_rate", step.learning_rate);
    host.metric(step.step, "gradient_norm", step.gradient_norm);
    host.progress(step.step, step.total_steps);
    if host.cancelled() { Err(TrainError::Stopped) } else { Ok(()) }
}

fn put(weights: &TrainableParams, host: &Host<'_>) -> Result<(), Error> {
    for (name, var) in weights.iter() {
        let values = weights.values(name).map_err(model_error)?;
        host.put_tensor(name, Tensor::from_vec(var.dims(), values)?)?;
    }
    Ok(())
}

fn facts(summary: &Summary, sequences: usize, tokens: usize, learned: usize, parameters: usize) -> Facts {
    let last = &summary.losses[summary.losses.len().saturating_sub(100)..];
    let facts = json!({
        "steps": summary.losses.len(),
        "first_loss": summary.losses.first(),
        "last_loss": summary.losses.last(),
        "mean_loss_of_last_100_steps": last.iter().sum::<f64>() / last.len().max(1) as f64,
        "sequences": sequences,
        "tokens": tokens,
        "learned_tokens": learned,
        "parameters": parameters,
    });
    facts.as_object().cloned().unwrap_or_default()
}

/// The host's error for one of the loop's.
pub(crate) fn error(error: TrainError) -> Error {
    let hint = error.hint().map(str::to_owned);
    let message = error.to_string();
    let made = match error {
        TrainError::Stopped => Error::cancelled(),
        TrainError::Setting { .. } => Error::parameters(message),
        TrainError::Diverged { .. } => Error::numeric(message),
        _ => Error::input(message),
    };
    made.maybe_hint(hint)
}
