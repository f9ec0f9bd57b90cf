//! `config.json` in its old and new spellings.

use std::path::Path;

use serde_json::{Map, Value};

use super::{Architecture, ModelConfig, OnlineRotations, RopeScaling};
use crate::ModelError;
use crate::checkpoint::online_rotations;

/// No real model comes near these; a file that claims more is broken, and the products of sizes stay far from overflow.
const MAX_SIZE: u64 = 1 << 24;
const MAX_LAYERS: usize = 4096;

impl ModelConfig {
    /// Reads the parsed `config.json`; `file` is only for messages.
    ///
    /// Accepts what transformers 4 and 5 write: `rope_theta` and `rope_scaling` or `rope_parameters`, one end token or a
    /// list, a missing `head_dim` or `num_key_value_heads`. Whatever the decoder does not compute is an error, never
    /// ignored: other architectures, activations, RoPE types, sliding windows, partial rotary dimensions.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key, what was found and what would be accepted.
    pub fn from_json(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let Some(object) = value.as_object() else {
            return Err(ModelError::config(file, "the configuration is not a JSON object", ""));
        };
        let keys = Keys { object, file };
        let architecture = keys.architecture()?;
        keys.refuse_unsupported()?;

        let hidden_size = keys.size("hidden_size")?;
        let num_heads = keys.size("num_attention_heads")?;
        let num_kv_heads = keys.size_or("num_key_value_heads", num_heads)?;
        let num_layers = keys.size("num_hidden_layers")?;
        if num_layers > MAX_LAYERS {
            return Err(keys.error(format!("`num_hidden_layers` is {num_layers}, more than {MAX_LAYERS}"), ""));
        }
        if num_heads % num_kv_heads != 0 {
            return Err(keys.error(
                format!("{num_heads} attention heads cannot share {num_kv_heads} key-value heads evenly"),
                "`num_key_value_heads` must divide `num_attention_heads`",
            ));
        }
        let attention_bias = keys.flag("attention_bias", false)?;
        let (rope_theta, rope_scaling) = keys.rope()?;
        let mut config = Self {
            architecture,
            vocab_size: keys.size("vocab_size")?,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim: keys.head_dim(architecture, hidden_size, num_heads)?,
            max_positions: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.positive("rms_norm_eps", 1e-6)?,
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            qkv_bias: architecture == Architecture::Qwen2 || attention_bias,
            output_bias: architecture != Architecture::Qwen2 && attention_bias,
            mlp_bias: architecture == Architecture::Llama && keys.flag("mlp_bias", false)?,
            qk_norm: architecture == Architecture::Qwen3,
            online: OnlineRotations::default(),
            bos_token_id: keys.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: keys.token_ids("eos_token_id")?,
        };
        config.online = online_rotations(value, &config, file)?;
        Ok(config)
    }
}

/// Typed access to the object's keys with errors that name them. `null` counts as absent.
struct Keys<'a> {
    object: &'a Map<String, Value>,
    file: &'a Path,
}

