use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::super::kernels::norm;
use super::{View, composed, gradient, on_cpu, output, values};

/// RMSNorm over the last dimension, times `weight`.
pub(in super::super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    if !on_cpu(x) || !on_cpu(weight) {
        return composed::rms_norm(x, weight, eps);
    }
    x.contiguous()?.apply_op2(&weight.contiguous()?, RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let weight = values(w, wl)?;
        if xl.dims().last() != Some(&weight.len()) {
            bail!("a norm of {} elements got a tensor of shape {:?}", weight.len(), xl.shape())
        }
        output(norm::forward(values(x, xl)?, weight, self.eps), xl.shape().clone())
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (by_x, by_weight) =
            norm::backward(View::new(x)?.values(), View::new(w)?.values(), View::new(&g)?.values(), self.eps);
        let wanted = |tensor: &Tensor, values| if tensor.track_op() { gradient(values, tensor) } else { Ok(None) };
        Ok((wanted(x, by_x)?, wanted(w, by_weight)?))
    }
}
