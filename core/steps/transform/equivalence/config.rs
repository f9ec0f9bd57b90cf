//! What of a config.json a transform may change.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::{Error, Result};

/// Keys that tensors of other shapes need, or that say what is done to activations while the model runs: the logits of a few
/// tokens prove them. All others decide what few tokens do not show (positions, windows, special tokens, dtypes), or nothing that
/// a transform knows about.
const MAY_CHANGE: &[&str] = &[
    "tie_word_embeddings",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "mlp_bias",
];

/// The key under which online rotations are stored, and the keys of it that a transform writes: the others are a quantizer's.
const QUANTIZATION: &str = "quantization_config";
const OF_TRANSFORMS: &[&str] = &["quant_method", "transform_config"];

/// Compares the configuration that a transform leaves with the one that it was given.
///
/// # Errors
/// A key was added, removed or changed that is none of a transform's.
pub(super) fn check(original: &Value, made: &Value, method: &str) -> Result<()> {
    let changed = changed(original, made, "");
    let foreign = changed.iter().find(|key| !MAY_CHANGE.contains(&key.as_str()) && *key != QUANTIZATION);
    let inner = changed.iter().any(|key| key == QUANTIZATION).then(|| {
        let prefix = format!("{QUANTIZATION}.");
        let changed = self::changed(&original[QUANTIZATION], &made[QUANTIZATION], &prefix);
        changed.into_iter().find(|key| !OF_TRANSFORMS.iter().any(|known| key == &format!("{prefix}{known}")))
    });
    let Some(key) = foreign.cloned().or(inner.flatten()) else { return Ok(()) };
    let at = |config: &Value| {
        let found = key.split('.').try_fold(config, |config, part| config.get(part));
        found.map_or_else(|| "absent".to_owned(), Value::to_string)
    };
    let message = format!(
        "`{method}` changed `{key}` of config.json from {} to {}, and no comparison of logits proves that the function stays",
        at(original),
        at(made)
    );
    Err(Error::refused(message)
        .hint(format!("a transform may change {}, and `{QUANTIZATION}.transform_config`", MAY_CHANGE.join(", "))))
}

/// The keys of two objects whose values differ, each behind a prefix.
fn changed(original: &Value, made: &Value, prefix: &str) -> BTreeSet<String> {
    let keys = |value: &Value| value.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let all: BTreeSet<String> = keys(original).into_iter().chain(keys(made)).collect();
    all.into_iter().filter(|key| original.get(key) != made.get(key)).map(|key| format!("{prefix}{key}")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_few_tokens_do_not_show_stays() {
        let original = json!({
            "max_position_embeddings": 256, "rope_theta": 1e4, "rope_scaling": null, "tie_word_embeddings": true,
            "eos_token_id": 3, "sliding_window": null, "intermediate_size": 64,
            "rope_parameters": { "rope_type": "default", "rope_theta": 1e4 },
        });
        for (key, value) in [
            ("max_position_embeddings", json!(4)),
            ("rope_theta", json!(5e5)),
            ("rope_scaling", json!({ "rope_type": "yarn", "factor": 4.0 })),
            ("rope_parameters", json!({ "rope_type": "yarn", "rope_theta": 1e4 })),
            ("eos_token_id", json!(7)),
            ("sliding_window", json!(16)),
            ("rms_norm_eps", json!(1e-5)),
            ("model_type", json!("llama")),
            ("torch_dtype", json!("float16")),
            ("quantization_config", json!({ "quant_method": "compressed-tensors", "kv_cache_scheme": {} })),
        ] {
            let mut made = original.clone();
            made[key] = value;
            let error = check(&original, &made, "m").unwrap_err();
            assert!(error.message.starts_with(&format!("`m` changed `{key}")), "{}", error.message);
        }
        let mut without = original.clone();
        without.as_object_mut().unwrap().shift_remove("sliding_window");
        assert!(check(&original, &without, "m").unwrap_err().message.contains("from null to absent"));
        let error = check(&original, &json!({ "max_position_embeddings": 4 }), "m").unwrap_err();
        assert!(error.message.contains("`eos_token_id`"), "the first key in order: {}", error.message);
    }

    #[test]
    fn what_logits_prove_may_change() {
        let original = json!({ "tie_word_embeddings": true, "intermediate_size": 64, "vocab_size": 9 });
        let rotated = json!({
            "tie_word_embeddings": false, "intermediate_size": 96, "vocab_size": 9, "mlp_bias": true,
            "quantization_config": { "quant_method": "compressed-tensors", "transform_config": { "config_groups": {} } },
        });
        check(&original, &rotated, "m").unwrap();
        check(&original, &original, "m").unwrap();
    }
}
