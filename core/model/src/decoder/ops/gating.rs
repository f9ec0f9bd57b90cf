use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::super::kernels::gating;
use super::{View, composed, gradient, on_cpu, output, values};

/// `silu(gate) * up`, elementwise.
pub(in super::super) fn silu_times(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if !on_cpu(gate) || !on_cpu(up) {
        return composed::silu_times(gate, up);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SiluTimes)
}

struct SiluTimes;

impl CustomOp2 for SiluTimes {
    fn name(&self) -> &'static str {
        "silu-times"
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        if al.shape() != bl.shape() {
            bail!("gate of shape {:?}, up of shape {:?}", al.shape(), bl.shape())
        }
        output(gating::forward(values(a, al)?, values(b, bl)?), al.shape().clone())
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (by_gate, by_up) =
            gating::backward(View::new(gate)?.values(), View::new(up)?.values(), View::new(&g)?.values());
        Ok((gradient(by_gate, gate)?, gradient(by_up, up)?))
    }
}
