//! Losses whose gradients are computed together with them, because the logits are at hand then.

use std::ops::Range;
use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::super::kernels::matmul;
use super::{View, gradient, matrix, output};

/// Logits of hidden states `[n, h]` through a head `[vocabulary, h]`, a few rows at a time, and the gradients that the logits'
/// gradients add up to.
pub(super) struct OfHead<'a> {
    tensors: [&'a Tensor; 2],
    hidden: View<'a>,
    head: View<'a>,
    width: usize,
    vocabulary: usize,
    by_hidden: Vec<f32>,
    by_head: Vec<f32>,
}

impl<'a> OfHead<'a> {
    /// Both contiguous, on the CPU and of f32.
    pub(super) fn new(hidden: &'a Tensor, head: &'a Tensor) -> Result<Self> {
        let ((_, width), (vocabulary, expected)) = (matrix(hidden.shape())?, head.shape().dims2()?);
        if width != expected {
            bail!("a head of shape {:?} got hidden states of shape {:?}", head.shape(), hidden.shape())
        }
        let (by_hidden, by_head) = (hidden.track_op(), head.track_op());
        Ok(Self {
            tensors: [hidden, head],
            by_hidden: Vec::with_capacity(if by_hidden { hidden.elem_count() } else { 0 }),
            by_head: vec![0.0; if by_head { head.elem_count() } else { 0 }],
            hidden: View::new(hidden)?,
            head: View::new(head)?,
            width,
            vocabulary,
        })
    }

    /// The sum of a loss over all rows, of which the logits of `chunk` exist at one time. `loss` gets the range of its rows and their
    /// logits, makes these their gradients, and gives the loss of each row.
    pub(super) fn sum<E: From<candle_core::Error>>(
        &mut self,
        chunk: usize,
        mut loss: impl FnMut(Range<usize>, &mut [f32]) -> std::result::Result<Vec<f64>, E>,
    ) -> std::result::Result<f64, E> {
        let rows = self.hidden.values().len() / self.width.max(1);
        let mut sum = 0f64;
        for start in (0..rows).step_by(chunk) {
            let part = start..rows.min(start + chunk);
            let mut logits = self.logits(part.clone());
            sum += loss(part.clone(), &mut logits)?.iter().sum::<f64>();
            self.add(part, &logits);
        }
        Ok(sum)
    }

    /// The logits of some rows.
    fn logits(&self, rows: Range<usize>) -> Vec<f32> {
        let n = rows.len();
        matmul::linear(self.part(rows), self.head.values(), n, self.width, self.vocabulary)
    }

    fn part(&self, rows: Range<usize>) -> &[f32] {
        &self.hidden.values()[rows.start * self.width..rows.end * self.width]
    }

    /// Adds what follows from the gradient by the logits of some rows. Rows come in their order, each of them once.
    fn add(&mut self, rows: Range<usize>, gradient: &[f32]) {
        let (n, width, vocabulary) = (rows.len(), self.width, self.vocabulary);
        let [by_hidden, by_head] = self.tensors.map(Tensor::track_op);
        if by_hidden {
            let found = matmul::linear_input_gradient(gradient, self.head.values(), n, width, vocabulary);
            self.by_hidden.extend(found);
        }
        if by_head {
            let mut sums = std::mem::take(&mut self.by_head);
            matmul::add_linear_weight_gradient(&mut sums, gradient, self.part(rows), n, width, vocabulary);
            self.by_head = sums;
        }
    }

    /// A scalar with these gradients.
    pub(super) fn known(self, name: &'static str, value: f64) -> Result<Tensor> {
        let Self { tensors: [hidden, head], hidden: read, head: read_too, by_hidden, by_head, .. } = self;
        // The operation borrows the values itself.
        drop((read, read_too));
        let by = [hidden.track_op(), head.track_op()];
        let gradients = Mutex::new(Some([by_hidden, by_head]));
        hidden.apply_op2(head, Known { name, value: value as f32, by, gradients })
    }
}

/// A scalar of two tensors whose gradients were computed together with it. They are given back once.
struct Known {
    name: &'static str,
    value: f32,
    /// Which of the tensors lead to a variable.
    by: [bool; 2],
    gradients: Mutex<Option<[Vec<f32>; 2]>>,
}

impl CustomOp2 for Known {
    fn name(&self) -> &'static str {
        self.name
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        output(vec![self.value], ())
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let factor = g.to_scalar::<f32>()?;
        let taken = self.gradients.lock().ok().and_then(|mut gradients| gradients.take());
        let Some([mut by_a, mut by_b]) = taken else {
            bail!("the gradients of a {} can be taken once only", self.name)
        };
        if factor != 1.0 {
            by_a.iter_mut().chain(&mut by_b).for_each(|x| *x *= factor);
        }
        let by_a = if self.by[0] { gradient(by_a, a)? } else { None };
        let by_b = if self.by[1] { gradient(by_b, b)? } else { None };
        Ok((by_a, by_b))
    }
}
