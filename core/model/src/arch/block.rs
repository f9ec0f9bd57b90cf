//! What a configuration means: the tensors and the linears of each block, of embeddings and head.

use std::collections::BTreeSet;

use super::names::{
    ATTENTION, ATTENTION_NORM, DOWN, EXPERTS, GATE, K, K_NORM, MLP, MLP_NORM, O, Q, Q_NORM, SINKS, UP, V,
};
use super::{EMBEDDINGS, FINAL_NORM, LM_HEAD, Site, SiteKind, block_name};
use crate::ModelConfig;
use crate::config::{Experts, Gating};

/// What a linear is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Makes queries.
    Query,
    /// Makes keys.
    Key,
    /// Makes values.
    Value,
    /// Ends attention.
    Output,
    /// Makes what gates the MLP's inner activation.
    Gate,
    /// Makes what is gated.
    Up,
    /// Ends the MLP.
    Down,
    /// Makes logits.
    Head,
    /// Weighs the experts; it is never quantized.
    Router,
}

/// One projection of the decoder: its module name (without `.weight`), shape and the site that it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearInfo {
    /// For example `model.layers.3.mlp.down_proj`.
    pub name: String,
    pub role: Role,
    pub out_features: usize,
    pub in_features: usize,
    pub site: Site,
    /// Whether it adds a bias `[out_features]`.
    pub bias: bool,
}

/// An RMSNorm of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NormInfo {
    /// Module name, without `.weight`.
    pub name: String,
    pub size: usize,
    /// Whether it norms hidden states, and not heads.
    pub of_hidden: bool,
}

/// One tensor that a model of a given configuration consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// Hugging Face name, for example `model.layers.3.mlp.down_proj.weight`.
    pub name: String,
    /// Row-major shape; a linear's weight is `[out_features, in_features]`.
    pub shape: Vec<usize>,
    /// The axis along which the channels of the hidden states lie, for those that have one.
    pub hidden_axis: Option<usize>,
    /// What a model begins with that nobody has trained yet.
    pub initial: Initial,
}

/// How a tensor is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Initial {
    /// Normal deviates around zero.
    Normal,
    Zeros,
    Ones,
}

/// One decoder block.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockLayout {
    pub index: usize,
    /// For example `model.layers.3`.
    pub name: String,
    /// Before attention.
    pub attention_norm: NormInfo,
    /// Before the MLP.
    pub mlp_norm: NormInfo,
    /// Of queries and of keys per head.
    pub head_norms: Option<[NormInfo; 2]>,
    /// A score for each query head, where attention has sinks: the name of the tensor `[heads]`, and the heads.
    pub sinks: Option<(String, usize)>,
    /// How many keys a query sees at most.
    pub window: Option<usize>,
    /// How the gates of the MLP, or of its experts, act.
    pub gating: Gating,
    /// Whether an online rotation stands in front of `down_proj`.
    pub rotates_down: bool,
    /// The router of a mixture of experts. Its experts' linears are among `linears`, expert by expert.
    pub router: Option<LinearInfo>,
    /// In the order in which the forward pass meets them.
    pub linears: Vec<LinearInfo>,
}

impl Role {
    /// Whether its input is the normed hidden states.
    pub fn reads_hidden(self) -> bool {
        matches!(self, Self::Query | Self::Key | Self::Value | Self::Gate | Self::Up | Self::Head | Self::Router)
    }

    /// Whether its output is added to the hidden states.
    pub fn writes_hidden(self) -> bool {
        matches!(self, Self::Output | Self::Down)
    }
}

impl LinearInfo {
    /// The name of its weight, unless that is shared (see [`ModelConfig::weight_of`]).
    pub fn weight(&self) -> String {
        format!("{}.weight", self.name)
    }

    /// The name of its bias, where it has one.
    pub fn bias(&self) -> Option<String> {
        self.bias.then(|| format!("{}.bias", self.name))
    }

    /// Its weight, and its bias if it has one.
    pub fn tensors(&self) -> impl Iterator<Item = TensorSpec> {
        let axis = if self.role.reads_hidden() { Some(1) } else { self.role.writes_hidden().then_some(0) };
        let weight = TensorSpec {
            name: self.weight(),
            shape: vec![self.out_features, self.in_features],
            hidden_axis: axis,
            initial: Initial::Normal,
        };
        let bias = self.bias().map(|name| TensorSpec {
            name,
            shape: vec![self.out_features],
            hidden_axis: axis.filter(|axis| *axis == 0),
            initial: Initial::Zeros,
        });
        [weight].into_iter().chain(bias)
    }
}

