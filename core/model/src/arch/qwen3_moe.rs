//! Qwen3-MoE: Qwen3's attention; in most blocks a mixture of experts in place of the MLP.

use super::family::Stacking;
use super::{Family, Role};
use crate::config::{Experts, Gating, Keys, Routing};
use crate::{ModelConfig, ModelError};

pub(super) const FAMILY: Family = Family {
    class_name: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
    head_dim: None,
    read,
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    has_windows: false,
    router: "gate",
    // As transformers 5 holds them in memory; it writes them apart.
    stacking: Some(Stacking { transposed: false, interleaved: false, is_written: false }),
    gguf_interleaves: false,
    bias_keys: &[("attention_bias", Role::Query)],
};

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    config.qkv_bias = keys.flag("attention_bias", false)?;
    config.output_bias = config.qkv_bias;
    config.qk_norm = true;
    keys.agree("num_experts", "num_local_experts")?;
    let count = keys.size(if keys.get("num_experts").is_some() { "num_experts" } else { "num_local_experts" })?;
    let dense = keys.indices("mlp_only_layers", config.num_layers)?;
    let step = keys.size_or("decoder_sparse_step", 1)?;
    config.experts = Some(Experts {
        count,
        per_token: keys.experts_per_token(count)?,
        intermediate_size: keys.size("moe_intermediate_size")?,
        routing: Routing::SoftmaxTopK { renormalize: keys.flag("norm_topk_prob", false)? },
        gating: Gating::Silu,
        bias: false,
        dense_blocks: (0..config.num_layers)
            .filter(|block| dense.contains(block) || !(block + 1).is_multiple_of(step))
            .collect(),
    });
    Ok(())
}
