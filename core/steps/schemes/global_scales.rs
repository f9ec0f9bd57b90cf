//! The tensor-wide scales of weights that servers run as one.

use std::collections::BTreeMap;

use workbench_model::{Checkpoint, WeightSource};
use workbench_quant::{Grid, Strategy};

use crate::{error::Result, graph::fused};

/// Gives the weights of a stack (q, k and v; gate and up) that are quantized alike with tensor-wide scales (NVFP4) one such
/// scale, that of the largest magnitude among them: a server that stacks them has room for one.
///
/// # Errors
/// A weight cannot be read.
pub(super) fn share<'a>(
    weights: impl IntoIterator<Item = (&'a str, &'a mut Grid)>,
    checkpoint: &Checkpoint,
) -> Result<()> {
    let mut stacks: BTreeMap<(&str, usize), Vec<(&str, &mut Grid)>> = BTreeMap::new();
    for (module, grid) in weights {
        if let (Some(stack), Strategy::TensorGroup) = (fused::stack(module), grid.args().strategy) {
            stacks.entry(stack).or_default().push((module, grid));
        }
    }
    for mut stack in stacks.into_values() {
        let alike = stack.iter().all(|(_, grid)| **grid == *stack[0].1);
        if stack.len() == 1 || !alike {
            continue;
        }
        let mut absmax = 0_f32;
        for (module, _) in &stack {
            let values = checkpoint.values(&format!("{module}.weight"))?;
            absmax = values.iter().fold(absmax, |largest, value| largest.max(value.abs()));
        }
        for (_, grid) in &mut stack {
            **grid = grid.clone().with_global_scale(Some(grid.global_scale(absmax)));
        }
    }
    Ok(())
}
