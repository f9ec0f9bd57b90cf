use candle_core::{Result, Tensor, bail};

use super::super::kernels::cross_entropy::loss_and_gradient;
use super::known::OfHead;
use super::{composed, matrix, on_cpu};

/// The sum over rows of `-weights[r] * log softmax(hidden[r] head^T)[targets[r]]`, a scalar.
///
/// `hidden` is `[n, h]`, `head` `[vocabulary, h]`. Logits exist for `chunk` rows at a time: a vocabulary of 150,000 by
/// thousands of tokens would take gigabytes. Where a gradient is wanted it is computed together with the loss, since the
/// logits are at hand then.
pub(in super::super) fn cross_entropy(
    hidden: &Tensor,
    head: &Tensor,
    targets: &[u32],
    weights: &[f32],
    chunk: usize,
) -> Result<Tensor> {
    let (rows, (vocabulary, _)) = (matrix(hidden.shape())?.0, matrix(head.shape())?);
    if targets.len() != rows || weights.len() != rows || chunk == 0 {
        bail!("{rows} rows with {} targets, {} weights in chunks of {chunk}", targets.len(), weights.len())
    }
    if let Some(target) = targets.iter().find(|target| **target as usize >= vocabulary) {
        bail!("target {target} is outside of the vocabulary of {vocabulary}")
    }
    if !on_cpu(hidden) || !on_cpu(head) {
        return composed::cross_entropy(hidden, head, targets, weights, chunk);
    }
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let mut found = OfHead::new(&hidden, &head)?;
    let loss = found.sum::<candle_core::Error>(chunk, |rows, logits| {
        Ok(loss_and_gradient(logits, vocabulary, &targets[rows.clone()], &weights[rows]))
    })?;
    found.known("cross-entropy", loss)
}
