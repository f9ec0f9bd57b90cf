//! What a script can say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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

/// Parameters of `rotate`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    /// Where: any of R1, R2, R3, R4.
    #[schemars(length(min = 1))]
    pub rotations: Vec<Place>,
    /// What R1 and R2 are. R3 is a Hadamard matrix always, R4 is one behind random signs unless this says `hadamard`: both are
    /// carried out while the model runs.
    #[schemars(extend("aliases" = ["transform_type", "type"]))]
    pub kind: Kind,
    /// Size of the blocks in which R1 and R4 rotate; null: whole rows.
    #[schemars(range(min = 1), extend("aliases" = ["transform_block_size"]))]
    pub block_size: Option<usize>,
    /// Seed of everything random.
    pub seed: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self { rotations: vec![Place::R1, Place::R2], kind: Kind::RandomHadamard, block_size: None, seed: 0 }
    }
}

impl Parameters {
    /// Whether a place is to be rotated.
    pub(crate) fn has(&self, place: Place) -> bool {
        self.rotations.contains(&place)
    }
}
