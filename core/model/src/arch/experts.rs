//! Where the tensors of an expert lie in those that hold all experts of a block.

use super::names::{DOWN, EXPERTS, GATE, MLP, UP};
use super::{LinearInfo, Role, block_name};
use crate::ModelConfig;

/// The place of one expert's linear in a stack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StackPlace {
    /// The stack's name: with nothing behind it that of its weights, with [`BIAS`], [`BLOCKS`] or [`SCALES`] those of the others.
    pub(crate) stack: String,
    pub(crate) expert: usize,
    pub(crate) experts: usize,
    /// Outputs of an expert in the stack, those of gate and up together.
    pub(crate) outputs: usize,
    pub(crate) inputs: usize,
    /// The first output of the linear among them, and how far apart its outputs are.
    pub(crate) first: usize,
    pub(crate) step: usize,
    /// Whether weights are `[experts, inputs, outputs]` instead of `[experts, outputs, inputs]`.
    pub(crate) transposed: bool,
}

/// Behind the name of a stack: its biases `[experts, outputs]`.
pub(crate) const BIAS: &str = "_bias";
/// MXFP4 codes `[experts, outputs, inputs / 32, 16]`, two a byte.
pub(crate) const BLOCKS: &str = "_blocks";
/// Their scales `[experts, outputs, inputs / 32]`, exponents with 127 added.
pub(crate) const SCALES: &str = "_scales";

impl StackPlace {
    /// The shape of the stacked weights.
    pub(crate) fn shape(&self) -> [usize; 3] {
        match self.transposed {
            true => [self.experts, self.inputs, self.outputs],
            false => [self.experts, self.outputs, self.inputs],
        }
    }

    /// Where the weight begins in the stack, and the strides of its rows and columns, in elements.
    pub(crate) fn weight(&self) -> (usize, [usize; 2]) {
        let expert = self.expert * self.outputs * self.inputs;
        match self.transposed {
            true => (expert + self.first, [self.step, self.outputs]),
            false => (expert + self.first * self.inputs, [self.step * self.inputs, 1]),
        }
    }

    /// The same of the bias.
    pub(crate) fn bias(&self) -> (usize, usize) {
        (self.expert * self.outputs + self.first, self.step)
    }
}

impl ModelConfig {
    /// Whether folders of this model hold its experts in stacks, which can be of MXFP4 codes.
    pub fn publishes_coded_experts(&self) -> bool {
        self.experts.is_some() && self.architecture.family().stacking.is_some_and(|stacking| stacking.is_written)
    }

    /// Where a linear of an expert lies in a stack, in families that stack them.
    pub(crate) fn stack_place(&self, linear: &LinearInfo) -> Option<StackPlace> {
        let stacking = self.architecture.family().stacking?;
        let (block, expert) = (linear.site.block?, linear.site.expert?);
        let experts = self.experts_of(block)?;
        let inner = linear.out_features;
        let (part, outputs, first, step) = match (linear.role, stacking.interleaved) {
            (Role::Gate, true) => (format!("{}_{UP}", gate()), 2 * inner, 0, 2),
            (Role::Up, true) => (format!("{}_{UP}", gate()), 2 * inner, 1, 2),
            (Role::Gate, false) => (format!("{}_{UP}", gate()), 2 * inner, 0, 1),
            (Role::Up, false) => (format!("{}_{UP}", gate()), 2 * inner, inner, 1),
            (Role::Down, _) => (DOWN.to_owned(), linear.out_features, 0, 1),
            _ => return None,
        };
        Some(StackPlace {
            stack: format!("{}.{MLP}.{EXPERTS}.{part}", block_name(block)),
            expert,
            experts: experts.count,
            outputs,
            inputs: linear.in_features,
            first,
            step,
            transposed: stacking.transposed,
        })
    }
}

/// `gate`, which in the name of a stack stands before `up_proj`.
fn gate() -> &'static str {
    GATE.split('_').next().unwrap_or(GATE)
}
