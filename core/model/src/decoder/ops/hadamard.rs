use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;
use workbench_rotation::Hadamard;

use super::{View, composed, gradient, on_cpu, output, values};

/// Numbers that one task rotates, at least one row.
const PIECE: usize = 1 << 15;

/// x Hᵀ / √n over the last dimension, in blocks of the matrix's size n.
pub(in super::super) fn hadamard(x: &Tensor, hadamard: &Hadamard) -> Result<Tensor> {
    match x.dims().last() {
        Some(last) if last.is_multiple_of(hadamard.size()) => {}
        _ => bail!("a rotation of size {} got a tensor of shape {:?}", hadamard.size(), x.shape()),
    }
    if !on_cpu(x) {
        return composed::hadamard(x, hadamard);
    }
    x.contiguous()?.apply_op1(Rotate(hadamard.clone()))
}

struct Rotate(Hadamard);

impl Rotate {
    fn each(&self, values: &mut [f32], rotate: impl Fn(&Hadamard, &mut [f32]) + Sync) {
        let piece = self.0.size() * (PIECE / self.0.size()).max(1);
        values.par_chunks_mut(piece).for_each(|rows| rotate(&self.0, rows));
    }
}

impl CustomOp1 for Rotate {
    fn name(&self) -> &'static str {
        "hadamard"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut rotated = values(x, layout)?.to_vec();
        self.each(&mut rotated, |hadamard, rows| hadamard.rotate(rows));
        output(rotated, layout.shape().clone())
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, g: &Tensor) -> Result<Option<Tensor>> {
        let g = g.contiguous()?;
        // The matrix is orthogonal: its transpose leads back.
        let mut by_x = View::new(&g)?.values().to_vec();
        self.each(&mut by_x, |hadamard, rows| hadamard.rotate_back(rows));
        gradient(by_x, x)
    }
}
