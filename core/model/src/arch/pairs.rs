//! Pairs of layers between which a scale can move: what one is divided by, the others are multiplied by.

use super::{BlockLayout, LinearInfo, Role, Site};
use crate::config::Gating;

/// The kinds of pairs in a decoder block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PairKind {
    /// The norm before attention, read by q, k and v.
    NormToQkv,
    /// Values, read by o through attention, which mixes tokens but not channels.
    ValueToOutput,
    /// The norm before the MLP, read by gate and up.
    NormToGateUp,
    /// up, read by down; the gate between them is a factor per channel.
    UpToDown,
}

impl PairKind {
    /// The name that scripts use.
    pub fn name(self) -> &'static str {
        match self {
            Self::NormToQkv => "norm->qkv",
            Self::ValueToOutput => "v->o",
            Self::NormToGateUp => "norm->gate_up",
            Self::UpToDown => "up->down",
        }
    }
}

/// One pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub kind: PairKind,
    /// The block that it is in.
    pub block: usize,
    /// The module that is divided: a norm or a linear.
    pub source: String,
    /// The linears that read what is divided.
    pub readers: Vec<String>,
    /// The site of the readers' input.
    pub site: Site,
}

impl BlockLayout {
    /// The pairs of the block, in the order in which a forward pass meets them.
    pub fn pairs(&self) -> Vec<Pair> {
        let mut pairs = Vec::new();
        let pair = |kind, source: &str, readers: &dyn Fn(&&LinearInfo) -> bool| {
            let readers: Vec<&LinearInfo> = self.linears.iter().filter(readers).collect();
            readers.first().map(|first| Pair {
                kind,
                block: self.index,
                source: source.to_owned(),
                site: first.site,
                readers: readers.iter().map(|linear| linear.name.clone()).collect(),
            })
        };
        let named = |role| self.linears.iter().filter(move |linear| linear.role == role);
        let attention = |linear: &&LinearInfo| matches!(linear.role, Role::Query | Role::Key | Role::Value);
        pairs.extend(pair(PairKind::NormToQkv, &self.attention_norm.name, &attention));
        for value in named(Role::Value) {
            pairs.extend(pair(PairKind::ValueToOutput, &value.name, &|linear| linear.role == Role::Output));
        }
        // A router reads what the experts read.
        let gated = self.linears.iter().filter(|linear| matches!(linear.role, Role::Gate | Role::Up));
        let readers: Vec<&LinearInfo> = gated.chain(&self.router).collect();
        pairs.extend(readers.last().map(|last| Pair {
            kind: PairKind::NormToGateUp,
            block: self.index,
            source: self.mlp_norm.name.clone(),
            // Of all tokens, also where each expert sees its own.
            site: last.site,
            readers: readers.iter().map(|linear| linear.name.clone()).collect(),
        }));
        // Only what is linear in up can be scaled through the gate, and nothing through a rotation.
        for up in named(Role::Up).filter(|_| self.gating == Gating::Silu && !self.rotates_down) {
            let own = |linear: &&LinearInfo| linear.role == Role::Down && linear.site.expert == up.site.expert;
            pairs.extend(pair(PairKind::UpToDown, &up.name, &own));
        }
        pairs
    }
}
