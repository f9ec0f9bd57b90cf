//! The decoder's operations on tensors: one fused operation each, with a backward pass.
//!
//! candle's own fused operations have none: they detach the graph without an error. These are differentiable, so that
//! scoring, calibration and training run the same code. Gradients are computed only for arguments that lead to a
//! variable: frozen weights cost nothing. On other devices than the CPU every operation falls back to its `composed` twin.

mod attention;
pub(super) mod composed;
mod cross_entropy;
mod distillation;
mod embedding;
mod gating;
mod hadamard;
mod known;
mod linear;
mod norm;
mod rotary;

use std::ops::Range;

use candle_core::{CpuStorage, DType, Layout, Result, Shape, Storage, StorageRef, Tensor, bail};

pub(super) use attention::{Attention, attention};
pub(super) use cross_entropy::cross_entropy;
pub(super) use distillation::{Logits, distillation, divergence};
pub(super) use embedding::embedding;
pub(super) use gating::{clamped_silu_times, silu_times};
pub(super) use hadamard::hadamard;
pub(super) use linear::{linear, linear_packed, packed};
pub(super) use norm::rms_norm;
pub(super) use rotary::rotate;

/// Whether the kernels of this crate can run on a tensor.
fn on_cpu(x: &Tensor) -> bool {
    x.device().is_cpu() && x.dtype() == DType::F32
}

/// The values of an argument in a forward pass.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => Ok(&values[start..end]),
        (CpuStorage::F32(_), None) => bail!("expected a contiguous tensor"),
        _ => bail!("expected a tensor of f32"),
    }
}

fn output(values: Vec<f32>, shape: impl Into<Shape>) -> Result<(CpuStorage, Shape)> {
    Ok((CpuStorage::F32(values), shape.into()))
}

/// A tensor's values, borrowed for as long as the view lives.
pub(crate) struct View<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl<'a> View<'a> {
    /// The tensor must be contiguous, on the CPU and of f32.
    pub(crate) fn new(x: &'a Tensor) -> Result<Self> {
        let (storage, layout) = x.storage_and_layout();
        let Some((start, end)) = layout.contiguous_offsets() else { bail!("expected a contiguous tensor") };
        if !matches!(&*storage, Storage::Cpu(CpuStorage::F32(_))) {
            bail!("expected a tensor of f32 on the CPU")
        }
        Ok(Self { storage, range: start..end })
    }

    pub(crate) fn values(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => &values[self.range.clone()],
            // `new` has refused everything else.
            _ => &[],
        }
    }
}

/// A gradient of the shape and on the device of `like`.
fn gradient(values: Vec<f32>, like: &Tensor) -> Result<Option<Tensor>> {
    Tensor::from_vec(values, like.shape(), like.device()).map(Some)
}

/// Rows and columns of a tensor seen as a matrix over its last dimension.
fn matrix(shape: &Shape) -> Result<(usize, usize)> {
    match shape.dims() {
        [] => bail!("expected at least one dimension"),
        [rows @ .., columns] => Ok((rows.iter().product(), *columns)),
    }
}

#[cfg(test)]
mod tests;