impl NormInfo {
    fn tensor(&self) -> TensorSpec {
        TensorSpec {
            name: format!("{}.weight", self.name),
            shape: vec![self.size],
            hidden_axis: self.of_hidden.then_some(0),
            initial: Initial::Ones,
        }
    }
}

impl BlockLayout {
    /// The first linear of a role.
    pub fn linear(&self, role: Role) -> Option<&LinearInfo> {
        self.linears.iter().find(|linear| linear.role == role)
    }

    /// Every tensor of the block, norms first.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let sinks = self.sinks.iter().map(|(name, heads)| TensorSpec {
            name: name.clone(),
            shape: vec![*heads],
            hidden_axis: None,
            initial: Initial::Zeros,
        });
        let linears = self.linears.iter().chain(&self.router).flat_map(LinearInfo::tensors);
        self.norms().chain(sinks).chain(linears).collect()
    }

    /// The gains of its norms.
    pub fn norms(&self) -> impl Iterator<Item = TensorSpec> + '_ {
        let norms = [&self.attention_norm, &self.mlp_norm].into_iter().chain(self.head_norms.iter().flatten());
        norms.map(NormInfo::tensor)
    }
}

impl ModelConfig {
    /// Every tensor that the decoder needs, in the order embeddings, blocks, final norm, head. With tied embeddings
    /// there is no `lm_head.weight`.
    pub fn tensors(&self) -> Vec<TensorSpec> {
        let matrix = [self.vocab_size, self.hidden_size];
        let end = |module: &str, shape: &[usize]| TensorSpec {
            name: format!("{module}.weight"),
            shape: shape.to_vec(),
            hidden_axis: Some(shape.len() - 1),
            initial: if shape.len() == 2 { Initial::Normal } else { Initial::Ones },
        };
        let mut tensors = vec![end(EMBEDDINGS, &matrix)];
        tensors.extend(self.blocks().flat_map(|block| block.tensors()));
        tensors.push(end(FINAL_NORM, &matrix[1..]));
        if !self.tie_word_embeddings {
            tensors.push(end(LM_HEAD, &matrix));
        }
        tensors
    }

