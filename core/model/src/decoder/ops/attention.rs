use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor, bail};

use super::super::Context;
use super::super::kernels::attention::{Problem, backward, forward};
use super::{View, composed, gradient, on_cpu, output, values};
use crate::Precision;

/// Causal grouped-query attention of queries `[batch, len, heads, dim]` to keys and values `[batch, capacity, kv_heads,
/// dim]`, of which sequence `b` fills the first `past[b] + lens[b]`. Returns the shape of the queries; the outputs of
/// padding tokens are zero.
pub(in super::super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: Attention) -> Result<Tensor> {
    let tracked = [q, k, v].into_iter().chain(&attention.sinks).any(Tensor::track_op);
    if attention.precision == Precision::Bf16 && (tracked || !on_cpu(q)) {
        bail!("attention in bfloat16 works on the CPU and has no backward pass")
    }
    if !on_cpu(q) {
        return composed::attention(q, k, v, &attention);
    }
    let (q, k, v) = (q.contiguous()?, k.contiguous()?, v.contiguous()?);
    match attention.sinks.clone() {
        None => q.apply_op3(&k, &v, attention),
        // An operation has three arguments at most.
        Some(sinks) => q.apply_op3(&Tensor::stack(&[k, v], 0)?, &sinks.contiguous()?, WithSinks(attention)),
    }
}

/// What attention needs to know beside its tensors.
#[derive(Clone)]
pub(in super::super) struct Attention {
    pub(in super::super) context: Context,
    /// The factor of the scores, 1 / sqrt(dim).
    pub(in super::super) scale: f32,
    /// How many keys a query sees at most, its own the last.
    pub(in super::super) window: Option<usize>,
    /// A score `[heads]` for each head that takes a share of the probability and mixes nothing in.
    pub(in super::super) sinks: Option<Tensor>,
    /// Of the operands of its products. There is a backward pass in f32 only.
    pub(in super::super) precision: Precision,
}

impl Attention {
    fn problem<'a>(&'a self, q: &Shape, k: &Shape, v: &Shape, sinks: Option<&'a [f32]>) -> Result<Problem<'a>> {
        let (batch, len, heads, dim) = q.dims4()?;
        let (kv_batch, capacity, kv_heads, kv_dim) = k.dims4()?;
        let context = &self.context;
        let fits = batch == kv_batch
            && dim == kv_dim
            && k == v
            && heads.is_multiple_of(kv_heads)
            && sinks.is_none_or(|sinks| sinks.len() == heads)
            && self.window != Some(0)
            && (batch, len) == (context.batch(), context.len())
            && context.past().iter().zip(context.lens()).all(|(past, len)| past + len <= capacity);
        if !fits {
            bail!("attention of queries {q:?} to keys {k:?} and values {v:?} in {context:?}")
        }
        let (past, lens, scale) = (context.past(), context.lens(), self.scale);
        let window = self.window.unwrap_or(usize::MAX);
        Ok(Problem { past, lens, len, capacity, heads, kv_heads, dim, scale, window, sinks })
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
        let problem = self.problem(ql.shape(), kl.shape(), vl.shape(), None)?;
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
        let problem = self.problem(q.shape(), k.shape(), v.shape(), None)?;
        let g = g.contiguous()?;
        let (q_view, k_view, v_view, g) = (View::new(q)?, View::new(k)?, View::new(v)?, View::new(&g)?);
        let (dq, dk, dv, _) = backward(q_view.values(), k_view.values(), v_view.values(), g.values(), problem);
        Ok((gradient(dq, q)?, gradient(dk, k)?, gradient(dv, v)?))
    }
}

/// Attention whose second argument is keys and values one after the other, `[2, batch, capacity, kv_heads, dim]`, and whose third
/// are the sinks.
struct WithSinks(Attention);

/// The shape of the keys, and of the values.
fn half(both: &Shape) -> Result<Shape> {
    match both.dims() {
        [2, rest @ ..] => Ok(Shape::from(rest)),
        _ => bail!("keys and values of shape {both:?}"),
    }
}

impl CustomOp3 for WithSinks {
    fn name(&self) -> &'static str {
        "attention with sinks"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        kv: &CpuStorage,
        kvl: &Layout,
        sinks: &CpuStorage,
        sl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (shape, both, sinks) = (half(kvl.shape())?, values(kv, kvl)?, values(sinks, sl)?);
        let problem = self.0.problem(ql.shape(), &shape, &shape, Some(sinks))?;
        let (k, v) = both.split_at(both.len() / 2);
        output(forward(values(q, ql)?, k, v, problem, self.0.precision), ql.shape().clone())
    }

    fn bwd(
        &self,
        q: &Tensor,
        kv: &Tensor,
        sinks: &Tensor,
        _: &Tensor,
        g: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (shape, g) = (half(kv.shape())?, g.contiguous()?);
        let (q_view, kv_view, s_view, g) = (View::new(q)?, View::new(kv)?, View::new(sinks)?, View::new(&g)?);
        let problem = self.0.problem(q.shape(), &shape, &shape, Some(s_view.values()))?;
        let (k, v) = kv_view.values().split_at(kv_view.values().len() / 2);
        let (dq, mut dk, dv, d_sinks) = backward(q_view.values(), k, v, g.values(), problem);
        dk.extend(dv);
        Ok((gradient(dq, q)?, gradient(dk, kv)?, gradient(d_sinks, sinks)?))
    }
}
