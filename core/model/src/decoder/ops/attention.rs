use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::Context;
use super::super::kernels::attention::{Problem, backward, forward};
use super::{View, composed, gradient, on_cpu, output, values};
use crate::Precision;

/// Causal grouped-query attention of queries `[batch, len, heads, dim]` to keys and values `[batch, capacity, kv_heads,
/// dim]`, of which sequence `b` fills the first `past[b] + lens[b]`. Returns the shape of the queries; the outputs of
/// padding tokens are zero.
pub(in super::super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: Attention) -> Result<Tensor> {
    let tracked = [q, k, v].iter().any(|x| x.track_op());
    if attention.precision == Precision::Bf16 && (tracked || !on_cpu(q)) {
        bail!("attention in bfloat16 works on the CPU and has no backward pass")
    }
    if !on_cpu(q) {
        return composed::attention(q, k, v, &attention);
    }
    q.contiguous()?.apply_op3(&k.contiguous()?, &v.contiguous()?, attention)
}

/// What attention needs to know beside its tensors.
#[derive(Clone)]
pub(in super::super) struct Attention {
    pub(in super::super) context: Context,
    /// The factor of the scores, 1 / sqrt(dim).
    pub(in super::super) scale: f32,
    /// Of the operands of its products. There is a backward pass in f32 only.
    pub(in super::super) precision: Precision,
}

impl Attention {
    fn problem(&self, q: &Shape, k: &Shape, v: &Shape) -> Result<Problem<'_>> {
        let (batch, len, heads, dim) = q.dims4()?;
        let (kv_batch, capacity, kv_heads, kv_dim) = k.dims4()?;
        let context = &self.context;
        let fits = batch == kv_batch
            && dim == kv_dim
            && k == v
            && heads.is_multiple_of(kv_heads)
            && (batch, len) == (context.batch(), context.len())
            && context.past().iter().zip(context.lens()).all(|(past, len)| past + len <= capacity);
        if !fits {
            bail!("attention of queries {q:?} to keys {k:?} and values {v:?} in {context:?}")
        }
        let (past, lens, scale) = (context.past(), context.lens(), self.scale);
        Ok(Problem { past, lens, len, capacity, heads, kv_heads, dim, scale })
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let problem = self.problem(ql.shape(), kl.shape(), vl.shape())?;
        let made = forward(values(q, ql)?, values(k, kl)?, values(v, vl)?, problem, self.precision);
        output(made, ql.shape().clone())
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let problem = self.problem(q.shape(), k.shape(), v.shape())?;
        let g = g.contiguous()?;
        let (q_view, k_view, v_view, g) = (View::new(q)?, View::new(k)?, View::new(v)?, View::new(&g)?);
        let (dq, dk, dv) = backward(q_view.values(), k_view.values(), v_view.values(), g.values(), problem);
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}
