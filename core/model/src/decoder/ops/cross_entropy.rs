use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::super::kernels::cross_entropy::loss_and_gradient;
use super::super::kernels::matmul;
use super::{composed, gradient, matrix, on_cpu, output, values};

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
    let op = CrossEntropy {
        targets: targets.to_vec(),
        weights: weights.to_vec(),
        chunk,
        by_hidden: hidden.track_op(),
        by_head: head.track_op(),
        gradients: Mutex::default(),
    };
    hidden.contiguous()?.apply_op2(&head.contiguous()?, op)
}

struct CrossEntropy {
    targets: Vec<u32>,
    weights: Vec<f32>,
    chunk: usize,
    by_hidden: bool,
    by_head: bool,
    /// By hidden states and head, from the forward pass.
    gradients: Mutex<Option<(Vec<f32>, Vec<f32>)>>,
}

impl CustomOp2 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, h: &CpuStorage, hl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (hidden, head) = (values(h, hl)?, values(w, wl)?);
        let ((rows, width), (vocabulary, expected)) = (matrix(hl.shape())?, wl.shape().dims2()?);
        if width != expected {
            bail!("a head of shape {:?} got hidden states of shape {:?}", wl.shape(), hl.shape())
        }
        let mut by_hidden = Vec::with_capacity(if self.by_hidden { hidden.len() } else { 0 });
        let mut by_head = vec![0.0; if self.by_head { head.len() } else { 0 }];
        let mut loss = 0f64;
        for start in (0..rows).step_by(self.chunk) {
            let end = rows.min(start + self.chunk);
            let (n, part) = (end - start, &hidden[start * width..end * width]);
            let mut logits = matmul::linear(part, head, n, width, vocabulary);
            let losses =
                loss_and_gradient(&mut logits, vocabulary, &self.targets[start..end], &self.weights[start..end]);
            loss += losses.iter().sum::<f64>();
            if self.by_hidden {
                by_hidden.extend(matmul::linear_input_gradient(&logits, head, n, width, vocabulary));
            }
            if self.by_head {
                matmul::add_linear_weight_gradient(&mut by_head, &logits, part, n, width, vocabulary);
            }
        }
        if let Ok(mut gradients) = self.gradients.lock() {
            *gradients = Some((by_hidden, by_head));
        }
        output(vec![loss as f32], ())
    }

    fn bwd(&self, hidden: &Tensor, head: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = g.to_scalar::<f32>()?;
        let taken = self.gradients.lock().ok().and_then(|mut gradients| gradients.take());
        let Some((mut by_hidden, mut by_head)) = taken else {
            bail!("the gradients of a cross-entropy can be taken once only")
        };
        if factor != 1.0 {
            by_hidden.iter_mut().chain(&mut by_head).for_each(|x| *x *= factor);
        }
        let by_hidden = if self.by_hidden { gradient(by_hidden, hidden)? } else { None };
        let by_head = if self.by_head { gradient(by_head, head)? } else { None };
        Ok((by_hidden, by_head))
    }
}
