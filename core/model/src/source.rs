//! Where a decoder takes its weights from.

use crate::ModelError;

/// Dense weights by their Hugging Face name, widened to f32. A checkpoint is one; so is a set of tensors in memory.
pub trait WeightSource {
    /// The shape of a tensor, or `None` if there is no tensor of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The tensor's values in row-major order, dequantized where it is stored as codes.
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError>;
}
