//! The same operations out of candle's differentiable primitives: for devices without kernels of ours, and as the
//! reference that the fused ones are tested against.

use candle_core::{D, Device, Result, Tensor};
use workbench_rotation::Hadamard;

use super::super::rope::Angles;
use super::super::{Context, Divergence};
use super::{Attention, Logits};
use crate::ModelError;

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.broadcast_matmul(&weight.t()?)?;
    match bias {
        None => Ok(y),
        Some(bias) => y.broadcast_add(bias),
    }
}

pub(super) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(mean + eps)?.sqrt()?)?.broadcast_mul(weight)
}

pub(super) fn silu_times(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    gate.silu()?.mul(up)
}

pub(super) fn clamped_silu_times(gate: &Tensor, up: &Tensor, [alpha, limit]: [f32; 2]) -> Result<Tensor> {
    let limit = f64::from(limit);
    let gate = gate.minimum(limit)?;
    let up = up.maximum(-limit)?.minimum(limit)?;
    let gated = (&gate * candle_nn::ops::sigmoid(&(&gate * f64::from(alpha))?)?)?;
    gated.mul(&(up + 1.0)?)
}

pub(super) fn hadamard(x: &Tensor, hadamard: &Hadamard) -> Result<Tensor> {
    let n = hadamard.size();
    let root = 1.0 / (n as f64).sqrt();
    let entry = |at: usize| if hadamard.is_negative(at % n, at / n) { -root } else { root };
    let matrix: Vec<f32> = (0..n * n).map(|at| entry(at) as f32).collect();
    let matrix = Tensor::from_vec(matrix, (n, n), x.device())?.to_dtype(x.dtype())?;
    x.reshape(((), n))?.matmul(&matrix)?.reshape(x.shape())
}

pub(super) fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let rows = weight.index_select(&ids.flatten_all()?, 0)?;
    let mut dims = ids.dims().to_vec();
    dims.push(weight.dim(1)?);
    rows.reshape(dims)
}

/// The angles' rows at the context's positions, `[batch, len, 1, half]`.
fn at_positions(table: &[f32], half: usize, context: &Context, device: &Device) -> Result<Tensor> {
    let rows = context.past().iter().flat_map(|past| *past..past + context.len());
    let values: Vec<f32> = rows.flat_map(|row| table[row * half..(row + 1) * half].iter().copied()).collect();
    Tensor::from_vec(values, (context.batch(), context.len(), 1, half), device)
}

pub(super) fn rotate(x: &Tensor, angles: &Angles, context: &Context) -> Result<Tensor> {
    let cos = at_positions(&angles.cos, angles.half, context, x.device())?;
    let sin = at_positions(&angles.sin, angles.half, context, x.device())?;
    let first = x.narrow(D::Minus1, 0, angles.half)?;
    let second = x.narrow(D::Minus1, angles.half, angles.half)?;
    let turned_first = (first.broadcast_mul(&cos)? - second.broadcast_mul(&sin)?)?;
    let turned_second = (second.broadcast_mul(&cos)? + first.broadcast_mul(&sin)?)?;
    Tensor::cat(&[turned_first, turned_second], D::Minus1)
}

