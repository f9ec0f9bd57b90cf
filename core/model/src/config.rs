//! A model's configuration, normalised from the spellings of `config.json`.

mod keys;
mod parse;
mod rope;

use std::fmt;

pub(crate) use self::keys::token_id;
use crate::{Site, SiteKind};

/// The module that turns tokens into hidden states: a table `[vocabulary, hidden]` whose rows are looked up.
pub const EMBEDDINGS: &str = "model.embed_tokens";

/// The linear that turns the last hidden states into logits. With tied embeddings its weight is their table.
pub const LM_HEAD: &str = "lm_head";

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

/// One projection of the decoder: its module name (without `.weight`), shape and the site that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// For example `model.layers.3.mlp.down_proj`.
    pub name: String,
    pub out_features: usize,
    pub in_features: usize,
    pub site: Site,
}

/// One tensor that a model of a given configuration consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face name, for example `model.layers.3.mlp.down_proj.weight`.
    pub name: String,
    /// Row-major shape; a linear's weight is `[out_features, in_features]`.
    pub shape: Vec<usize>,
}

impl Architecture {
    /// Every family, in the order in which messages list them.
    pub const ALL: [Self; 3] = [Self::Llama, Self::Qwen2, Self::Qwen3];

    /// The class name that `architectures` in `config.json` holds.
    pub fn class_name(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
        }
    }

    /// The name that `model_type` in `config.json` and `general.architecture` in a GGUF file hold.
    pub fn model_type(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

impl ModelConfig {
    /// Every tensor that the decoder needs, in the order embeddings, blocks, final norm, head. With tied embeddings
    /// there is no `lm_head.weight`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let spec = |name: String, shape: &[usize]| TensorSpec { name, shape: shape.to_vec() };
        let mut tensors = vec![spec("model.embed_tokens.weight".into(), &[self.vocab_size, self.hidden_size])];
        let linears = self.linears();
        for (block, linears) in linears.chunks(linears.len() / self.num_layers.max(1)).enumerate() {
            let prefix = format!("model.layers.{block}");
            tensors.push(spec(format!("{prefix}.input_layernorm.weight"), &[self.hidden_size]));
            tensors.push(spec(format!("{prefix}.post_attention_layernorm.weight"), &[self.hidden_size]));
            if self.qk_norm {
                tensors.push(spec(format!("{prefix}.self_attn.q_norm.weight"), &[self.head_dim]));
                tensors.push(spec(format!("{prefix}.self_attn.k_norm.weight"), &[self.head_dim]));
            }
            for linear in linears {
                tensors.push(spec(format!("{}.weight", linear.name), &[linear.out_features, linear.in_features]));
                if self.has_bias(linear.site.kind) {
                    tensors.push(spec(format!("{}.bias", linear.name), &[linear.out_features]));
                }
            }
        }
        tensors.push(spec("model.norm.weight".into(), &[self.hidden_size]));
        if !self.tie_word_embeddings {
            tensors.push(spec("lm_head.weight".into(), &[self.vocab_size, self.hidden_size]));
        }
        tensors
    }

    /// `lm_head`, tied or not.
    pub fn head(&self) -> LinearInfo {
        LinearInfo {
            name: LM_HEAD.into(),
            out_features: self.vocab_size,
            in_features: self.hidden_size,
            site: Site::head(),
        }
    }

    /// Name of the weight of a module of this model: that of a tied `lm_head` is the table of the embeddings.
    pub fn weight_of(&self, module: &str) -> String {
        let owner = if module == LM_HEAD && self.tie_word_embeddings { EMBEDDINGS } else { module };
        format!("{owner}.weight")
    }

    /// Whether the linears that read a site carry a bias.
    pub fn has_bias(&self, kind: SiteKind) -> bool {
        match kind {
            SiteKind::AttentionInput => self.qkv_bias,
            SiteKind::OutputInput => self.output_bias,
            SiteKind::MlpInput | SiteKind::DownInput => self.mlp_bias,
            SiteKind::HeadInput | SiteKind::Query | SiteKind::Key | SiteKind::Value => false,
        }
    }

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
