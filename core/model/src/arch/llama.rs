//! Llama 2 and 3, SmolLM2, llama2.c.

use super::{Family, Role};

pub(super) const FAMILY: Family = Family {
    class_name: "LlamaForCausalLM",
    model_type: "llama",
    head_dim: None,
    read: |keys, config| {
        config.qkv_bias = keys.flag("attention_bias", false)?;
        config.output_bias = config.qkv_bias;
        config.mlp_bias = keys.flag("mlp_bias", false)?;
        Ok(())
    },
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    has_windows: false,
    router: "",
    stacking: None,
    // llama.cpp rotates neighbouring pairs where Hugging Face rotates the halves of a head.
    gguf_interleaves: true,
    bias_keys: &[("attention_bias", Role::Query), ("mlp_bias", Role::Up)],
};
