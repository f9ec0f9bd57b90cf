//! One run.

use workbench_api::job::{Facts, Model};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{LossOptions, TrainableParams};
use workbench_model::device;
use workbench_plugin_model::{
    Extent, HostWeights, examples, model_config, model_error, observe, put_weights, train_error, validation_examples,
};
use workbench_train::{Supervised, train};

use crate::parameters::{Init, Parameters};

/// Trains and puts the weights.
pub(crate) fn run(parameters: &Parameters, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
    let config = model_config(host)?;
    let device = device::chosen();
    let training = &parameters.training;
    let weights = match parameters.init {
        Init::Random => TrainableParams::random(&config, parameters.initializer_range, training.seed, &device),
        Init::Model if host.tensor_names()?.is_empty() => {
            return Err(Error::input("the model has a configuration but no weights")
                .with_hint("begin with random ones: `init: \"random\"`"));
        }
        Init::Model => TrainableParams::load(&config, &HostWeights::new(host), &device),
    };
    let weights = weights.map_err(model_error)?;
    let found = examples(host, "train", &config, training.learn)?;
    let extent = Extent::of(&weights, &found);
    extent.log(host);
    let options = LossOptions { gradient_checkpointing: training.gradient_checkpointing, chunk: training.loss_chunk };
    let mut objective = Supervised::next_token(&config, &weights, found, options).map_err(train_error)?;
    if let Some(found) = validation_examples(host, job, &config, training)? {
        objective = objective.validated_on(found).map_err(train_error)?;
    }
    let folder = host.scratch()?.join("sft");
    let summary = train(&weights, &mut objective, &training.config(), Some(&folder), &mut observe(host));
    let summary = summary.map_err(train_error)?;
    put_weights(host, &weights, |_| false)?;
    Ok(extent.facts(&summary))
}
