//! Quantizers on the inputs of linears.

use candle_core::Tensor;

use crate::ModelError;

/// Fake quantization of a linear's input.
pub trait ActivationQuantizer: Send + Sync {
    /// `x` is `[.., features]`; the result has its shape.
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError>;
}
