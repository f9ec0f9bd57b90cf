use candle_core::{DType, Tensor, bail};

use super::super::Divergence;
use super::super::kernels::divergence::{losses, losses_and_gradient};
use super::known::OfHead;
use super::{View, composed, matrix, on_cpu};
use crate::ModelError;
use crate::device::HOST;

/// Logits `[n, vocabulary]` of the `n` rows from `start` on, by `(start, n)`. They lead to no variable.
pub(in super::super) type Logits<'a> = dyn Fn(usize, usize) -> Result<Tensor, ModelError> + 'a;

/// Logits in the memory of the program.
fn on_host(logits: &Tensor, vocabulary: usize) -> candle_core::Result<Tensor> {
    if logits.rank() != 2 || logits.dim(1)? != vocabulary {
        bail!("logits of shape {:?} for a vocabulary of {vocabulary}", logits.shape())
    }
    logits.to_dtype(DType::F32)?.to_device(&HOST)?.contiguous()
}

fn check(rows: usize, weights: &[f32], chunk: usize) -> candle_core::Result<()> {
    if weights.len() != rows || chunk == 0 {
        bail!("{rows} rows with {} weights in chunks of {chunk}", weights.len())
    }
    Ok(())
}

/// The sum over rows of `weights[r]` times the divergence of the student's prediction from the teacher's, a scalar.
///
/// `hidden` is `[n, h]`, `head` `[vocabulary, h]`. Logits of both exist for `chunk` rows at a time, and gradients are computed with
/// the loss, as for the [cross-entropy](super::cross_entropy()). The teacher gets none.
pub(in super::super) fn distillation(
    hidden: &Tensor,
    head: &Tensor,
    teacher: &Logits<'_>,
    weights: &[f32],
    divergence: Divergence,
    chunk: usize,
) -> Result<Tensor, ModelError> {
    let (rows, (vocabulary, _)) = (matrix(hidden.shape())?.0, matrix(head.shape())?);
    check(rows, weights, chunk)?;
    if !on_cpu(hidden) || !on_cpu(head) {
        return composed::distillation(hidden, head, teacher, weights, divergence, chunk);
    }
    let (hidden, head) = (hidden.contiguous()?, head.contiguous()?);
    let mut found = OfHead::new(&hidden, &head)?;
    let loss = found.sum::<ModelError>(chunk, |rows, logits| {
        let teacher = on_host(&teacher(rows.start, rows.len())?, vocabulary)?;
        Ok(losses_and_gradient(logits, View::new(&teacher)?.values(), vocabulary, &weights[rows], divergence))
    })?;
    Ok(found.known("distillation", loss)?)
}

/// The same sum over `rows` rows for a student that nothing is learned of.
pub(in super::super) fn divergence(
    (rows, vocabulary): (usize, usize),
    student: &Logits<'_>,
    teacher: &Logits<'_>,
    weights: &[f32],
    divergence: Divergence,
    chunk: usize,
) -> Result<f64, ModelError> {
    check(rows, weights, chunk)?;
    let mut loss = 0f64;
    for start in (0..rows).step_by(chunk) {
        let n = chunk.min(rows - start);
        let student = on_host(&student(start, n)?, vocabulary)?;
        let teacher = on_host(&teacher(start, n)?, vocabulary)?;
        let (student, teacher) = (View::new(&student)?, View::new(&teacher)?);
        let weights = &weights[start..start + n];
        loss += losses(student.values(), teacher.values(), vocabulary, weights, divergence).iter().sum::<f64>();
    }
    Ok(loss)
}
