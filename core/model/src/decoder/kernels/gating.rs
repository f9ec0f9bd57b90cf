//! SwiGLU's gating: y = silu(gate) * up, with silu(x) = x / (1 + e^-x); and the clamped one of gpt-oss,
//! y = g / (1 + e^(-alpha g)) * (u + 1) with g = min(gate, limit) and u = up held between -limit and limit.

use rayon::prelude::*;

use super::PARALLEL;
use super::vector::{exp, vectorized};
use workbench_matmul::by_pieces;

vectorized! {
    fn forward_chunk(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((y, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *y = gate / (1.0 + exp(-gate)) * up;
        }
    }
}

vectorized! {
    /// silu'(x) = s + x s (1 - s) with s the logistic function of x.
    fn backward_chunk(gate: &[f32], up: &[f32], g: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        for i in 0..g.len() {
            let s = 1.0 / (1.0 + exp(-gate[i]));
            d_gate[i] = g[i] * up[i] * (s + gate[i] * s * (1.0 - s));
            d_up[i] = g[i] * gate[i] * s;
        }
    }
}

/// The smaller of a number and a limit; what is no number stays so, as in torch, where `f32::min` gives the limit.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

/// The larger of both.
#[inline(always)]
fn at_least(x: f32, limit: f32) -> f32 {
    if x < limit { limit } else { x }
}

vectorized! {
    fn clamped_chunk(gate: &[f32], up: &[f32], alpha: f32, limit: f32, out: &mut [f32]) {
        for ((y, gate), up) in out.iter_mut().zip(gate).zip(up) {
            let (g, u) = (at_most(*gate, limit), at_most(at_least(*up, -limit), limit));
            *y = g / (1.0 + exp(-alpha * g)) * (u + 1.0);
        }
    }
}

vectorized! {
    /// Nothing flows back to what was clamped.
    fn clamped_backward_chunk(
        gate: &[f32],
        up: &[f32],
        g: &[f32],
        alpha: f32,
        limit: f32,
        d_gate: &mut [f32],
        d_up: &mut [f32],
    ) {
        for i in 0..g.len() {
            let (x, u) = (at_most(gate[i], limit), at_most(at_least(up[i], -limit), limit));
            let s = 1.0 / (1.0 + exp(-alpha * x));
            let by_gate = g[i] * (u + 1.0) * (s + alpha * x * s * (1.0 - s));
            let by_up = g[i] * x * s;
            d_gate[i] = if gate[i] > limit { 0.0 } else { by_gate };
            d_up[i] = if up[i].abs() > limit { 0.0 } else { by_up };
        }
    }
}

/// The clamped gating.
pub(crate) fn clamped(gate: &[f32], up: &[f32], [alpha, limit]: [f32; 2]) -> Vec<f32> {
    by_pieces(gate.len(), PARALLEL, |piece, out| {
        let range = piece * PARALLEL..piece * PARALLEL + out.len();
        clamped_chunk(&gate[range.clone()], &up[range], alpha, limit, out);
    })
}

/// Its gradients by gate and up, given `g`, the gradient by the output.
pub(crate) fn clamped_backward(gate: &[f32], up: &[f32], g: &[f32], [alpha, limit]: [f32; 2]) -> (Vec<f32>, Vec<f32>) {
    let (mut d_gate, mut d_up) = (vec![0.0; g.len()], vec![0.0; g.len()]);
    clamped_backward_chunk(gate, up, g, alpha, limit, &mut d_gate, &mut d_up);
    (d_gate, d_up)
}

/// See the module.
pub(crate) fn forward(gate: &[f32], up: &[f32]) -> Vec<f32> {
    by_pieces(gate.len(), PARALLEL, |piece, out| {
        let range = piece * PARALLEL..piece * PARALLEL + out.len();
        forward_chunk(&gate[range.clone()], &up[range], out);
    })
}

/// The gradients by gate and up, given `g`, the gradient by the output.
pub(crate) fn backward(gate: &[f32], up: &[f32], g: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut d_gate, mut d_up) = (vec![0.0; g.len()], vec![0.0; g.len()]);
    let outputs = d_gate.par_chunks_mut(PARALLEL).zip(d_up.par_chunks_mut(PARALLEL));
    let inputs = gate.par_chunks(PARALLEL).zip(up.par_chunks(PARALLEL)).zip(g.par_chunks(PARALLEL));
    outputs.zip(inputs).for_each(|((d_gate, d_up), ((gate, up), g))| backward_chunk(gate, up, g, d_gate, d_up));
    (d_gate, d_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As torch's `clamp`: a limit is no way to hide that something overflowed.
    #[test]
    fn what_is_no_number_is_not_clamped() {
        let numbers = [1.702, 7.0];
        for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
            assert!(clamped(&[gate; 20], &[up; 20], numbers).iter().all(|y| y.is_nan()));
            let (by_gate, by_up) = clamped_backward(&[gate; 20], &[up; 20], &[1.0; 20], numbers);
            assert!(by_gate.iter().chain(&by_up).any(|g| g.is_nan()));
        }
        assert_eq!(clamped(&[9.0], &[-9.0], numbers), clamped(&[7.0], &[-7.0], numbers));
    }
}
