//! gpt-oss: attention with sinks, in every second block through a sliding window; experts with biases and a clamped gate.

use super::Family;
use super::family::Stacking;
use crate::config::{Experts, Gating, Keys, RopeScaling, Routing};
use crate::{ModelConfig, ModelError};

pub(super) const FAMILY: Family = Family {
    class_name: "GptOssForCausalLM",
    model_type: "gpt_oss",
    head_dim: Some(64),
    read,
    rms_norm_eps: 1e-5,
    rope_theta: 150_000.0,
    has_windows: true,
    router: "router",
    stacking: Some(Stacking { transposed: true, interleaved: true, is_written: true }),
    gguf_interleaves: false,
    bias_keys: &[],
};

/// The slope of the gate and the limit of the clamps, which the published models share and transformers has as constants.
const ALPHA: f64 = 1.702;
const LIMIT: f64 = 7.0;

fn read(keys: &Keys<'_>, config: &mut ModelConfig) -> Result<(), ModelError> {
    config.qkv_bias = keys.flag("attention_bias", true)?;
    config.output_bias = config.qkv_bias;
    config.attention_sinks = true;
    config.sliding_windows = windows(keys, config.num_layers)?;
    for (key, known) in [("swiglu_limit", LIMIT), ("swiglu_alpha", ALPHA)] {
        if let Some(value) = keys.get(key).filter(|value| value.as_f64() != Some(known)) {
            return Err(keys.error(format!("`{key}` is {value}; only {known} is supported"), ""));
        }
    }
    // The configuration class stretches by 32 where a file says nothing.
    if config.rope_scaling == RopeScaling::None && keys.get("rope_scaling").or(keys.get("rope_parameters")).is_none() {
        return Err(
            keys.error("neither `rope_scaling` nor `rope_parameters` is there", "the published models use yarn")
        );
    }
    keys.agree("num_experts_per_tok", "experts_per_token")?;
    let count = keys.size("num_local_experts")?;
    config.experts = Some(Experts {
        count,
        per_token: keys.experts_per_token(count)?,
        intermediate_size: config.intermediate_size,
        routing: Routing::TopKSoftmax,
        gating: Gating::Clamped { alpha: ALPHA as f32, limit: LIMIT as f32 },
        bias: true,
        dense_blocks: Vec::new(),
    });
    Ok(())
}

/// What `layer_types` says; without it every second block has a window, the first one does.
fn windows(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<usize>>, ModelError> {
    let window = keys.size_or("sliding_window", 128)?;
    let Some(kinds) = keys.get("layer_types") else {
        return Ok((0..layers).map(|block| block.is_multiple_of(2).then_some(window)).collect());
    };
    let kinds = kinds.as_array().filter(|kinds| kinds.len() == layers).ok_or_else(|| {
        keys.error(format!("`layer_types` is no list of {layers} kinds of attention"), "there is one for each layer")
    })?;
    let window_of = |kind: &serde_json::Value| match kind.as_str() {
        Some("sliding_attention") => Ok(Some(window)),
        Some("full_attention") => Ok(None),
        _ => Err(keys.error(format!("`layer_types` holds {kind}"), "known are sliding_attention and full_attention")),
    };
    kinds.iter().map(window_of).collect()
}
