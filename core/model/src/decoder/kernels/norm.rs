//! RMSNorm: y = w x / sqrt(mean(x^2) + eps) over the last dimension.

use rayon::prelude::*;

use super::PARALLEL;
use super::vector::{sum, vectorized};
use workbench_matmul::by_pieces;

/// Rows per task. The partial sums of the weight's gradient are taken over these, hence fixed.
const ROWS: usize = 256;

vectorized! {
    fn forward_rows(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        let n = w.len();
        for (x, y) in x.chunks_exact(n).zip(out.chunks_exact_mut(n)) {
            let scale = inverse_rms(x, eps);
            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                *y = x * scale * w;
            }
        }
    }
}

#[inline(always)]
fn inverse_rms(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum(x.len(), |i| x[i] * x[i]) / x.len() as f32 + eps).sqrt()
}

vectorized! {
    /// dx = s (g w) - x s^3 / n * sum(g w x), and dw += g x s, with s = 1 / rms(x).
    fn backward_rows(x: &[f32], w: &[f32], g: &[f32], eps: f32, dx: &mut [f32], dw: &mut [f32]) {
        let n = w.len();
        for ((x, g), dx) in x.chunks_exact(n).zip(g.chunks_exact(n)).zip(dx.chunks_exact_mut(n)) {
            let scale = inverse_rms(x, eps);
            let dot = sum(n, |i| g[i] * w[i] * x[i]);
            let shrink = scale * scale * scale * dot / n as f32;
            for i in 0..n {
                dx[i] = scale * g[i] * w[i] - x[i] * shrink;
                dw[i] += g[i] * x[i] * scale;
            }
        }
    }
}

/// Rows of `w.len()` elements each; see the module.
pub(crate) fn forward(x: &[f32], w: &[f32], eps: f32) -> Vec<f32> {
    // A small input is one piece: to share it out would cost more than it is.
    let chunk = if x.len() < PARALLEL { x.len() } else { ROWS * w.len() };
    by_pieces(x.len(), chunk, |piece, out| forward_rows(&x[piece * chunk..][..out.len()], w, eps, out))
}

/// The gradients by input and weight, given `g`, the gradient by the output.
pub(crate) fn backward(x: &[f32], w: &[f32], g: &[f32], eps: f32) -> (Vec<f32>, Vec<f32>) {
    let mut dx = vec![0.0; x.len()];
    let chunk = ROWS * w.len();
    let partial: Vec<Vec<f32>> = dx
        .par_chunks_mut(chunk)
        .zip(x.par_chunks(chunk))
        .zip(g.par_chunks(chunk))
        .map(|((dx, x), g)| {
            let mut dw = vec![0.0; w.len()];
            backward_rows(x, w, g, eps, dx, &mut dw);
            dw
        })
        .collect();
    let mut dw = vec![0.0; w.len()];
    for part in partial {
        for (total, part) in dw.iter_mut().zip(part) {
            *total += part;
        }
    }
    (dx, dw)
}
