//! `config.json` in its old and new spellings.

use std::path::Path;

use serde_json::Value;

use super::keys::Keys;
use super::{Architecture, ModelConfig, OnlineRotations};
use crate::ModelError;
use crate::arch::Family;
use crate::checkpoint::online_rotations;

/// No real model comes near this.
const MAX_LAYERS: usize = 4096;

impl ModelConfig {
    /// Reads the parsed `config.json`; `file` is only for messages.
    ///
    /// Accepts what transformers 4 and 5 write: `rope_theta` and `rope_scaling` or `rope_parameters`, one end token or a
    /// list, a missing `head_dim` or `num_key_value_heads`. Where a file says one thing in two ways, both have to agree.
    /// Whatever the decoder does not compute is an error, never ignored: other architectures, activations, RoPE types,
    /// sliding windows, partial rotary dimensions, blocks that differ.
    ///
    /// # Errors
    /// [`ModelError::Config`] that names the key, what was found and what would be accepted.
    pub fn from_json(value: &Value, file: &Path) -> Result<Self, ModelError> {
        let Some(object) = value.as_object() else {
            return Err(ModelError::config(file, "the configuration is not a JSON object", ""));
        };
        let keys = Keys { object, file };
        let architecture = keys.architecture()?;
        keys.refuse_unsupported(architecture.family())?;

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
        let (rope_theta, rope_scaling) = keys.rope(architecture.family().rope_theta)?;
        let vocab_size = keys.size("vocab_size")?;
        let mut config = Self {
            architecture,
            vocab_size,
            hidden_size,
            intermediate_size: keys.size("intermediate_size")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim: keys.head_dim(architecture, hidden_size, num_heads)?,
            max_positions: keys.size("max_position_embeddings")?,
            rms_norm_eps: keys.positive("rms_norm_eps")?.unwrap_or(architecture.family().rms_norm_eps),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: keys.flag("tie_word_embeddings", false)?,
            qkv_bias: false,
            output_bias: false,
            mlp_bias: false,
            qk_norm: false,
            sliding_windows: Vec::new(),
            attention_sinks: false,
            experts: None,
            online: OnlineRotations::default(),
            bos_token_id: keys.token_ids("bos_token_id", vocab_size)?.first().copied(),
            eos_token_ids: keys.token_ids("eos_token_id", vocab_size)?,
        };
        (architecture.family().read)(&keys, &mut config)?;
        config.online = online_rotations(value, &config, file)?;
        Ok(config)
    }
}

impl Keys<'_> {
    /// The family. transformers goes by `model_type` and never reads `architectures`, others do the opposite: where both
    /// stand in the file they have to agree.
    fn architecture(&self) -> Result<Architecture, ModelError> {
        let known = || format!("known are {}", Architecture::ALL.map(Architecture::class_name).join(", "));
        let classes = match self.get("architectures") {
            None => &[],
            Some(Value::Array(classes)) => classes.as_slice(),
            Some(other) => {
                let message = format!("`architectures` is {other}, expected a list of class names");
                return Err(self.error(message, known()));
            }
        };
        let unknown = |name: &Value| {
            let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
            self.error(format!("unknown architecture `{name}`"), known())
        };
        let mut found = None;
        for class in classes {
            let this = Architecture::ALL.into_iter().find(|known| class == known.class_name());
            let this = this.ok_or_else(|| unknown(class))?;
            if found.is_some_and(|found| found != this) {
                let message = format!("`architectures` holds {}, which are different models", Value::from(classes));
                return Err(self.error(message, "a file describes one model"));
            }
            found = Some(this);
        }
        match (found, self.get("model_type")) {
            (Some(class), None) => Ok(class),
            (Some(class), Some(kind)) if kind == class.model_type() => Ok(class),
            (Some(class), Some(kind)) => {
                let message = format!("`architectures` holds {}, but `model_type` is {kind}", class.class_name());
                let hint = format!("{} belongs to `model_type` \"{}\"", class.class_name(), class.model_type());
                Err(self.error(message, hint))
            }
            (None, Some(kind)) => {
                Architecture::ALL.into_iter().find(|known| kind == known.model_type()).ok_or_else(|| unknown(kind))
            }
            (None, None) => Err(self.error("neither `architectures` nor `model_type` is there", known())),
        }
    }

    fn head_dim(&self, arch: Architecture, hidden_size: usize, num_heads: usize) -> Result<usize, ModelError> {
        let head_dim = match (self.get("head_dim"), arch.family().head_dim) {
            (Some(_), _) => self.size("head_dim")?,
            (None, Some(default)) => default,
            (None, None) if hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            (None, None) => {
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
    fn refuse_unsupported(&self, family: &Family) -> Result<(), ModelError> {
        if let Some(act) = self.get("hidden_act").filter(|act| !matches!(act.as_str(), Some("silu" | "swish"))) {
            return Err(self.error(format!("`hidden_act` is {act}; only \"silu\" is supported"), ""));
        }
        if self.flag("use_sliding_window", false)? {
            return Err(self.error("`use_sliding_window` is true; sliding-window attention is not supported", ""));
        }
        if !family.has_windows
            && let Some(kinds) = self.get("layer_types").and_then(Value::as_array)
            && let Some(kind) = kinds.iter().find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(self.error(format!("`layer_types` holds {kind}; only \"full_attention\" is supported"), ""));
        }
        if let Some(part) = self.get("partial_rotary_factor").filter(|part| part.as_f64() != Some(1.0)) {
            return Err(self.error(format!("`partial_rotary_factor` is {part}; only 1 is supported"), ""));
        }
        if self.get("per_layer_config").is_some_and(|layers| layers.as_object().is_none_or(|layers| !layers.is_empty()))
        {
            return Err(self.error("`per_layer_config` sets layers apart, which is not supported", ""));
        }
        self.agree("dtype", "torch_dtype")?;
        self.agree("quantization_config", "compression_config")
    }
}
