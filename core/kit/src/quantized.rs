//! Quantized weights as the contract takes and gives them.

use workbench_api::sdk::{Error, Facts, Linear, QuantizedLinear};
use workbench_quant::{QuantParams, QuantizedWeight};

use crate::grid_error;

/// What a quantizer returns of `linear`: its weight on the grid that the job asks for, and what is to be said about it.
pub fn quantized_linear(linear: &Linear, weight: QuantizedWeight, facts: Facts) -> QuantizedLinear {
    let QuantizedWeight { grid: _, shape, codes, parameters } = weight;
    QuantizedLinear {
        codes,
        shape,
        scales: parameters.scales,
        scale_shape: parameters.shape,
        zero_points: parameters.zero_points,
        global_scale: parameters.global_scale,
        // As the host spelled it.
        grid: linear.grid.clone(),
        extra: Vec::new(),
        facts,
    }
}

/// The opposite: the weight of `linear` as the host has it ([`Host::codes`](workbench_api::sdk::Host::codes)), on the grid of the job.
///
/// # Errors
/// The grid cannot be read, or the codes are none of it.
pub fn quantized_weight(linear: &Linear, found: QuantizedLinear) -> Result<QuantizedWeight, Error> {
    let QuantizedLinear { codes, shape, scales, scale_shape, zero_points, global_scale, .. } = found;
    let parameters = QuantParams { scales, zero_points, global_scale, shape: scale_shape };
    let weight = QuantizedWeight { grid: linear.grid()?, shape, codes, parameters };
    weight.check().map_err(|error| grid_error(&error).context(format!("the codes of `{}`", linear.module)))?;
    Ok(weight)
}
