//! The grids of a job, as the model in training has them.

use candle_core::Tensor;
use workbench_api::job::{Linear, Model};
use workbench_api::sdk::{Error, Host};
use workbench_model::decoder::{TrainableParams, WeightQuantizer, WeightScales};
use workbench_model::{WeightSource, device};
use workbench_plugin_model::{grid_error, model_error, quantized_weight};
use workbench_quant::{Grid, Matrix, QuantParams};
use workbench_train::Grids;

use crate::parameters::{Parameters, Scales};

/// The names of the variables of learned scales, as a pattern.
pub(crate) const SCALES: &str = "*.weight_scale";

/// Reads the grids of a job. Where scales are learned, their variables join `weights`.
pub(crate) fn of(
    job: &Model,
    parameters: &Parameters,
    host: &Host<'_>,
    weights: &mut TrainableParams,
) -> Result<Grids, Error> {
    let host = job.codes.then_some(host);
    let mut grids =
        Grids { kv_cache: job.kv_cache()?, inputs_follow_ranges: parameters.inputs_follow, ..Grids::default() };
    for linear in job.coded() {
        if let Some(grid) = linear.input_grid()? {
            grids.inputs.insert(linear.module.clone(), grid);
        }
        if linear.grid.is_null() {
            continue;
        }
        let quantizer = quantizer(linear, parameters, host, weights)
            .map_err(|error| error.context(format!("the grid of `{}`", linear.weight)))?;
        grids.weights.insert(linear.weight.clone(), quantizer);
    }
    let rounded = grids.inputs.values().chain(&grids.kv_cache);
    if let Some(grid) = rounded.into_iter().find(|grid| parameters.inputs_follow && !grid.scales_follow_ranges()) {
        return Err(Error::unsupported(format!("the scales of {} do not follow the extremes of inputs", grid.args()))
            .with_hint("leave `inputs_follow` out"));
    }
    if parameters.inputs_follow && grids.inputs.is_empty() && grids.kv_cache.is_none() {
        return Err(Error::parameters("`inputs_follow` is about inputs, keys and values, and the scheme rounds none")
            .with_hint("leave it out, or take a scheme with `input_activations`"));
    }
    Ok(grids)
}

fn quantizer(
    linear: &Linear,
    parameters: &Parameters,
    codes: Option<&Host<'_>>,
    weights: &mut TrainableParams,
) -> Result<WeightQuantizer, Error> {
    let grid: Grid = linear.grid()?;
    let kind = parameters.scales(codes.is_some());
    if codes.is_some() && matches!(kind, Scales::Dynamic | Scales::Follow) {
        return Err(Error::parameters("scales taken from the numbers that codes stand for are not those of the codes")
            .with_hint("take `scales: \"frozen\"` or `\"learned\"`, or start from the model before its quantization"));
    }
    let scales = match kind {
        Scales::Dynamic => WeightScales::Dynamic,
        Scales::Follow => {
            if !grid.scales_follow_ranges() {
                return Err(Error::unsupported(format!(
                    "the scales of {} do not follow the weights' extremes",
                    grid.args()
                ))
                .with_hint("take `scales: \"dynamic\"`, or the observer `minmax`"));
            }
            WeightScales::Follow
        }
        Scales::Frozen => WeightScales::Frozen(at_start(linear, &grid, codes, weights)?),
        Scales::Learned => {
            if let Some(problem) = grid.why_scales_are_not_learned() {
                return Err(Error::unsupported(problem).with_hint("take `scales: \"dynamic\"`"));
            }
            let start = at_start(linear, &grid, codes, weights)?;
            let name = format!("{}.weight_scale", linear.module);
            let scales = Tensor::from_vec(start.scales.clone(), &start.shape, &device::chosen())?;
            weights.insert(&name, &scales).map_err(model_error)?;
            WeightScales::Learned { name, start, zero_points: None, lsq_factor: true }
        }
    };
    Ok(WeightQuantizer { grid, scales, stops_at_clipped: parameters.stops_at_clipped(kind) })
}

/// The scales of a weight as it is given: those of its codes, which a host has, or those that the weight makes.
fn at_start(
    linear: &Linear,
    grid: &Grid,
    codes: Option<&Host<'_>>,
    weights: &TrainableParams,
) -> Result<QuantParams, Error> {
    if let Some(host) = codes {
        return Ok(quantized_weight(linear, host.codes(linear)?)?.parameters);
    }
    let values = weights.values(&linear.weight).map_err(model_error)?;
    let shape = weights.shape(&linear.weight).unwrap_or_default();
    let &[rows, columns] = shape.as_slice() else {
        return Err(Error::input(format!("`{}` of shape {shape:?} is no matrix", linear.weight)));
    };
    let matrix = Matrix::new(&values, rows, columns).map_err(|error| grid_error(&error))?;
    grid.parameters(matrix).map_err(|error| grid_error(&error))
}
