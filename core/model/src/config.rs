//! A model's configuration, normalised from the spellings of `config.json`.

mod keys;
mod parse;
mod rope;

use std::fmt;

pub(crate) use self::keys::{Keys, token_id};
pub use crate::arch::{Architecture, EMBEDDINGS, LM_HEAD, LinearInfo, TensorSpec};

/// How rotary frequencies are stretched for long contexts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Frequencies as they are.
    None,
    /// Every frequency divided by `factor`.
    Linear { factor: f64 },
    /// Llama 3: low frequencies divided by `factor`, high ones kept, a smooth blend between.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_max_positions: usize },
    /// YaRN (Peng et al. 2023, arXiv:2309.00071).
    Yarn(Yarn),
}

/// YaRN: frequencies that turn less than `beta_slow` times over the original length are divided by `factor`, those that turn more
/// than `beta_fast` times are kept, and a ramp over the dimensions leads from one to the other. Queries and keys are both multiplied
/// by `attention_factor`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Yarn {
    pub factor: f64,
    pub beta_fast: f64,
    pub beta_slow: f64,
    pub original_max_positions: usize,
    pub attention_factor: f64,
    /// Whether the ramp begins and ends at whole dimensions.
    pub truncate: bool,
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no scaling"),
            Self::Linear { factor } => write!(f, "linear scaling by {factor}"),
            Self::Yarn(Yarn { factor, original_max_positions: original, attention_factor, .. }) => {
                write!(f, "yarn scaling by {factor} (from {original} positions, attention by {attention_factor})")
            }
            Self::Llama3 { factor, low_freq_factor: low, high_freq_factor: high, original_max_positions } => {
                write!(f, "llama3 scaling by {factor} ({low} to {high}, from {original_max_positions} positions)")
            }
        }
    }
}

/// Hadamard rotations that the forward pass itself carries out, because no weight can absorb them. Each number is the size of
/// the rotation; longer rows are rotated in blocks of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnlineRotations {
    /// Of queries and keys per head, after RoPE: R3 of SpinQuant (Liu et al. 2024, arXiv:2405.16406). Their products stay.
    pub heads: Option<usize>,
    /// Of the input of `down_proj`, R4. The weight holds its inverse.
    pub down: Option<usize>,
}

/// Everything the decoder needs to know, independent of how the file spelled it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    pub rope_scaling: RopeScaling,
    pub tie_word_embeddings: bool,
    /// Biases on q, k and v.
    pub qkv_bias: bool,
    /// Bias on o.
    pub output_bias: bool,
    /// Biases on gate, up and down.
    pub mlp_bias: bool,
    /// RMSNorm per head on queries and keys.
    pub qk_norm: bool,
    /// For each block, how many keys a query sees at most, its own the last; `None` where it sees all. Empty where no block has a
    /// window.
    pub sliding_windows: Vec<Option<usize>>,
    /// A score for each query head that takes a share of the attention and mixes nothing in.
    pub attention_sinks: bool,
    /// The mixture of experts, in a model that has one.
    pub experts: Option<Experts>,
    pub online: OnlineRotations,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

/// A mixture of experts in place of the MLPs.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    /// How many there are in a block.
    pub count: usize,
    /// How many of them a token passes.
    pub per_token: usize,
    /// Features of the inner activation of each.
    pub intermediate_size: usize,
    pub routing: Routing,
    pub gating: Gating,
    /// Whether the router and the experts' linears have biases.
    pub bias: bool,
    /// Blocks with an ordinary MLP instead, in order.
    pub dense_blocks: Vec<usize>,
}

/// How the logits of a router become the weights of the experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Routing {
    /// Softmax over all experts; of the largest, the probabilities, divided by their sum if `renormalize` is set.
    SoftmaxTopK { renormalize: bool },
    /// Softmax over the largest logits.
    TopKSoftmax,
}

/// How an MLP's gate acts on what it gates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// `silu(gate) * up`.
    Silu,
    /// `g / (1 + e^(-alpha g)) * (u + 1)` with `g = min(gate, limit)` and `u` = up held between `-limit` and `limit`.
    Clamped { alpha: f32, limit: f32 },
}

impl ModelConfig {
    /// How many keys a query of a block sees at most, where it does not see all.
    pub fn sliding_window(&self, block: usize) -> Option<usize> {
        self.sliding_windows.get(block).copied().flatten()
    }

    /// The mixture of experts of a block; `None` where its MLP is dense.
    pub fn experts_of(&self, block: usize) -> Option<&Experts> {
        self.experts.as_ref().filter(|experts| !experts.dense_blocks.contains(&block))
    }
}
