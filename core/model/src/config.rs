//! A model's configuration, normalised from the spellings of `config.json`.

use crate::{Site, SiteKind};

/// The decoder families that this crate runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM2, llama2.c.
    Llama,
    /// Qwen2 and Qwen2.5: biases on q, k and v.
    Qwen2,
    /// Qwen3: RMSNorm on queries and keys per head.
    Qwen3,
}

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
    pub bos_token_id: Option<u32>,
    pub eos_token_ids: Vec<u32>,
}

/// One projection of the decoder: its module name (without `.weight`), shape and the site that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// For example `model.layers.3.mlp.down_proj`.
    pub name: String,
    pub out_features: usize,
    pub in_features: usize,
    pub site: Site,
}

impl ModelConfig {
    /// The linears of the decoder blocks, in the order in which the forward pass meets them.
    pub fn linears(&self) -> Vec<LinearInfo> {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        let (q, kv) = (self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        let projections = [
            ("self_attn.q_proj", q, hidden, SiteKind::AttentionInput),
            ("self_attn.k_proj", kv, hidden, SiteKind::AttentionInput),
            ("self_attn.v_proj", kv, hidden, SiteKind::AttentionInput),
            ("self_attn.o_proj", hidden, q, SiteKind::OutputInput),
            ("mlp.gate_proj", inner, hidden, SiteKind::MlpInput),
            ("mlp.up_proj", inner, hidden, SiteKind::MlpInput),
            ("mlp.down_proj", hidden, inner, SiteKind::DownInput),
        ];
        (0..self.num_layers)
            .flat_map(|block| {
                projections.map(|(name, out_features, in_features, kind)| LinearInfo {
                    name: format!("model.layers.{block}.{name}"),
                    out_features,
                    in_features,
                    site: Site::in_block(block, kind),
                })
            })
            .collect()
    }
}
