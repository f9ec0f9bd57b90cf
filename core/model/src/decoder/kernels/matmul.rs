//! Matrix products, through the `gemm` crate.

use gemm::Parallelism;

/// A matrix operand: where it starts, and the distances between neighbouring rows and columns.
#[derive(Clone, Copy)]
pub(super) struct Operand {
    pub(super) start: *const f32,
    pub(super) row_stride: usize,
    pub(super) column_stride: usize,
}

impl Operand {
    pub(super) fn new(start: *const f32, row_stride: usize) -> Self {
        Self { start, row_stride, column_stride: 1 }
    }

    pub(super) fn transposed(self) -> Self {
        Self { start: self.start, row_stride: self.column_stride, column_stride: self.row_stride }
    }
}

/// `to[m, n] = factor * a[m, k] b[k, n]`, added to what `to` holds if `accumulate`.
///
/// # Safety
/// `a` and `b` must be readable and `to` (rows `to_stride` apart) writable over the given shapes; with `accumulate`, `to`
/// must be initialised; nobody else may touch `to` meanwhile.
#[allow(unsafe_code, clippy::too_many_arguments)]
pub(super) unsafe fn product(
    (m, n, k): (usize, usize, usize),
    to: *mut f32,
    to_stride: usize,
    a: Operand,
    b: Operand,
    factor: f32,
    accumulate: bool,
    parallelism: Parallelism,
) {
    // SAFETY: the caller vouches for pointers, strides and shapes.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            to,
            1,
            to_stride as isize,
            accumulate,
            a.start,
            a.column_stride as isize,
            a.row_stride as isize,
            b.start,
            b.column_stride as isize,
            b.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

fn threads() -> Parallelism {
    match rayon::current_num_threads() {
        1 => Parallelism::None,
        n => Parallelism::Rayon(n),
    }
}

/// A new `[m, n]` matrix from a product that writes every element.
fn fresh(shape: (usize, usize, usize), a: Operand, b: Operand) -> Vec<f32> {
    let (m, n, _) = shape;
    let mut out = Vec::with_capacity(m * n);
    // SAFETY: the callers below hold slices of exactly these shapes; the product writes all m * n elements.
    #[allow(unsafe_code)]
    unsafe {
        product(shape, out.as_mut_ptr(), n, a, b, 1.0, false, threads());
        out.set_len(m * n);
    }
    out
}

/// `x[n, i] w[o, i]^T`: what a linear computes, `[n, o]`.
pub(crate) fn linear(x: &[f32], w: &[f32], n: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    assert!(x.len() == n * inputs && w.len() == outputs * inputs);
    fresh((n, outputs, inputs), Operand::new(x.as_ptr(), inputs), Operand::new(w.as_ptr(), inputs).transposed())
}

/// `g[n, o] w[o, i]`: the gradient of a linear by its input, `[n, i]`.
pub(crate) fn linear_input_gradient(g: &[f32], w: &[f32], n: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    assert!(g.len() == n * outputs && w.len() == outputs * inputs);
    fresh((n, inputs, outputs), Operand::new(g.as_ptr(), outputs), Operand::new(w.as_ptr(), inputs))
}

/// `g[n, o]^T x[n, i]`: the gradient of a linear by its weight, `[o, i]`.
pub(crate) fn linear_weight_gradient(g: &[f32], x: &[f32], n: usize, inputs: usize, outputs: usize) -> Vec<f32> {
    assert!(g.len() == n * outputs && x.len() == n * inputs);
    fresh((outputs, inputs, n), Operand::new(g.as_ptr(), outputs).transposed(), Operand::new(x.as_ptr(), inputs))
}

/// As [`linear_weight_gradient`], added to `to`.
pub(crate) fn add_linear_weight_gradient(
    to: &mut [f32],
    g: &[f32],
    x: &[f32],
    n: usize,
    inputs: usize,
    outputs: usize,
) {
    assert!(g.len() == n * outputs && x.len() == n * inputs && to.len() == outputs * inputs);
    let (a, b) = (Operand::new(g.as_ptr(), outputs).transposed(), Operand::new(x.as_ptr(), inputs));
    // SAFETY: the lengths were just checked against the shapes; `to` is borrowed mutably.
    #[allow(unsafe_code)]
    unsafe {
        product((outputs, inputs, n), to.as_mut_ptr(), inputs, a, b, 1.0, true, threads());
    }
}
