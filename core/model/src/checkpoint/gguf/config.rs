//! A Hugging Face `config.json` from GGUF metadata.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::header::{Header, Meta};
use crate::ModelError;
use crate::config::Architecture;

/// Reads the metadata under the architecture's prefix.
struct Keys<'a> {
    metadata: &'a BTreeMap<String, Meta>,
    architecture: Architecture,
    file: &'a Path,
}

/// Builds the configuration; `ModelConfig::from_json` then checks it like any other.
pub(crate) fn config_json(header: &Header, file: &Path) -> Result<Value, ModelError> {
    let name = header.metadata.get("general.architecture").and_then(Meta::as_str);
    let known = Architecture::ALL.map(Architecture::model_type).join(", ");
    let Some(architecture) = Architecture::ALL.into_iter().find(|known| Some(known.model_type()) == name) else {
        let message = format!(
            "`general.architecture` is {}",
            name.map_or("missing".into(), |name| format!("the unknown `{name}`"))
        );
        return Err(ModelError::config(file, message, format!("known are {known}")));
    };
    let keys = Keys { metadata: &header.metadata, architecture, file };
    let has = |tensor: &str| header.tensors.iter().any(|info| info.name == tensor);
    let embedding = header.tensors.iter().find(|info| info.name == "token_embd.weight");
    let vocab_size = match embedding.map(|info| &info.shape[..]) {
        Some([rows, _]) => *rows as u64,
        _ => return Err(ModelError::tensor(file, "token_embd.weight", "is missing or not a matrix", "")),
    };
    let heads = keys.size("attention.head_count")?;
    let hidden = keys.size("embedding_length")?;
    let head_dim = keys.get("attention.key_length").and_then(Meta::as_u64).or_else(|| hidden.checked_div(heads));
    keys.check_rotary(head_dim)?;

    let mut config = Map::new();
    let mut set = |key: &str, value: Value| drop(config.insert(key.into(), value));
    set("architectures", json!([architecture.class_name()]));
    set("model_type", json!(architecture.model_type()));
    set("vocab_size", json!(vocab_size));
    set("hidden_size", json!(hidden));
    set("intermediate_size", json!(keys.size("feed_forward_length")?));
    set("num_hidden_layers", json!(keys.size("block_count")?));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(keys.size_or("attention.head_count_kv", heads)?));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(keys.size("context_length")?));
    set("rms_norm_eps", json!(keys.number("attention.layer_norm_rms_epsilon", 1e-6)?));
    set("rope_theta", json!(keys.number("rope.freq_base", 10_000.0)?));
    set("rope_scaling", keys.rope_scaling(header)?);
    set("hidden_act", json!("silu"));
    set("attention_bias", json!(architecture != Architecture::Qwen2 && has("blk.0.attn_q.bias")));
    if architecture == Architecture::Llama {
        set("mlp_bias", json!(has("blk.0.ffn_up.bias")));
    }
    set("tie_word_embeddings", json!(!has("output.weight")));
    set("bos_token_id", keys.token("bos_token_id"));
    set("eos_token_id", keys.token("eos_token_id"));
    set("torch_dtype", json!("float32"));
    Ok(Value::Object(config))
}

impl Keys<'_> {
    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture.model_type())
    }

    fn get(&self, key: &str) -> Option<&Meta> {
        self.metadata.get(&self.full(key))
    }

    fn size(&self, key: &str) -> Result<u64, ModelError> {
        let found = self.get(key);
        found.and_then(Meta::as_u64).ok_or_else(|| {
            let message = match found {
                None => format!("`{}` is missing", self.full(key)),
                Some(Meta::List(_)) => format!("`{}` differs between layers, which is not supported", self.full(key)),
                Some(_) => format!("`{}` is not a whole number", self.full(key)),
            };
            ModelError::config(self.file, message, "")
        })
    }

    fn size_or(&self, key: &str, default: u64) -> Result<u64, ModelError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .ok_or_else(|| ModelError::config(self.file, format!("`{}` is not a number", self.full(key)), "")),
        }
    }

    fn token(&self, key: &str) -> Value {
        json!(self.metadata.get(&format!("tokenizer.ggml.{key}")).and_then(Meta::as_u64))
    }

    fn check_rotary(&self, head_dim: Option<u64>) -> Result<(), ModelError> {
        let rotary = self.get("rope.dimension_count").and_then(Meta::as_u64);
        let value = self.get("attention.value_length").and_then(Meta::as_u64);
        for (key, found) in [("rope.dimension_count", rotary), ("attention.value_length", value)] {
            if let (Some(found), Some(head_dim)) = (found, head_dim)
                && found != head_dim
            {
                let message = format!("`{}` is {found}, but a head has {head_dim} dimensions", self.full(key));
                return Err(ModelError::config(self.file, message, "partial rotary embedding is not supported"));
            }
        }
        Ok(())
    }

    fn rope_scaling(&self, header: &Header) -> Result<Value, ModelError> {
        if header.tensors.iter().any(|info| info.name == ROPE_FACTORS) {
            // The factors are a tensor, not metadata; the caller has to compare them with the known scalings.
            return Ok(Value::Null);
        }
        match self.get("rope.scaling.type").and_then(Meta::as_str) {
            None | Some("none") => Ok(Value::Null),
            Some(kind) => {
                let factor = self.number("rope.scaling.factor", 1.0)?;
                Ok(json!({"rope_type": kind, "factor": factor}))
            }
        }
    }
}

/// The tensor in which Llama 3 files carry how far each rotary frequency is stretched.
pub(crate) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The Llama 3 scaling that gives these factors: Llama 3.1 stretches by 8, Llama 3.2 by 32, from 8192 positions.
pub(crate) fn llama3_scaling(factors: &[f32], theta: f64) -> Option<Value> {
    [8.0, 32.0].into_iter().find_map(|factor| {
        let (low, high, original) = (1.0, 4.0, 8192.0);
        let agrees = factors.iter().enumerate().all(|(index, found)| {
            let wavelength = std::f64::consts::TAU * theta.powf(index as f64 / factors.len() as f64);
            let share = ((original / wavelength - low) / (high - low)).clamp(0.0, 1.0);
            let expected = 1.0 / ((1.0 - share) / factor + share);
            (f64::from(*found) - expected).abs() <= 1e-3 * expected
        });
        agrees.then(|| {
            json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original as u64})
        })
    })
}
