//! Quantized weights as the contract takes them.

use workbench_api::sdk::{Facts, Linear, QuantizedLinear};
use workbench_quant::QuantizedWeight;

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