pub(super) fn attention(q: &Tensor, k: &Tensor, v: &Tensor, attention: &Attention) -> Result<Tensor> {
    let (batch, len, heads, dim) = q.dims4()?;
    let (_, capacity, kv_heads, _) = k.dims4()?;
    let group = heads / kv_heads;
    let repeat = |x: &Tensor| -> Result<Tensor> {
        let x = x.transpose(1, 2)?.unsqueeze(2)?.broadcast_as((batch, kv_heads, group, capacity, dim))?;
        x.contiguous()?.reshape((batch, heads, capacity, dim))
    };
    let scores = q.transpose(1, 2)?.contiguous()?.matmul(&repeat(k)?.transpose(2, 3)?.contiguous()?)?;
    let scores = (scores * f64::from(attention.scale))?;
    let context = &attention.context;
    let mut mask = Vec::with_capacity(batch * len * capacity);
    let mut real = Vec::with_capacity(batch * len);
    for (past, length) in context.past().iter().zip(context.lens()) {
        for query in 0..len {
            real.push(if query < *length { 1f32 } else { 0.0 });
            let first = (past + query + 1).saturating_sub(attention.window.unwrap_or(usize::MAX));
            let seen = first..=past + query;
            mask.extend((0..capacity).map(|key| if seen.contains(&key) { 0.0 } else { f32::NEG_INFINITY }));
        }
    }
    let mask = Tensor::from_vec(mask, (batch, 1, len, capacity), q.device())?;
    let real = Tensor::from_vec(real, (batch, len, 1, 1), q.device())?;
    let scores = scores.broadcast_add(&mask)?;
    let weights = match &attention.sinks {
        None => candle_nn::ops::softmax(&scores, D::Minus1)?,
        Some(sinks) => {
            let sinks = sinks.reshape((1, heads, 1, 1))?.broadcast_as((batch, heads, len, 1))?;
            let all = candle_nn::ops::softmax(&Tensor::cat(&[scores, sinks.contiguous()?], D::Minus1)?, D::Minus1)?;
            all.narrow(D::Minus1, 0, capacity)?.contiguous()?
        }
    };
    weights.matmul(&repeat(v)?)?.transpose(1, 2)?.contiguous()?.broadcast_mul(&real)
}

pub(super) fn cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    chunk: usize,
) -> Result<Tensor> {
    let mut total = Tensor::zeros((), hidden.dtype(), hidden.device())?;
    for start in (0..targets.len()).step_by(chunk) {
        let n = chunk.min(targets.len() - start);
        let logits = hidden.narrow(0, start, n)?.matmul(&head.t()?)?;
        let log_probabilities = candle_nn::ops::log_softmax(&logits, D::Minus1)?;
        let targets = Tensor::from_slice(&targets[start..start + n], (n, 1), hidden.device())?;
        let weights = Tensor::from_slice(&weights[start..start + n], (n, 1), hidden.device())?;
        let picked = (log_probabilities.gather(&targets, 1)? * weights)?;
        total = (total - picked.sum_all()?)?;
    }
    Ok(total)
}

/// log((1 - β) e^a + β e^b), of the larger one and what the other adds to it.
fn log_of_mixture(a: &Tensor, b: &Tensor, beta: f64) -> Result<Tensor> {
    let most = a.maximum(b)?.detach();
    let sum = (((a - &most)?.exp()? * (1.0 - beta))? + ((b - &most)?.exp()? * beta)?)?;
    sum.log()? + most
}

pub(super) fn distillation(
    hidden: &Tensor,
    head: &Tensor,
    teacher: &Logits<'_>,
    weights: &[f32],
    divergence: Divergence,
    chunk: usize,
) -> std::result::Result<Tensor, ModelError> {
    let Divergence { beta, temperature } = divergence;
    let log_probabilities = |logits: &Tensor| candle_nn::ops::log_softmax(&(logits / temperature)?, D::Minus1);
    // Per row, [n, 1].
    let kl = |p: &Tensor, q: &Tensor| -> Result<Tensor> { (p.exp()? * (p - q)?)?.sum_keepdim(D::Minus1) };
    let mut total = Tensor::zeros((), hidden.dtype(), hidden.device())?;
    for start in (0..weights.len()).step_by(chunk) {
        let n = chunk.min(weights.len() - start);
        let s = log_probabilities(&hidden.narrow(0, start, n)?.matmul(&head.t()?)?)?;
        let t = log_probabilities(&teacher(start, n)?.to_dtype(hidden.dtype())?.to_device(hidden.device())?)?;
        let rows = if beta == 0.0 {
            kl(&t, &s)?
        } else if beta == 1.0 {
            kl(&s, &t)?
        } else {
            let m = log_of_mixture(&s, &t, beta)?;
            ((kl(&t, &m)? * beta)? + (kl(&s, &m)? * (1.0 - beta))?)?
        };
        let weights = Tensor::from_slice(&weights[start..start + n], (n, 1), hidden.device())?;
        total = (total + (rows * weights)?.sum_all()?)?;
    }
    Ok(total)
}
