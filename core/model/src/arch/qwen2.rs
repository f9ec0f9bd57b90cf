//! Qwen2 and Qwen2.5: biases on q, k and v, whatever the configuration says.

use super::Family;

pub(super) const FAMILY: Family = Family {
    class_name: "Qwen2ForCausalLM",
    model_type: "qwen2",
    head_dim: None,
    read: |keys, config| {
        // Nothing hangs on it, but what is no flag is damage.
        keys.flag("attention_bias", false)?;
        config.qkv_bias = true;
        Ok(())
    },
    rms_norm_eps: 1e-6,
    rope_theta: 10_000.0,
    has_windows: false,
    router: "",
    stacking: None,
    gguf_interleaves: false,
    bias_keys: &[],
};