    /// The decoder blocks in order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockLayout> {
        (0..self.num_layers).map(|index| self.block(index))
    }

    /// One decoder block.
    pub fn block(&self, index: usize) -> BlockLayout {
        let name = block_name(index);
        let norm = |part: &str| NormInfo { name: format!("{name}.{part}"), size: self.hidden_size, of_hidden: true };
        let head_norm =
            |part: &str| NormInfo { name: format!("{name}.{ATTENTION}.{part}"), size: self.head_dim, of_hidden: false };
        BlockLayout {
            index,
            attention_norm: norm(ATTENTION_NORM),
            mlp_norm: norm(MLP_NORM),
            head_norms: self.qk_norm.then(|| [head_norm(Q_NORM), head_norm(K_NORM)]),
            sinks: self.attention_sinks.then(|| (format!("{name}.{ATTENTION}.{SINKS}"), self.num_heads)),
            window: self.sliding_window(index),
            rotates_down: self.online.down.is_some(),
            gating: self.experts_of(index).map_or(Gating::Silu, |experts| experts.gating),
            router: self.experts_of(index).map(|experts| self.router(index, &name, experts)),
            linears: match self.experts_of(index) {
                None => {
                    self.attention_linears(index, &name).into_iter().chain(self.mlp_linears(index, &name)).collect()
                }
                Some(experts) => {
                    let each = (0..experts.count).flat_map(|expert| self.expert_linears(index, &name, experts, expert));
                    self.attention_linears(index, &name).into_iter().chain(each).collect()
                }
            },
            name,
        }
    }

    fn attention_linears(&self, index: usize, block: &str) -> [LinearInfo; 4] {
        let (hidden, q, kv) = (self.hidden_size, self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim);
        [
            (Role::Query, Q, q, hidden, SiteKind::AttentionInput, self.qkv_bias),
            (Role::Key, K, kv, hidden, SiteKind::AttentionInput, self.qkv_bias),
            (Role::Value, V, kv, hidden, SiteKind::AttentionInput, self.qkv_bias),
            (Role::Output, O, hidden, q, SiteKind::OutputInput, self.output_bias),
        ]
        .map(|(role, part, out_features, in_features, kind, bias)| LinearInfo {
            name: format!("{block}.{ATTENTION}.{part}"),
            role,
            out_features,
            in_features,
            site: Site::in_block(index, kind),
            bias,
        })
    }

    fn mlp_linears(&self, index: usize, block: &str) -> [LinearInfo; 3] {
        let (hidden, inner) = (self.hidden_size, self.intermediate_size);
        [
            (Role::Gate, GATE, inner, hidden, SiteKind::MlpInput),
            (Role::Up, UP, inner, hidden, SiteKind::MlpInput),
            (Role::Down, DOWN, hidden, inner, SiteKind::DownInput),
        ]
        .map(|(role, part, out_features, in_features, kind)| LinearInfo {
            name: format!("{block}.{MLP}.{part}"),
            role,
            out_features,
            in_features,
            site: Site::in_block(index, kind),
            bias: self.mlp_bias,
        })
    }

    fn expert_linears(&self, index: usize, block: &str, experts: &Experts, expert: usize) -> [LinearInfo; 3] {
        let (hidden, inner) = (self.hidden_size, experts.intermediate_size);
        [
            (Role::Gate, GATE, inner, hidden, SiteKind::MlpInput),
            (Role::Up, UP, inner, hidden, SiteKind::MlpInput),
            (Role::Down, DOWN, hidden, inner, SiteKind::DownInput),
        ]
        .map(|(role, part, out_features, in_features, kind)| LinearInfo {
            name: format!("{block}.{MLP}.{EXPERTS}.{expert}.{part}"),
            role,
            out_features,
            in_features,
            site: Site::in_expert(index, expert, kind),
            bias: experts.bias,
        })
    }

    fn router(&self, index: usize, block: &str, experts: &Experts) -> LinearInfo {
        LinearInfo {
            name: format!("{block}.{MLP}.{}", self.architecture.family().router),
            role: Role::Router,
            out_features: experts.count,
            in_features: self.hidden_size,
            site: Site::in_block(index, SiteKind::MlpInput),
            bias: experts.bias,
        }
    }

    /// `lm_head`, tied or not.
    pub fn head(&self) -> LinearInfo {
        LinearInfo {
            name: LM_HEAD.into(),
            role: Role::Head,
            out_features: self.vocab_size,
            in_features: self.hidden_size,
            site: Site::head(),
            bias: false,
        }
    }

    /// Name of the weight of a module of this model: that of a tied `lm_head` is the table of the embeddings.
    pub fn weight_of(&self, module: &str) -> String {
        let owner = if module == LM_HEAD && self.tie_word_embeddings { EMBEDDINGS } else { module };
        format!("{owner}.weight")
    }

    /// The linears of the decoder blocks, in the order in which the forward pass meets them.
    pub fn linears(&self) -> Vec<LinearInfo> {
        self.blocks().flat_map(|block| block.linears).collect()
    }

    /// How many features `down_proj` reads: a dense block and an expert can differ.
    pub fn down_features(&self) -> BTreeSet<usize> {
        let down = |linear: &LinearInfo| linear.role == Role::Down;
        self.blocks()
            .flat_map(|block| block.linears.into_iter().filter(down).map(|linear| linear.in_features))
            .collect()
    }

    /// The sites of a block at which linears read or a cache stores, in the order of the forward pass, with their features; keys
    /// and values of all heads make a row.
    pub fn sites(&self, index: usize) -> Vec<(Site, usize)> {
        let mut sites: Vec<(Site, usize)> = Vec::new();
        let BlockLayout { linears, router, .. } = self.block(index);
        let (attention, mlp) = linears.split_at(linears.iter().take_while(|linear| linear.site.is_attention()).count());
        for linear in attention.iter().chain(&router).chain(mlp) {
            if sites.last().is_none_or(|(last, _)| *last != linear.site) {
                sites.push((linear.site, linear.in_features));
            }
            if linear.role == Role::Value {
                let cached = linear.out_features;
                sites.extend([SiteKind::Key, SiteKind::Value].map(|kind| (Site::in_block(index, kind), cached)));
            }
        }
        sites
    }
}