impl Keys<'_> {
    fn error(&self, message: impl Into<String>, hint: impl Into<String>) -> ModelError {
        ModelError::config(self.file, message, hint)
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    fn size(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key).ok_or_else(|| self.error(format!("`{key}` is missing"), ""))?;
        match value.as_u64() {
            Some(size) if (1..=MAX_SIZE).contains(&size) => Ok(size as usize),
            _ => Err(self.error(format!("`{key}` is {value}, expected a whole number from 1 to {MAX_SIZE}"), "")),
        }
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => Err(self.error(format!("`{key}` is {other}, expected true or false"), "")),
        }
    }

    fn positive(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => match value.as_f64() {
                Some(number) if number > 0.0 && number.is_finite() => Ok(number),
                _ => Err(self.error(format!("`{key}` is {value}, expected a positive number"), "")),
            },
        }
    }

    /// One token id, a list of them, or none.
    fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let id = |value: &Value| {
            value.as_u64().and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
                self.error(format!("`{key}` holds {value}, expected a token id or a list of token ids"), "")
            })
        };
        match self.get(key) {
            None => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().map(id).collect(),
            Some(value) => Ok(vec![id(value)?]),
        }
    }

    fn architecture(&self) -> Result<Architecture, ModelError> {
        let class = self.get("architectures").and_then(|list| list.get(0)).and_then(Value::as_str);
        let model_type = self.get("model_type").and_then(Value::as_str);
        let found = Architecture::ALL.into_iter().find(|known| match class {
            Some(class) => known.class_name() == class,
            None => model_type == Some(known.model_type()),
        });
        found.ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::class_name).join(", ");
            match class.or(model_type) {
                Some(name) => self.error(format!("unknown architecture `{name}`"), format!("known are {known}")),
                None => self.error("neither `architectures` nor `model_type` is there", format!("known are {known}")),
            }
        })
    }

    fn head_dim(&self, arch: Architecture, hidden_size: usize, num_heads: usize) -> Result<usize, ModelError> {
        let head_dim = match (self.get("head_dim"), arch) {
            (Some(_), _) => self.size("head_dim")?,
            // The default of Qwen3's configuration class, independent of the hidden size.
            (None, Architecture::Qwen3) => 128,
            (None, _) if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            (None, _) => {
                return Err(self.error(
                    format!("`hidden_size` {hidden_size} does not divide into {num_heads} attention heads"),
                    "give `head_dim`, or correct `num_attention_heads`",
                ));
            }
        };
        if !head_dim.is_multiple_of(2) {
            return Err(self.error(format!("`head_dim` is {head_dim}; rotary embedding needs an even number"), ""));
        }
        Ok(head_dim)
    }

    /// Refuses what would change the function without the decoder knowing.
    fn refuse_unsupported(&self) -> Result<(), ModelError> {
        if let Some(act) = self.get("hidden_act").filter(|act| !matches!(act.as_str(), Some("silu" | "swish"))) {
            return Err(self.error(format!("`hidden_act` is {act}; only \"silu\" is supported"), ""));
        }
        if self.flag("use_sliding_window", false)? {
            return Err(self.error("`use_sliding_window` is true; sliding-window attention is not supported", ""));
        }
        if let Some(kinds) = self.get("layer_types").and_then(Value::as_array)
            && let Some(kind) = kinds.iter().find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(self.error(format!("`layer_types` holds {kind}; only \"full_attention\" is supported"), ""));
        }
        if let Some(part) = self.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return Err(self.error(format!("`partial_rotary_factor` is {part}; only 1 is supported"), ""));
        }
        Ok(())
    }

    /// The base frequency and the scaling, from `rope_parameters` or from `rope_theta` and `rope_scaling`.
    fn rope(&self) -> Result<(f64, RopeScaling), ModelError> {
        let scaling_key = if self.get("rope_parameters").is_some() { "rope_parameters" } else { "rope_scaling" };
        let empty = Map::new();
        let scaling = match self.get(scaling_key) {
            None => &empty,
            Some(Value::Object(object)) => object,
            Some(other) => return Err(self.error(format!("`{scaling_key}` is {other}, expected an object"), "")),
        };
        let keys = Keys { object: scaling, file: self.file };
        let theta = keys.positive("rope_theta", self.positive("rope_theta", 10_000.0)?)?;
        if let Some(part) = keys.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return Err(
                self.error(format!("`{scaling_key}` has `partial_rotary_factor` {part}; only 1 is supported"), "")
            );
        }
        let kind = match keys.get("rope_type").or_else(|| keys.get("type")) {
            None if scaling.values().any(Value::is_object) => {
                return Err(self.error(format!("`{scaling_key}` differs between layers, which is not supported"), ""));
            }
            None => "default",
            Some(kind) => kind.as_str().unwrap_or_default(),
        };
        let required = |key: &str| match keys.get(key) {
            Some(_) => keys.positive(key, 1.0),
            None => Err(self.error(format!("`{scaling_key}` of type \"{kind}\" lacks `{key}`"), "")),
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: required("factor")? },
            "llama3" => self.llama3(&required)?,
            other => {
                return Err(self.error(
                    format!("`{scaling_key}` is of the unknown type \"{other}\""),
                    "known are default, linear and llama3",
                ));
            }
        };
        Ok((theta, scaling))
    }

    fn llama3(&self, required: &dyn Fn(&str) -> Result<f64, ModelError>) -> Result<RopeScaling, ModelError> {
        let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
        let original = required("original_max_position_embeddings")?;
        if low >= high {
            return Err(self.error(
                format!("`low_freq_factor` {low} is not below `high_freq_factor` {high}"),
                "the smooth blend between both needs a range",
            ));
        }
        if original.fract() != 0.0 || original > MAX_SIZE as f64 {
            return Err(self.error(format!("`original_max_position_embeddings` is {original}, not a length"), ""));
        }
        Ok(RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_positions: original as usize,
        })
    }
}
