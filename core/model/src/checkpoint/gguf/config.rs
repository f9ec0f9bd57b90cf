//! A Hugging Face `config.json` from GGUF metadata.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::header::Meta;
use super::metadata::{Keys, token};
use super::parts::Whole;
use crate::ModelError;
use crate::arch::Architecture;
use crate::arch::gguf::{HEAD, TABLE, architectures, bias_flags};

/// The version of the block formats that llama.cpp writes since May 2023; those before had other scales.
const QUANTIZATION_VERSION: u64 = 2;

/// Builds the configuration; `ModelConfig::from_json` then checks it like any other.
pub(super) fn config_json(whole: &Whole, file: &Path) -> Result<Value, ModelError> {
    let name = whole.metadata.get("general.architecture").and_then(Meta::as_str);
    let known = || architectures().map(Architecture::model_type).collect::<Vec<_>>().join(", ");
    let Some(architecture) = architectures().find(|known| Some(known.model_type()) == name) else {
        let message = format!(
            "`general.architecture` is {}",
            name.map_or("missing".into(), |name| format!("the unknown `{name}`"))
        );
        return Err(ModelError::config(file, message, format!("known are {}", known())));
    };
    let keys = Keys { metadata: &whole.metadata, architecture, file };
    keys.refuse_unknown()?;
    check_quantization(whole, &keys)?;
    let has = |tensor: &str| whole.tensors.contains_key(tensor);
    let vocab_size = vocab_size(whole, &keys)?;
    let heads = keys.size("attention.head_count")?;
    let hidden = keys.size("embedding_length")?;
    let head_dim = match keys.get("attention.key_length") {
        Some(_) => Some(keys.size("attention.key_length")?),
        None => hidden.checked_div(heads),
    };
    keys.check_heads(head_dim)?;
    let epsilon = keys
        .positive("attention.layer_norm_rms_epsilon")?
        .ok_or_else(|| keys.error(format!("`{}` is missing", keys.full("attention.layer_norm_rms_epsilon")), ""))?;
    let token = |key: &str| token(&whole.metadata, key, vocab_size, file);

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
    set("rms_norm_eps", json!(epsilon));
    set("rope_theta", json!(keys.positive("rope.freq_base")?.unwrap_or(10_000.0)));
    set("rope_scaling", keys.rope_scaling(has(ROPE_FACTORS))?);
    set("hidden_act", json!("silu"));
    set("attention_bias", json!(false));
    for (key, flag) in bias_flags(architecture, has) {
        set(key, json!(flag));
    }
    set("tie_word_embeddings", json!(!has(HEAD)));
    set("bos_token_id", json!(token("bos_token_id")?));
    set("eos_token_id", json!(token("eos_token_id")?));
    set("torch_dtype", json!("float32"));
    Ok(Value::Object(config))
}

/// The rows of the embeddings, which the metadata may repeat.
fn vocab_size(whole: &Whole, keys: &Keys<'_>) -> Result<usize, ModelError> {
    let embedding = whole.tensors.get(TABLE);
    let rows = match embedding.map(|placed| &placed.info.shape[..]) {
        Some([rows, _]) => *rows,
        _ => return Err(ModelError::tensor(keys.file, TABLE, "is missing or not a matrix", "")),
    };
    let stated = keys.size_or("vocab_size", rows as u64)?;
    if stated != rows as u64 {
        let message = format!("`{}` is {stated}, but `{TABLE}` has {rows} rows", keys.full("vocab_size"));
        return Err(keys.error(message, "metadata and tensors contradict each other"));
    }
    Ok(rows)
}

fn check_quantization(whole: &Whole, keys: &Keys<'_>) -> Result<(), ModelError> {
    let key = "general.quantization_version";
    let quantized = whole.tensors.values().any(|placed| placed.info.kind.elements() > 1);
    match whole.metadata.get(key) {
        Some(version) if quantized && version.as_u64() != Some(QUANTIZATION_VERSION) => {
            Err(keys.error(format!("`{key}` is {version}; only {QUANTIZATION_VERSION} is supported"), ""))
        }
        _ => Ok(()),
    }
}

impl Keys<'_> {
    /// What else is said of heads has to fit their dimensions.
    fn check_heads(&self, head_dim: Option<u64>) -> Result<(), ModelError> {
        let Some(head_dim) = head_dim else { return Ok(()) };
        for key in ["rope.dimension_count", "attention.value_length"] {
            let found = self.size_or(key, head_dim)?;
            if found != head_dim {
                let message = format!("`{}` is {found}, but a head has {head_dim} dimensions", self.full(key));
                return Err(self.error(message, "partial rotary embedding is not supported"));
            }
        }
        let usual = 1.0 / (head_dim as f64).sqrt();
        match self.number("attention.scale")? {
            Some(scale) if scale != 0.0 && (scale / usual - 1.0).abs() > 1e-5 => {
                let message =
                    format!("`{}` is {scale}; only 1 / sqrt({head_dim}) is supported", self.full("attention.scale"));
                Err(self.error(message, ""))
            }
            _ => Ok(()),
        }
    }

    /// As llama.cpp reads it: a factor without a type is linear, `rope.scale_linear` is the old name of the factor, and a
    /// factor of 0 stands for none.
    fn rope_scaling(&self, has_factors: bool) -> Result<Value, ModelError> {
        let (new, old) = ("rope.scaling.factor", "rope.scale_linear");
        let [stated, stated_old] = [self.number(new)?, self.number(old)?].map(|factor| factor.filter(|f| *f != 0.0));
        let factor = match (stated, stated_old) {
            (Some(factor), Some(other)) if factor != other => {
                let message = format!("`{}` is {factor}, but `{}` is {other}", self.full(new), self.full(old));
                return Err(self.error(message, "both are names of one setting"));
            }
            (factor, other) => factor.or(other).filter(|factor| *factor != 1.0),
        };
        let factor = match self.text("rope.scaling.type")? {
            Some("none") => None,
            None | Some("linear") => factor,
            Some(other) => {
                let message = format!("`{}` is the unknown \"{other}\"", self.full("rope.scaling.type"));
                return Err(self.error(message, "known are none and linear"));
            }
        };
        match factor {
            None => Ok(Value::Null),
            Some(_) if has_factors => {
                let message = format!("`{}` stretches what `{ROPE_FACTORS}` stretches too", self.full(new));
                Err(self.error(message, "only one of them is supported"))
            }
            Some(factor) => Ok(json!({"rope_type": "linear", "factor": factor})),
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
