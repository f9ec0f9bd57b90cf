//! Stored scales and zero-points: decoded, and checked with the place of what is wrong.

use workbench_quant::float::{e8m0, f8e4m3};
use workbench_quant::{Grid, GridError, QuantParams, StorageDtype};

use super::dtype::{Dtype, first_non_finite, widen};
use super::safetensors::StoredTensor;
use crate::ModelError;

const DAMAGED: &str = "the scales are damaged; fetch them again";

/// The tensors that parameters were read from, with their names.
pub(super) struct Sources<'a> {
    pub(super) scale: (&'a str, &'a StoredTensor),
    pub(super) zero_point: Option<(&'a str, &'a StoredTensor)>,
}

impl Sources<'_> {
    /// Refuses parameters that the grid cannot have. A tensor-wide scale is checked where it is read.
    pub(super) fn check(&self, grid: &Grid, parameters: &QuantParams) -> Result<(), ModelError> {
        let illegal = |(name, tensor): (&str, &StoredTensor), cause: GridError| {
            ModelError::tensor(tensor.file.path(), name, cause.to_string(), DAMAGED)
        };
        let scales = grid.check_scales(&parameters.scales, parameters.global_scale);
        scales.map_err(|cause| illegal(self.scale, cause))?;
        let points = grid.check_zero_points(parameters.zero_points.as_deref().unwrap_or_default());
        points.map_err(|cause| illegal(self.zero_point.unwrap_or(self.scale), cause))
    }
}

/// A scale that stands for a whole tensor, by which others are divided.
pub(super) fn one_scale(name: &str, tensor: &StoredTensor) -> Result<f32, ModelError> {
    match float_values(name, tensor)?[..] {
        [scale] if scale > 0.0 => Ok(scale),
        _ => Err(ModelError::tensor(tensor.file.path(), name, "is not one positive scale", DAMAGED)),
    }
}

pub(super) fn storage_dtype(dtype: Dtype) -> StorageDtype {
    match dtype {
        Dtype::F16 => StorageDtype::F16,
        Dtype::BF16 => StorageDtype::Bf16,
        _ => StorageDtype::F32,
    }
}

pub(super) fn float_values(name: &str, tensor: &StoredTensor) -> Result<Vec<f32>, ModelError> {
    let mut values = vec![0.0; tensor.elements()];
    let bad = match tensor.dtype {
        Dtype::F8E4M3 => decoded(tensor.bytes(), &mut values, f8e4m3::decode),
        Dtype::U8 => decoded(tensor.bytes(), &mut values, e8m0::decode),
        dtype => widen(dtype, tensor.bytes(), &mut values),
    };
    match bad {
        None => Ok(values),
        Some(index) => {
            let message = format!("holds {} at element {index}", values[index]);
            Err(ModelError::tensor(tensor.file.path(), name, message, DAMAGED))
        }
    }
}

/// Decodes a byte each; the index of the first value that is not finite, if any.
fn decoded(bytes: &[u8], values: &mut [f32], decode: fn(u8) -> f32) -> Option<usize> {
    for (value, byte) in values.iter_mut().zip(bytes) {
        *value = decode(*byte);
    }
    first_non_finite(values)
}

pub(super) fn bytes_as_points(bytes: &[u8]) -> Vec<i32> {
    bytes.iter().map(|byte| i32::from(*byte as i8)).collect()
}
