//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::learn::{Loss, Scales};

/// Where a model is rotated, in the names of SpinQuant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Place {
    /// The residual stream, into the weights.
    R1,
    /// Values per head, into `v_proj` and `o_proj`.
    R2,
    /// Queries and keys per head after RoPE, while the model runs.
    R3,
    /// The input of `down_proj`, while the model runs; its inverse into the weight.
    R4,
}

/// What R1 and R2 are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A Hadamard matrix.
    Hadamard,
    /// A Hadamard matrix behind random signs.
    RandomHadamard,
    /// Any orthogonal matrix with equal probability.
    RandomOrthogonal,
}

/// How R1 and R2 are learned, from the drawn ones on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Learn {
    /// Steps to take.
    #[schemars(range(min = 1), extend("unit" = "steps", "aliases" = ["max_steps", "num_steps"]))]
    pub steps: u64,
    /// Where the learning rate begins; it falls along half a cosine wave. The length of a step is capped besides. Gradients are
    /// as small as what quantization loses: where that is little, or the loss is the divergence, the rate has to be larger.
    #[schemars(range(min = 0.0), extend("aliases" = ["lr"]))]
    pub learning_rate: f64,
    /// Sequences of the calibration data in one step.
    #[schemars(range(min = 1), extend("unit" = "sequences"))]
    pub batch_size: usize,
    /// What is rounded while learning: a scheme for the linears of the blocks, or a preset's name. Weights are best left out
    /// where a method that chooses their grid itself (GPTQ) comes after.
    #[schemars(with = "workbench_quant::Scheme")]
    pub scheme: Value,
    /// What is to become small.
    pub loss: Loss,
    /// What is constant where a gradient passes through rounding: the errors in steps of the grid, so that scales follow the
    /// extremes of their rows, or the errors themselves.
    pub scales: Scales,
    /// Keep only the inputs of blocks and compute the rest again on the way back.
    pub gradient_checkpointing: bool,
    /// Steps between checkpoints, from which an interrupted run continues; 0: none. Not part of what is learned.
    #[schemars(extend("unit" = "steps"))]
    pub checkpoint_every: u64,
}

impl Default for Learn {
    /// SpinQuant's: 100 steps of 8 sequences from a rate of 1.5, activations of 4 bits, asymmetric per token, weights as they are.
    /// Only that scales follow, for which there the gradient stops.
    fn default() -> Self {
        let inputs = json!({ "num_bits": 4, "type": "int", "symmetric": false, "strategy": "token", "dynamic": true });
        Self {
            steps: 100,
            learning_rate: 1.5,
            batch_size: 8,
            scheme: json!({ "input_activations": inputs }),
            loss: Loss::NextToken,
            scales: Scales::Follow,
            gradient_checkpointing: false,
            checkpoint_every: 10,
        }
    }
}

/// Parameters of `rotate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Where: any of R1, R2, R3, R4.
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    pub rotations: Vec<Place>,
    /// What R1 and R2 are. R3 is a Hadamard matrix always, R4 is one behind random signs unless this says `hadamard` (gpt-oss takes none
    /// there, and has to say so): both are carried out while the model runs.
    #[schemars(extend("aliases" = ["transform_type", "type"]))]
    pub kind: Kind,
    /// Size of the blocks in which R1 and R4 rotate; null: whole rows, or where dense blocks and experts are not equally wide, for R4
    /// the largest size that divides both.
    #[schemars(range(min = 1), extend("unit" = "channels", "aliases" = ["transform_block_size"]))]
    pub block_size: Option<usize>,
    /// Seed of everything random.
    pub seed: u64,
    /// Learns R1 and R2 through the quantized model on the node's calibration data (SpinQuant); null: they stay as drawn.
    pub learn: Option<Learn>,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            rotations: vec![Place::R1, Place::R2],
            kind: Kind::RandomHadamard,
            block_size: None,
            seed: 0,
            learn: None,
        }
    }
}

impl Parameters {
    /// Whether a place is to be rotated.
    pub(crate) fn has(&self, place: Place) -> bool {
        self.rotations.contains(&place)
    }
}
