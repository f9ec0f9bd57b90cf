//! One run.

use candle_core::Tensor;
use serde_json::{Value, json};
use workbench_api::job::{Facts, Linear, Model};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{CodedWeight, LossOptions, TrainableParams};
use workbench_model::{ModelConfig, device};
use workbench_plugin_model::{
    Extent, HostWeights, examples, loss, model_config, model_error, observe, quantized_linear, quantized_weight,
    train_error, validation_examples,
};
use workbench_train::{Grids, Student, Supervised, train};

use crate::parameters::Parameters;

/// Trains, and puts the codes with other scales.
pub(crate) fn run(parameters: &Parameters, job: &Model, host: &Host<'_>) -> Result<Facts, Error> {
    if !job.codes {
        return Err(Error::input("the weights of the model are no codes").with_hint("quantize it first"));
    }
    let config = model_config(host)?;
    let training = &parameters.training;
    let (weights, grids) = load(job, host, &config)?;
    let loss = loss(&parameters.loss, job, host)?;
    let found = examples(host, "train", &config, training.learn)?;
    let extent = Extent::of(&weights, &found);
    extent.log(host);
    let starts: Vec<Vec<f32>> = grids.codes.values().map(|weight| weight.start.parameters.scales.clone()).collect();
    let student = Student::on_grids(&config, &weights, grids).map_err(model_error)?;
    let options = LossOptions { gradient_checkpointing: training.gradient_checkpointing, chunk: training.loss_chunk };
    let mut objective = Supervised::new(student, found, loss, options).map_err(train_error)?;
    if let Some(found) = validation_examples(host, job, &config, training)? {
        objective = objective.validated_on(found).map_err(train_error)?;
    }
    let folder = host.scratch()?.join("e2e_qp");
    let summary = train(&weights, &mut objective, &training.config(), Some(&folder), &mut observe(host));
    let summary = summary.map_err(train_error)?;
    let mut facts = extent.facts(&summary);
    facts.insert("scales".into(), put(job, host, objective.student(), &starts)?);
    Ok(facts)
}

/// The linears of codes, by the names of their weights in order.
fn coded(job: &Model) -> Vec<&Linear> {
    let mut linears: Vec<&Linear> = job.coded().filter(|linear| !linear.grid.is_null()).collect();
    linears.sort_by(|a, b| a.weight.cmp(&b.weight));
    linears
}

/// Codes, the variables of their scales, and all other weights, which stay.
fn load(job: &Model, host: &Host<'_>, config: &ModelConfig) -> Result<(TrainableParams, Grids), Error> {
    let mut grids = Grids { kv_cache: job.kv_cache()?, ..Grids::default() };
    for linear in job.coded() {
        if let Some(grid) = linear.input_grid()? {
            grids.inputs.insert(linear.module.clone(), grid);
        }
    }
    let linears = coded(job);
    let device = device::chosen();
    let is_coded = |name: &str| linears.binary_search_by(|linear| linear.weight.as_str().cmp(name)).is_ok();
    let weights = TrainableParams::load_where(config, &HostWeights::new(host), &device, |name| !is_coded(name));
    let mut weights = weights.map_err(model_error)?;
    let kept: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).collect();
    weights.freeze(kept.iter().map(String::as_str)).map_err(model_error)?;
    for linear in linears {
        let start = quantized_weight(linear, host.codes(linear)?)?;
        if let Some(problem) = start.grid.why_scales_are_not_learned() {
            return Err(Error::unsupported(format!("the grid of `{}`: {problem}", linear.weight))
                .with_hint("quantize with scales in bfloat16, float16 or float32"));
        }
        let scales = format!("{}.weight_scale", linear.module);
        let values = Tensor::from_vec(start.parameters.scales.clone(), &start.parameters.shape, &device)?;
        weights.insert(&scales, &values).map_err(model_error)?;
        grids.codes.insert(linear.weight.clone(), CodedWeight { scales, start });
    }
    Ok((weights, grids))
}

/// Puts the codes with their scales, and says how many of these are others than those at the start, which lie in the order of the names
/// of weights.
fn put(job: &Model, host: &Host<'_>, student: &Student<'_>, starts: &[Vec<f32>]) -> Result<Value, Error> {
    let (mut changed, mut all) = (0_usize, 0_usize);
    for (linear, start) in coded(job).into_iter().zip(starts) {
        let made = student.quantized(&linear.weight).map_err(model_error)?;
        changed += made.parameters.scales.iter().zip(start).filter(|(scale, start)| scale != start).count();
        all += start.len();
        host.put_codes(&linear.module, &quantized_linear(linear, made, Facts::new()))?;
    }
    Ok(json!({ "all": all, "changed": changed }))
}
