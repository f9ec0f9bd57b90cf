use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};

use super::super::Context;
use super::super::kernels::rotary::{Rows, rotate as kernel};
use super::super::rope::Angles;
use super::{View, composed, gradient, on_cpu, output, values};

/// Rotates `x` `[batch, len, heads, dim]` to the positions that the context gives its tokens.
pub(in super::super) fn rotate(x: &Tensor, angles: &Arc<Angles>, context: &Context) -> Result<Tensor> {
    if !on_cpu(x) {
        return composed::rotate(x, angles, context);
    }
    x.contiguous()?.apply_op1(Rotate { angles: angles.clone(), context: context.clone() })
}

struct Rotate {
    angles: Arc<Angles>,
    context: Context,
}

impl Rotate {
    fn run(&self, x: &[f32], sign: f32) -> Vec<f32> {
        let rows = Rows { past: self.context.past(), len: self.context.len() };
        kernel(x, rows, &self.angles.cos, &self.angles.sin, self.angles.half, sign)
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (batch, len, _, dim) = layout.shape().dims4()?;
        if (batch, len, dim) != (self.context.batch(), self.context.len(), 2 * self.angles.half) {
            bail!("rotary embedding of a tensor of shape {:?}", layout.shape())
        }
        output(self.run(values(x, layout)?, 1.0), layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        gradient(self.run(View::new(&g)?.values(), -1.0), x)
    }
}
