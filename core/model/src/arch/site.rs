//! Sites: the places in the decoder where an activation can be observed or quantized.

use std::fmt;

/// What an activation is the input of. Linears that read the same activation share a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SiteKind {
    /// Input of `q_proj`, `k_proj` and `v_proj`.
    AttentionInput,
    /// Input of `o_proj`.
    OutputInput,
    /// Input of `gate_proj` and `up_proj`.
    MlpInput,
    /// Input of `down_proj`.
    DownInput,
    /// Input of `lm_head`.
    HeadInput,
    /// Queries after RoPE (and after q-norm), where an online rotation may act.
    Query,
    /// Keys after RoPE (and after k-norm), as a KV cache stores them.
    Key,
    /// Values, as a KV cache stores them.
    Value,
}

/// A site of one block, or of the head (`block` is `None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Index of the decoder block.
    pub block: Option<usize>,
    /// Which activation of it.
    pub kind: SiteKind,
}

impl Site {
    /// The site of the given kind in a decoder block.
    pub fn in_block(block: usize, kind: SiteKind) -> Self {
        Self { block: Some(block), kind }
    }

    /// The input of `lm_head`.
    pub fn head() -> Self {
        Self { block: None, kind: SiteKind::HeadInput }
    }
}

impl fmt::Display for Site {
    /// The dotted name of the site, for example `model.layers.3.mlp.down_proj.input`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tail = match self.kind {
            SiteKind::AttentionInput => "self_attn.input",
            SiteKind::OutputInput => "self_attn.o_proj.input",
            SiteKind::MlpInput => "mlp.input",
            SiteKind::DownInput => "mlp.down_proj.input",
            SiteKind::HeadInput => "lm_head.input",
            SiteKind::Query => "self_attn.query",
            SiteKind::Key => "self_attn.key",
            SiteKind::Value => "self_attn.value",
        };
        match self.block {
            Some(block) => write!(f, "model.layers.{block}.{tail}"),
            None => f.write_str(tail),
        }
    }
}
