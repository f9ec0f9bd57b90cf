//! Typed access to GGUF metadata, and which of them are known.

use std::collections::BTreeMap;
use std::path::Path;

use super::header::Meta;
use crate::ModelError;
use crate::config::Architecture;

/// The metadata under an architecture's prefix.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a BTreeMap<String, Meta>,
    pub(super) architecture: Architecture,
    pub(super) file: &'a Path,
}

/// Keys that the configuration is made of.
const READ: [&str; 16] = [
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "vocab_size",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "attention.scale",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
];

/// Keys that change nothing in these families: notes, and settings of what they do not have.
const IDLE: [&str; 9] = [
    "attention.layer_norm_epsilon",
    "pooling_type",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// Keys that change the function, with the values at which they do not.
const NEUTRAL: [(&str, &[f64]); 12] = [
    ("attention.sliding_window", &[0.0]),
    ("attention.max_alibi_bias", &[0.0]),
    ("attention.clamp_kqv", &[0.0]),
    ("attn_logit_softcapping", &[0.0]),
    ("final_logit_softcapping", &[0.0]),
    ("logit_scale", &[0.0, 1.0]),
    ("embedding_scale", &[0.0, 1.0]),
    ("residual_scale", &[0.0, 1.0]),
    ("rope.scaling.attn_factor", &[0.0, 1.0]),
    ("expert_count", &[0.0]),
    ("expert_used_count", &[0.0]),
    ("leading_dense_block_count", &[0.0]),
];

/// The order of rows in which every llama file is written.
const LAYOUT: &str = "Meta AI original pth";

impl Keys<'_> {
    pub(super) fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.model_type())
    }

    pub(super) fn get(&self, key: &str) -> Option<&Meta> {
        self.metadata.get(&self.full(key))
    }

    pub(super) fn error(&self, message: impl Into<String>, hint: &str) -> ModelError {
        ModelError::config(self.file, message, hint)
    }

    pub(super) fn size(&self, key: &str) -> Result<u64, ModelError> {
        let found = self.get(key);
        found.and_then(Meta::as_u64).ok_or_else(|| {
            let message = match found {
                None => format!("`{}` is missing", self.full(key)),
                Some(Meta::List(_)) => format!("`{}` differs between layers, which is not supported", self.full(key)),
                Some(_) => format!("`{}` is not a whole number", self.full(key)),
            };
            self.error(message, "")
        })
    }

    pub(super) fn size_or(&self, key: &str, default: u64) -> Result<u64, ModelError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    /// A number from 0 on. JSON has no NaN and no infinity, so they have to be refused here.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if number >= 0.0 && number.is_finite() => Ok(Some(number)),
            _ => Err(self.error(format!("`{}` is {value}, not a number from 0 on", self.full(key)), "")),
        }
    }

    /// As [`Keys::number`], above 0.
    pub(super) fn positive(&self, key: &str) -> Result<Option<f64>, ModelError> {
        match self.number(key)? {
            Some(0.0) => Err(self.error(format!("`{}` is 0, not a positive number", self.full(key)), "")),
            number => Ok(number),
        }
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let text = value.as_str();
        text.map(Some).ok_or_else(|| self.error(format!("`{}` is {value}, not a text", self.full(key)), ""))
    }

    /// Refuses what would change the function without the decoder knowing.
    pub(super) fn refuse_unknown(&self) -> Result<(), ModelError> {
        if let Some(kind) = self.metadata.get("general.type").filter(|kind| kind.as_str() != Some("model")) {
            return Err(self.error(format!("`general.type` is {kind}; only \"model\" is supported"), ""));
        }
        let prefix = self.full("");
        let own = self.metadata.iter().filter_map(|(key, value)| Some((key.strip_prefix(&prefix)?, value)));
        for (key, value) in own {
            if READ.contains(&key) || IDLE.contains(&key) {
                continue;
            }
            let neutral = match key {
                "attention.causal" => Some(*value == Meta::Bool(true)),
                "use_parallel_residual" => Some(*value == Meta::Bool(false)),
                "tensor_data_layout" => Some(value.as_str() == Some(LAYOUT)),
                _ => NEUTRAL
                    .iter()
                    .find(|(known, _)| *known == key)
                    .map(|(_, neutral)| value.as_f64().is_some_and(|value| neutral.contains(&value))),
            };
            match neutral {
                Some(true) => {}
                Some(false) => {
                    return Err(self.error(format!("`{}` is {value}, which is not supported", self.full(key)), ""));
                }
                None => {
                    let message = format!("`{}` ({value}) is not known and could change the function", self.full(key));
                    return Err(self.error(message, "use the model's safetensors folder"));
                }
            }
        }
        Ok(())
    }
}

/// A token id of `tokenizer.ggml` that has an embedding and a spelling.
pub(super) fn token(
    metadata: &BTreeMap<String, Meta>,
    key: &str,
    limit: usize,
    file: &Path,
) -> Result<Option<u32>, ModelError> {
    let Some(value) = metadata.get(&format!("tokenizer.ggml.{key}")) else { return Ok(None) };
    match value.as_u64() {
        Some(id) if id < limit as u64 => Ok(u32::try_from(id).ok()),
        _ => {
            let message = format!("`tokenizer.ggml.{key}` is {value}, but there are only {limit} tokens");
            Err(ModelError::config(file, message, "the file is damaged; fetch it again"))
        }
    }
}
