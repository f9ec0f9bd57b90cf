//! Names of modules, as checkpoints of all these families spell them.

use crate::ModelConfig;

/// The module that turns tokens into hidden states: a table `[vocabulary, hidden]` whose rows are looked up.
pub const EMBEDDINGS: &str = "model.embed_tokens";

/// The linear that turns the last hidden states into logits. With tied embeddings its weight is their table.
pub const LM_HEAD: &str = "lm_head";

/// The norm behind the last block.
pub const FINAL_NORM: &str = "model.norm";

/// The end of the name of a tensor that follows from the configuration, and that old exports store nevertheless.
pub(crate) const FREQUENCIES: &str = ".rotary_emb.inv_freq";

/// A selector for examples in messages.
pub const EXAMPLE_SELECTOR: &str = "*.down_proj";

/// The last parts of the names of linears that servers run as one matrix: q, k and v; gate and up.
pub const FUSED_STACKS: [&[&str]; 2] = [&[Q, K, V], &[GATE, UP]];

/// What stands before the index of a block.
const BLOCKS: &str = "model.layers.";

pub(super) const ATTENTION: &str = "self_attn";
pub(super) const MLP: &str = "mlp";
pub(super) const EXPERTS: &str = "experts";
/// The linears of all experts, as a target of a `quantization_config`.
pub(crate) const EVERY_EXPERT: &str = r"re:.*\.experts\..*";
pub(super) const SINKS: &str = "sinks";
pub(super) const ATTENTION_NORM: &str = "input_layernorm";
pub(super) const MLP_NORM: &str = "post_attention_layernorm";
pub(super) const Q_NORM: &str = "q_norm";
pub(super) const K_NORM: &str = "k_norm";
pub(super) const Q: &str = "q_proj";
pub(super) const K: &str = "k_proj";
pub(super) const V: &str = "v_proj";
pub(super) const O: &str = "o_proj";
pub(super) const GATE: &str = "gate_proj";
pub(super) const UP: &str = "up_proj";
pub(super) const DOWN: &str = "down_proj";

/// The last part of a module's name where a message or another format names it without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModuleName {
    /// The attention of a block.
    Attention,
    /// The linear that ends an MLP.
    Down,
    /// The embeddings.
    Embeddings,
}

impl ModuleName {
    /// How it is spelled.
    pub fn spelled(self) -> &'static str {
        match self {
            Self::Attention => ATTENTION,
            Self::Down => DOWN,
            Self::Embeddings => "embed_tokens",
        }
    }
}

/// The name of a block, in front of those of its modules.
pub fn block_name(index: usize) -> String {
    format!("{BLOCKS}{index}")
}

/// The block that a module or a tensor belongs to; `None` for those outside of the blocks.
pub fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix(BLOCKS)?.split('.').next()?.parse().ok()
}

/// The name of the attention of a block, which is no linear and can be meant by a rotation.
pub fn attention_name(index: usize) -> String {
    format!("{BLOCKS}{index}.{ATTENTION}")
}

/// Whether a module belongs to an expert.
pub(crate) fn is_of_expert(module: &str) -> bool {
    module.split('.').any(|part| part == EXPERTS)
}

/// The modules that stay as they are where the experts of a model are MXFP4 codes, as `modules_to_not_convert` lists them.
pub(crate) fn uncoded_modules(config: &ModelConfig) -> [String; 4] {
    let router = config.architecture.family().router;
    [format!("{BLOCKS}*.{ATTENTION}"), format!("{BLOCKS}*.{MLP}.{router}"), EMBEDDINGS.into(), LM_HEAD.into()]
}

/// The name of the site that a module alone reads.
pub fn input_site(module: &str) -> String {
    format!("{module}.input")
}

/// The stored name of a block's scale of keys (`k`) or values (`v`).
pub(crate) fn kv_scale_name(block: usize, part: &str) -> String {
    format!("{}.{part}_scale", attention_name(block))
}

/// The stored name of a block's zero-point of keys or values.
pub(crate) fn kv_zero_point_name(block: usize, part: &str) -> String {
    format!("{}.{part}_zero_point", attention_name(block))
}
