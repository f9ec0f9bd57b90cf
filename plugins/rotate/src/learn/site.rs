//! Fake quantization of a site's input that gathers the gradient by the rotation of this input.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use workbench_model::ModelError;
use workbench_model::decoder::ActivationQuantizer;
use workbench_quant::Grid;

use super::gradient::{Rounded, Shared, locked};
use super::scales::Scales;

/// Rounds rows to a dynamic grid, as the decoder's own quantizer does.
#[derive(Clone)]
pub(crate) struct SiteQuantizer {
    pub(crate) grid: Grid,
    pub(crate) scales: Scales,
    /// Of the rotation that rotates the rows, if it is learned.
    pub(crate) sum: Option<Shared>,
}

impl ActivationQuantizer for SiteQuantizer {
    fn apply(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(x.contiguous()?.apply_op1(self.clone())?)
    }
}

pub(crate) fn wrong(error: impl std::fmt::Display) -> candle_core::Error {
    candle_core::Error::Msg(format!("rounding an activation: {error}"))
}

fn columns(shape: &Shape) -> usize {
    shape.dims().last().copied().unwrap_or(1).max(1)
}

impl CustomOp1 for SiteQuantizer {
    fn name(&self) -> &'static str {
        "fake-quantize a rotated input"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (CpuStorage::F32(values), Some((start, end))) = (x, layout.contiguous_offsets()) else {
            candle_core::bail!("expected a contiguous tensor of f32")
        };
        let mut values = values[start..end].to_vec();
        let columns = columns(layout.shape());
        let rows = values.len() / columns;
        self.grid.fake_quantize_dynamic(&mut values, rows, columns).map_err(wrong)?;
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, rounded: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
        let (rows, rounded, mut by_x) = (values(x)?, values(rounded)?, values(gradient)?);
        let terms = self.scales.terms(&self.grid, &rows, &rounded, &by_x, columns(x.shape())).map_err(wrong)?;
        if let Some(sum) = &self.sum {
            let found = Rounded { x: &rows, rounded: &rounded, gradient: &by_x, terms: &terms };
            locked(sum, |sum| sum.add_rows(found)).map_err(wrong)?;
        }
        for (at, term) in terms {
            by_x[at] += term;
        }
        Tensor::from_vec(by_x, x.shape(), x.device()).map(Some)
    }
}
