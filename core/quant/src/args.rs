//! Quantization arguments in the JSON shapes of the compressed-tensors checkpoint format.

use serde::{Deserialize, Serialize};

/// Integer or floating-point codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberType {
    /// Two's complement integers of `num_bits`.
    Int,
    /// FP8 E4M3 (`num_bits` 8) or FP4 E2M1 (`num_bits` 4).
    Float,
}

/// Which values share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The whole tensor.
    Tensor,
    /// A row of a weight (one output channel).
    Channel,
    /// `group_size` neighbours along the input dimension.
    Group,
    /// A row of an activation (one token).
    Token,
    /// A rectangle of `block_structure` rows and columns.
    Block,
    /// A group with a second, tensor-wide scale (NVFP4).
    TensorGroup,
    /// An attention head of a KV cache.
    AttnHead,
}
