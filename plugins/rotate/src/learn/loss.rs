//! What rotations are learned by.

use candle_core::{CpuStorage, CustomOp1, Layout, Result as CandleResult, Shape, Tensor};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The loss of a prediction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// -log p of the token that follows, as SpinQuant has it.
    #[default]
    NextToken,
    /// The divergence of the predicted distribution from the unquantized model's. Where little is lost, what the next token
    /// says about it drowns in what the token says about the model; this is zero where nothing is lost.
    Divergence,
}

/// `weight` times the sum over rows of KL(teacher, student) for logits `[.., vocabulary]` of the student.
pub(crate) struct Divergence {
    /// Logits of the teacher, of the student's shape.
    pub(crate) teacher: Vec<f32>,
    pub(crate) vocabulary: usize,
    pub(crate) weight: f64,
}

/// The logarithm of Σ exp.
fn log_sum(logits: &[f32]) -> f64 {
    let most = logits.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
    f64::from(most) + logits.iter().map(|x| f64::from((x - most).exp())).sum::<f64>().ln()
}

impl Divergence {
    fn row(teacher: &[f32], student: &[f32]) -> f64 {
        let (by_teacher, by_student) = (log_sum(teacher), log_sum(student));
        let terms = teacher.iter().zip(student).map(|(t, s)| {
            let log = f64::from(*t) - by_teacher;
            f64::from((log as f32).exp()) * (log - (f64::from(*s) - by_student))
        });
        terms.sum()
    }

    /// Over all rows.
    pub(crate) fn value(&self, student: &[f32]) -> f64 {
        let rows = self.teacher.par_chunks(self.vocabulary).zip(student.par_chunks(self.vocabulary));
        let all: Vec<f64> = rows.map(|(teacher, student)| Self::row(teacher, student)).collect();
        self.weight * all.iter().sum::<f64>()
    }
}

impl CustomOp1 for Divergence {
    fn name(&self) -> &'static str {
        "divergence from the unquantized model"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        let (CpuStorage::F32(student), Some((start, end))) = (x, layout.contiguous_offsets()) else {
            candle_core::bail!("expected contiguous logits of f32")
        };
        if end - start != self.teacher.len() {
            candle_core::bail!("{} logits of the teacher for {} of the student", self.teacher.len(), end - start)
        }
        Ok((CpuStorage::F32(vec![self.value(&student[start..end]) as f32]), Shape::from(())))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, gradient: &Tensor) -> CandleResult<Option<Tensor>> {
        let factor = self.weight * f64::from(gradient.to_scalar::<f32>()?);
        let mut by_x = x.flatten_all()?.to_vec1::<f32>()?;
        let rows = self.teacher.par_chunks(self.vocabulary).zip(by_x.par_chunks_mut(self.vocabulary));
        rows.for_each(|(teacher, student)| {
            let (by_teacher, by_student) = (log_sum(teacher) as f32, log_sum(student) as f32);
            for (teacher, student) in teacher.iter().zip(student) {
                let difference = (*student - by_student).exp() - (teacher - by_teacher).exp();
                *student = (factor * f64::from(difference)) as f32;
            }
        });
        Tensor::from_vec(by_x, x.shape(), x.device()).map(Some)
    }
}
