//! How llama.cpp names the tensors of these families.

use super::{Architecture, BlockLayout, EMBEDDINGS, FINAL_NORM, LM_HEAD, Role, TensorSpec};
use crate::ModelConfig;

/// The families whose files are read: those without experts.
pub(crate) fn architectures() -> impl Iterator<Item = Architecture> {
    Architecture::ALL.into_iter().filter(|architecture| architecture.family().router.is_empty())
}

/// The table of the embeddings.
pub(crate) const TABLE: &str = "token_embd.weight";

/// The head; a file without it has tied embeddings.
pub(crate) const HEAD: &str = "output.weight";

/// A tensor of the model as a file stores it.
pub(crate) struct GgufSpec {
    pub(crate) spec: TensorSpec,
    /// Its name in the file.
    pub(crate) name: String,
    /// The heads within which its rows are interleaved, for the q and k of some families.
    pub(crate) interleaved_heads: Option<usize>,
}

/// Every tensor of a model.
pub(crate) fn tensors(config: &ModelConfig) -> Vec<GgufSpec> {
    let blocks: Vec<BlockLayout> = config.blocks().collect();
    config.tensors().into_iter().filter_map(|spec| gguf_spec(config, &blocks, spec)).collect()
}

fn gguf_spec(config: &ModelConfig, blocks: &[BlockLayout], spec: TensorSpec) -> Option<GgufSpec> {
    let (module, kind) = spec.name.rsplit_once('.')?;
    let end = [(EMBEDDINGS, "token_embd"), (FINAL_NORM, "output_norm"), (LM_HEAD, "output")];
    if let Some((_, name)) = end.into_iter().find(|(end, _)| *end == module) {
        return Some(GgufSpec { name: format!("{name}.{kind}"), spec, interleaved_heads: None });
    }
    let block = blocks.get(super::block_of(module)?)?;
    let norms = [(&block.attention_norm, "attn_norm"), (&block.mlp_norm, "ffn_norm")].into_iter();
    let head_norms = block.head_norms.iter().flat_map(|[q, k]| [(q, "attn_q_norm"), (k, "attn_k_norm")]);
    let norm = norms.chain(head_norms).find(|(norm, _)| norm.name == module).map(|(_, name)| name);
    let linear = block.linears.iter().find(|linear| linear.name == module);
    let part = norm.or_else(|| part(linear?.role))?;
    let heads = match linear.map(|linear| linear.role) {
        Some(Role::Query) => Some(config.num_heads),
        Some(Role::Key) => Some(config.num_kv_heads),
        _ => None,
    };
    let interleaved_heads = heads.filter(|_| config.architecture.family().gguf_interleaves);
    Some(GgufSpec { name: format!("blk.{}.{part}.{kind}", block.index), spec, interleaved_heads })
}

fn part(role: Role) -> Option<&'static str> {
    Some(match role {
        Role::Query => "attn_q",
        Role::Key => "attn_k",
        Role::Value => "attn_v",
        Role::Output => "attn_output",
        Role::Gate => "ffn_gate",
        Role::Up => "ffn_up",
        Role::Down => "ffn_down",
        Role::Head | Role::Router => return None,
    })
}

/// The keys of `config.json` that say which linears have a bias, by whether a file has it in its first block.
pub(crate) fn bias_flags(architecture: Architecture, has: impl Fn(&str) -> bool) -> Vec<(&'static str, bool)> {
    let flag = |(key, role): &(&'static str, Role)| Some((*key, has(&format!("blk.0.{}.bias", part(*role)?))));
    architecture.family().bias_keys.iter().filter_map(flag).collect()
}
