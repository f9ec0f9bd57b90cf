//! Sites: the places in the decoder where an activation can be observed or quantized.

use std::fmt;

use super::names::{ATTENTION, DOWN, EXPERTS, LM_HEAD, MLP, O, block_name};

/// What an activation is the input of. Linears that read the same activation share a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SiteKind {
    /// Input of `q_proj`, `k_proj` and `v_proj`.
    AttentionInput,
    /// Input of `o_proj`.
    OutputInput,
    /// Input of `gate_proj` and `up_proj`, or of a router; for an expert, the tokens that are routed to it.
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
    /// Logits of a router, `[batch, len, experts]`.
    Routing,
}

/// A site of one block, or of the head (`block` is `None`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Index of the decoder block.
    pub block: Option<usize>,
    /// Which expert of the block, for the sites of one.
    pub expert: Option<usize>,
    /// Which activation of it.
    pub kind: SiteKind,
}

impl Site {
    /// The site of the given kind in a decoder block.
    pub fn in_block(block: usize, kind: SiteKind) -> Self {
        Self { block: Some(block), expert: None, kind }
    }

    /// The site of the given kind in an expert of a decoder block.
    pub fn in_expert(block: usize, expert: usize, kind: SiteKind) -> Self {
        Self { expert: Some(expert), ..Self::in_block(block, kind) }
    }

    /// Whether it lies in attention.
    pub fn is_attention(self) -> bool {
        use SiteKind::{AttentionInput, Key, OutputInput, Query, Value};
        matches!(self.kind, AttentionInput | OutputInput | Query | Key | Value)
    }

    /// The input of `lm_head`.
    pub fn head() -> Self {
        Self { block: None, expert: None, kind: SiteKind::HeadInput }
    }
}

impl fmt::Display for Site {
    /// The dotted name of the site, for example `model.layers.3.mlp.down_proj.input`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(block) = self.block else { return write!(f, "{LM_HEAD}.input") };
        write!(f, "{}.", block_name(block))?;
        let mlp = |f: &mut fmt::Formatter<'_>, tail: &str| match self.expert {
            None => write!(f, "{MLP}.{tail}"),
            Some(expert) => write!(f, "{MLP}.{EXPERTS}.{expert}.{tail}"),
        };
        match self.kind {
            SiteKind::AttentionInput => write!(f, "{ATTENTION}.input"),
            SiteKind::OutputInput => write!(f, "{ATTENTION}.{O}.input"),
            SiteKind::MlpInput => mlp(f, "input"),
            SiteKind::DownInput => mlp(f, &format!("{DOWN}.input")),
            SiteKind::HeadInput => f.write_str("input"),
            SiteKind::Query => write!(f, "{ATTENTION}.query"),
            SiteKind::Key => write!(f, "{ATTENTION}.key"),
            SiteKind::Value => write!(f, "{ATTENTION}.value"),
            SiteKind::Routing => write!(f, "{MLP}.routing"),
        }
    }
}
