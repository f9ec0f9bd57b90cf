//! SwiGLU's gating: y = silu(gate) * up, with silu(x) = x / (1 + e^-x).

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
