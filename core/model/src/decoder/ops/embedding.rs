use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};

use super::{View, composed, gradient, matrix, on_cpu, output, values};

/// Rows of `weight` `[vocabulary, hidden]` by `ids` `[batch, len]` of u32.
///
/// The gradient is a sum of its own from zero, so that its bits do not depend on what else flows into a tied weight.
pub(in super::super) fn embedding(ids: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if !on_cpu(weight) {
        return composed::embedding(ids, weight);
    }
    weight.contiguous()?.apply_op2(&ids.contiguous()?, Embedding)
}

struct Embedding;

fn ids_of<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [u32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::U32(ids), Some((start, end))) => Ok(&ids[start..end]),
        _ => bail!("token ids must be a contiguous tensor of u32"),
    }
}

impl CustomOp2 for Embedding {
    fn name(&self) -> &'static str {
        "embedding"
    }

    fn cpu_fwd(&self, w: &CpuStorage, wl: &Layout, ids: &CpuStorage, il: &Layout) -> Result<(CpuStorage, Shape)> {
        let (weight, ids) = (values(w, wl)?, ids_of(ids, il)?);
        let (vocabulary, hidden) = matrix(wl.shape())?;
        let mut out = Vec::with_capacity(ids.len() * hidden);
        for &id in ids {
            let id = id as usize;
            if id >= vocabulary {
                bail!("token id {id} is outside of the vocabulary of {vocabulary}")
            }
            out.extend_from_slice(&weight[id * hidden..(id + 1) * hidden]);
        }
        let mut dims = il.dims().to_vec();
        dims.push(hidden);
        output(out, dims)
    }

    fn bwd(&self, weight: &Tensor, ids: &Tensor, _: &Tensor, g: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (_, hidden) = matrix(weight.shape())?;
        let mut sums = vec![0f32; weight.elem_count()];
        let g = g.contiguous()?;
        let ids = ids.flatten_all()?.to_vec1::<u32>()?;
        for (&id, g) in ids.iter().zip(View::new(&g)?.values().chunks_exact(hidden)) {
            let row = &mut sums[id as usize * hidden..(id as usize + 1) * hidden];
            for (sum, g) in row.iter_mut().zip(g) {
                *sum += g;
            }
        }
        Ok((gradient(sums, weight)?, None))
    }
}
