//! One block.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde_json::json;
use workbench_api::job::{Block, Facts, Linear};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{FakeQuantizedParams, TrainableParams, WeightQuantizer, WeightScales};
use workbench_model::{WeightSource, device};
use workbench_plugin_model::{
    ChangedCodes, HostWeights, block_data, grid_error, model_config, model_error, observe, put_stored, round_to_stored,
    train_error,
};
use workbench_quant::{Grid, Matrix};
use workbench_train::{BlockRegression, StudentBlock, Summary, train};

use crate::parameters::Parameters;

/// Trains a block, and puts its codes and the gains of its norms.
pub(crate) fn run(parameters: &Parameters, job: &Block, host: &Host<'_>) -> Result<Facts, Error> {
    let config = model_config(host)?;
    let coded: Vec<(&Linear, Grid)> = job
        .linears
        .iter()
        .filter(|linear| !linear.grid.is_null())
        .map(|linear| Ok((linear, linear.grid()?)))
        .collect::<Result<_, Error>>()?;
    let Some(bits) = coded.iter().map(|(_, grid)| grid.args().num_bits).min() else { return Ok(Facts::new()) };
    let source = HostWeights::new(host);
    let mut weights =
        TrainableParams::load_block(&config, &source, job.block, &device::chosen()).map_err(model_error)?;
    let norms: Vec<String> = config.block(job.block).norms().map(|norm| norm.name).collect();
    let [trains_weights, trains_grids] = parameters.trains(bits);
    freeze(&mut weights, &coded, &norms, trains_weights)?;
    let mut quantizers = BTreeMap::new();
    let mut inputs = BTreeMap::new();
    for (linear, grid) in &coded {
        let quantizer = quantizer(linear, grid, trains_grids, &mut weights)
            .map_err(|error| error.context(format!("the grid of `{}`", linear.weight)))?;
        quantizers.insert(linear.weight.clone(), quantizer);
        if let Some(grid) = linear.input_grid()? {
            inputs.insert(linear.module.clone(), grid);
        }
    }
    let data = block_data(host, job, &config)?;
    let validation = parameters.validation(data.sequences());
    if parameters.keep_best && validation == 0 {
        let message =
            format!("`keep_best` is about validation sequences, and an eighth of {} is none", data.sequences());
        return Err(Error::parameters(message).with_hint("say how many by `validation_sequences`"));
    }
    let rounded = FakeQuantizedParams::new(&weights, quantizers).map_err(model_error)?;
    let student = StudentBlock::new(&config, job.block, &rounded, inputs).map_err(model_error)?;
    let mut objective = BlockRegression::new(student, &weights, &data, validation).map_err(train_error)?;
    let before = objective.training_loss().map_err(train_error)?;
    let summary = if trains_weights || trains_grids {
        let settings = parameters.config(bits, data.sequences() - validation);
        train(&weights, &mut objective, &settings, None, &mut observe(host)).map_err(train_error)?
    } else {
        Summary { losses: Vec::new(), validation: Vec::new(), kept: None, resumed_at: 0 }
    };
    round_to_stored(host, &weights, &norms)?;
    let after = objective.training_loss().map_err(train_error)?;
    let mut changed = ChangedCodes::default();
    for (linear, _) in &coded {
        changed.put(host, linear, rounded.quantized(&linear.weight).map_err(model_error)?)?;
    }
    put_stored(host, &weights, &norms)?;
    let mut facts = Facts::from_iter([
        ("loss_before".to_owned(), json!(before)),
        ("loss_after".to_owned(), json!(after)),
        ("steps".to_owned(), json!(summary.losses.len())),
        ("codes".to_owned(), json!({ "all": changed.all, "changed": changed.changed })),
        ("changed_zero_points".to_owned(), json!(changed.zero_points)),
        ("sequences".to_owned(), json!(data.sequences() - validation)),
        ("validation_sequences".to_owned(), json!(validation)),
    ]);
    // As it is put: norms are rounded to the dtype of the model since the last measurement of the training.
    if let Some(after) = objective.validation_loss().map_err(train_error)? {
        let before = summary.validation.first().map_or(after, |(_, loss)| *loss);
        facts.insert("validation_loss_before".to_owned(), json!(before));
        facts.insert("validation_loss_after".to_owned(), json!(after));
    }
    if let Some((step, _)) = summary.kept {
        facts.insert("kept_step".to_owned(), json!(step));
    }
    Ok(facts)
}

/// Freezes what is not trained: biases, linears without a grid, and what else there is; weights and gains where they shall stay.
fn freeze(
    weights: &mut TrainableParams,
    coded: &[(&Linear, Grid)],
    norms: &[String],
    trains_weights: bool,
) -> Result<(), Error> {
    let trained = |name: &str| {
        trains_weights
            && (coded.iter().any(|(linear, _)| linear.weight == name) || norms.iter().any(|norm| norm == name))
    };
    let names: Vec<String> = weights.iter().map(|(name, _)| name.to_owned()).filter(|name| !trained(name)).collect();
    weights.freeze(names.iter().map(String::as_str)).map_err(model_error)
}

/// The grid of a weight as it begins. Where it is trained, the variables of its scales and zero-points join `weights`.
fn quantizer(
    linear: &Linear,
    grid: &Grid,
    trained: bool,
    weights: &mut TrainableParams,
) -> Result<WeightQuantizer, Error> {
    if let Some(problem) = grid.why_scales_are_not_learned() {
        return Err(Error::unsupported(problem).with_hint("`rtn` and `gptq` take any grid"));
    }
    let values = weights.values(&linear.weight).map_err(model_error)?;
    let shape = weights.shape(&linear.weight).unwrap_or_default();
    let &[rows, columns] = shape.as_slice() else {
        return Err(Error::input(format!("`{}` of shape {shape:?} is no matrix", linear.weight)));
    };
    let start = Matrix::new(&values, rows, columns).and_then(|matrix| grid.parameters(matrix));
    let start = start.map_err(|error| grid_error(&error))?;
    if !trained {
        return Ok(WeightQuantizer { grid: grid.clone(), scales: WeightScales::Frozen(start), stops_at_clipped: true });
    }
    let mut variable = |kind: &str, values: Vec<f32>| -> Result<String, Error> {
        let name = format!("{}.weight_{kind}", linear.module);
        let tensor = Tensor::from_vec(values, &start.shape, &device::chosen())?;
        weights.insert(&name, &tensor).map_err(model_error)?;
        Ok(name)
    };
    let name = variable("scale", start.scales.clone())?;
    let points = start.zero_points.as_ref().map(|points| points.iter().map(|point| *point as f32).collect());
    let zero_points = points.map(|points| variable("zero_point", points)).transpose()?;
    let scales = WeightScales::Learned { name, start, zero_points, lsq_factor: false };
    Ok(WeightQuantizer { grid: grid.clone(), scales, stops_at_clipped: true })
}
