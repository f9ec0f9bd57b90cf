//! One run.

use std::collections::BTreeSet;

use serde_json::json;
use workbench_api::job::{Facts, Linear, Model};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{LossOptions, TrainableParams};
use workbench_model::{ModelConfig, WeightSource, device};
use workbench_plugin_model::{
    Extent, HostWeights, examples, grid_error, loss, model_config, model_error, observe, put_weights, quantized_linear,
    quantized_weight, train_error, validation_examples,
};
use workbench_quant::{Matrix, QuantizedWeight};
use workbench_train::{ParameterGroup, Student, Supervised, train};

use crate::grids;
use crate::parameters::{Parameters, Scales};

/// Trains, and puts codes and weights.
pub(crate) fn run(parameters: &Parameters, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
    if !job.quantizes() {
        return Err(Error::parameters("nothing is to be quantized").with_hint("name a scheme, or train with `sft`"));
    }
    let config = model_config(host)?;
    let training = &parameters.training;
    let mut weights =
        TrainableParams::load(&config, &HostWeights::new(host), &device::chosen()).map_err(model_error)?;
    let grids = grids::of(job, parameters, host, &mut weights)?;
    let loss = loss(&parameters.loss, job, host)?;
    let found = examples(host, "train", &config, training.learn)?;
    let extent = Extent::of(&weights, &found);
    extent.log(host);
    let student = Student::on_grids(&config, &weights, grids).map_err(model_error)?;
    let options = LossOptions { gradient_checkpointing: training.gradient_checkpointing, chunk: training.loss_chunk };
    let mut objective = Supervised::new(student, found, loss, options).map_err(train_error)?;
    if let Some(found) = validation_examples(host, job, &config, training)? {
        objective = objective.validated_on(found).map_err(train_error)?;
    }
    let mut settings = training.config();
    if parameters.scales == Some(Scales::Learned) {
        let (pattern, rate) = (grids::SCALES.to_owned(), parameters.scales_rate);
        settings.groups.push(ParameterGroup { pattern, rate, weight_decay: Some(0.0) });
    }
    let folder = host.scratch()?.join("qat");
    let summary = train(&weights, &mut objective, &settings, Some(&folder), &mut observe(host)).map_err(train_error)?;
    let mut facts = extent.facts(&summary);
    facts.insert("codes".into(), put(job, host, &config, objective.student(), &weights)?);
    Ok(facts)
}

/// Puts codes and plain weights, and says how many codes are others than those that the model begins with.
fn put(
    job: &Model,
    host: &Host<'_>,
    config: &ModelConfig,
    student: &Student<'_>,
    weights: &TrainableParams,
) -> Result<serde_json::Value, Error> {
    let (mut changed, mut all) = (0_usize, 0_usize);
    let mut coded = BTreeSet::new();
    for linear in job.coded().filter(|linear| !linear.grid.is_null()) {
        let made = student.quantized(&linear.weight).map_err(model_error)?;
        let before = at_start(job, host, linear, &made)?;
        changed += made.codes.iter().zip(&before.codes).filter(|(a, b)| a != b).count();
        all += made.codes.len();
        host.put_codes(&linear.module, &quantized_linear(linear, made, Facts::new()))?;
        coded.insert(linear.weight.as_str());
    }
    let known: BTreeSet<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
    put_weights(host, weights, |name| coded.contains(name) || !known.contains(name))?;
    Ok(json!({ "all": all, "changed": changed }))
}

/// The codes of a weight as it is given: those that it has, or those of rounding to nearest.
fn at_start(job: &Model, host: &Host<'_>, linear: &Linear, made: &QuantizedWeight) -> Result<QuantizedWeight, Error> {
    if job.codes {
        return quantized_weight(linear, host.codes(linear)?);
    }
    let values = HostWeights::new(host).values(&linear.weight).map_err(model_error)?;
    let [rows, columns] = made.shape;
    Matrix::new(&values, rows, columns)
        .and_then(|matrix| QuantizedWeight::round_to_nearest(matrix, &made.grid))
        .map_err(|error| grid_error(&error).context(format!("rounding `{}`", linear.weight)))
}
