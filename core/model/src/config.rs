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
}

impl fmt::Display for RopeScaling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no scaling"),
            Self::Linear { factor } => write!(f, "linear scaling by {factor}"),
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
    pub online: OnlineRotations,
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}
