//! The tensors of all experts of a block as one, for families whose folders are written so.

use std::collections::BTreeMap;

use super::shard::PendingTensor;
use crate::ModelConfig;
use crate::arch::LinearInfo;
use crate::arch::experts::{BIAS, BLOCKS, SCALES, StackPlace};
use crate::checkpoint::Dtype;
use crate::checkpoint::stacked::MX_GROUP;

/// The linears of a block's experts with their places, where the family's folders hold them in stacks.
fn places(config: &ModelConfig, block: usize) -> Vec<(LinearInfo, StackPlace)> {
    if !are_stacked(config) {
        return Vec::new();
    }
    let linears = config.block(block).linears.into_iter();
    linears.filter_map(|linear| Some((config.stack_place(&linear)?, linear))).map(|(place, l)| (l, place)).collect()
}

/// Whether the family's folders hold experts in stacks.
pub(super) fn are_stacked(config: &ModelConfig) -> bool {
    config.publishes_coded_experts()
}

/// The name under which a tensor of an expert is stored with those of the others; `None` for any other tensor.
pub(super) fn stack_name(config: &ModelConfig, block: usize, tensor: &str, coded: bool) -> Option<String> {
    let (module, part) = tensor.rsplit_once('.')?;
    let (_, place) = places(config, block).into_iter().find(|(linear, _)| linear.name == module)?;
    Some(match part {
        "bias" => format!("{}{BIAS}", place.stack),
        _ if coded => format!("{}{BLOCKS}", place.stack),
        _ => place.stack,
    })
}

/// Puts the experts of a block into stacks, if all of their tensors are there as they are, in one type.
pub(super) fn stack(
    config: &ModelConfig,
    block: usize,
    mut tensors: BTreeMap<String, PendingTensor>,
) -> BTreeMap<String, PendingTensor> {
    let places = places(config, block);
    let names = || places.iter().flat_map(|(linear, _)| [Some(linear.weight()), linear.bias()].into_iter().flatten());
    let Some(dtype) = names().next().and_then(|first| Some(tensors.get(&first)?.dtype)) else { return tensors };
    if !names().all(|name| tensors.get(&name).is_some_and(|tensor| tensor.dtype == dtype)) {
        return tensors;
    }
    for (linear, place) in &places {
        if let Some(weight) = tensors.remove(&linear.weight()) {
            let to = tensors.entry(place.stack.clone()).or_insert_with(|| empty(dtype, &place.shape()));
            let (start, strides) = place.weight();
            scatter(&weight, to, start, strides);
        }
        if let Some(bias) = linear.bias().and_then(|name| tensors.remove(&name)) {
            let shape = [place.experts, place.outputs];
            let to = tensors.entry(format!("{}{BIAS}", place.stack)).or_insert_with(|| empty(dtype, &shape));
            let (start, stride) = place.bias();
            scatter(&bias, to, start, [stride, 0]);
        }
    }
    tensors
}

/// The same of experts whose weights were put as MXFP4 codes.
///
/// # Errors
/// A tensor of an expert is not there in that layout; its name and what is wrong.
pub(super) fn stack_codes(
    config: &ModelConfig,
    block: usize,
    mut tensors: BTreeMap<String, PendingTensor>,
) -> Result<BTreeMap<String, PendingTensor>, (String, String)> {
    for (linear, place) in places(config, block) {
        let groups = place.inputs / MX_GROUP;
        let widths = [("weight_packed", BLOCKS, place.inputs / 2), ("weight_scale", SCALES, groups)];
        for (suffix, part, width) in widths {
            let name = format!("{}.{suffix}", linear.name);
            let Some(from) = tensors.remove(&name).filter(|from| from.dtype == Dtype::U8) else {
                return Err((name, "was not put as MXFP4 codes although all experts were declared so".into()));
            };
            let mut shape = vec![place.experts, place.outputs, groups];
            if part == BLOCKS {
                shape.push(MX_GROUP / 2);
            }
            let to = tensors.entry(format!("{}{part}", place.stack)).or_insert_with(|| empty(Dtype::U8, &shape));
            for (row, bytes) in from.bytes.chunks_exact(width).enumerate() {
                let at = (place.expert * place.outputs + place.first + row * place.step) * width;
                to.bytes[at..at + width].copy_from_slice(bytes);
            }
        }
        if let Some(name) = linear.bias()
            && let Some(bias) = tensors.remove(&name)
        {
            let shape = [place.experts, place.outputs];
            let to = tensors.entry(format!("{}{BIAS}", place.stack)).or_insert_with(|| empty(bias.dtype, &shape));
            if to.dtype != bias.dtype {
                return Err((name, format!("is of type {}, those of other experts of {}", bias.dtype, to.dtype)));
            }
            let (start, stride) = place.bias();
            scatter(&bias, to, start, [stride, 0]);
        }
    }
    Ok(tensors)
}

fn empty(dtype: Dtype, shape: &[usize]) -> PendingTensor {
    PendingTensor { dtype, shape: shape.to_vec(), bytes: vec![0; dtype.size() * shape.iter().product::<usize>()] }
}

/// Copies the elements of a matrix or a vector to where they belong.
fn scatter(from: &PendingTensor, to: &mut PendingTensor, start: usize, [down, across]: [usize; 2]) {
    let (size, columns) = (from.dtype.size(), from.shape.get(1).copied().unwrap_or(1));
    for (index, element) in from.bytes.chunks_exact(size).enumerate() {
        let at = (start + index / columns * down + index % columns * across) * size;
        to.bytes[at..at + size].copy_from_slice(element);
    }
}
