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

/// The gating of gpt-oss: `gate` and `up` clamped at `limit`, `gate` through a sigmoid of slope `alpha`, one added to `up`.
pub(in super::super) fn clamped_silu_times(gate: &Tensor, up: &Tensor, [alpha, limit]: [f32; 2]) -> Result<Tensor> {
    if !on_cpu(gate) || !on_cpu(up) {
        return composed::clamped_silu_times(gate, up, [alpha, limit]);
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, Clamped([alpha, limit]))
}

struct Clamped([f32; 2]);

impl CustomOp2 for Clamped {
    fn name(&self) -> &'static str {
        "clamped-silu-times"
    }

    fn cpu_fwd(&self, a: &CpuStorage, al: &Layout, b: &CpuStorage, bl: &Layout) -> Result<(CpuStorage, Shape)> {
        if al.shape() != bl.shape() {
            bail!("gate of shape {:?}, up of shape {:?}", al.shape(), bl.shape())
        }
        output(gating::clamped(values(a, al)?, values(b, bl)?, self.0), al.shape().clone())
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let g = g.contiguous()?;
        let (gates, ups) = (View::new(gate)?, View::new(up)?);
        let (by_gate, by_up) = gating::clamped_backward(gates.values(), ups.values(), View::new(&g)?.values(), self.0);
        Ok((gradient(by_gate, gate)?, gradient(by_up, up)?))
    }
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
