//! Qwen3: an RMSNorm on queries and keys per head.

use super::{Family, Role};

pub(super) const FAMILY: Family = Family {
    class_name: "Qwen3ForCausalLM",
    model_type: "qwen3",
    // The default of the configuration class, independent of the hidden size.
    head_dim: Some(128),
    read: |keys, config| {
        config.qkv_bias = keys.flag("attention_bias", false)?;
        config.output_bias = config.qkv_bias;
        config.qk_norm = true;
        Ok(())
    },
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    has_windows: false,
    router: "",
    stacking: None,
    gguf_interleaves: false,
    bias_keys: &[("attention_bias", Role::Query)],
};
