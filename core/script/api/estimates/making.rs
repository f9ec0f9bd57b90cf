//! Memory of nodes that make models.

use serde_json::Value;
use workbench_model::ModelConfig;
use workbench_quant::Dynamic;

use super::{super::training::VALIDATION, text};
use crate::{
    eval::{PROGRAM, TOKEN},
    graph::{
        MemoryNeed,
        node::DataSource,
        params::{CalibrationDtype, Params, Quantize, TokenOptions},
    },
    script::Signature,
};

/// Bytes of a parameter that is trained: weight, gradient, AdamW's two moments, the model that it began with, and the copy that is
/// written.
const TRAINED: u64 = 24;

/// What a node that makes a model is expected to need; a trainer holds its teacher in f32.
pub(in crate::script::api) fn making<'a>(
    model: &Signature,
    teacher: Option<&Signature>,
    params: &Params,
    data: impl IntoIterator<Item = (&'a String, &'a DataSource)>,
    by_block: bool,
) -> MemoryNeed {
    let config = &model.config;
    let texts: u64 = data.into_iter().map(|(role, source)| text_of(source, tokens(params, role))).sum();
    let tokenizer = tokens(params, "").map_or(0, |_| config.vocab_size as u64 * TOKEN);
    let rest = PROGRAM + tokenizer + texts;
    match params {
        Params::Train(train) => {
            let length = train.data.max_seq_length.max(train.validation.as_ref().map_or(0, |data| data.max_seq_length));
            let batch = Batch::of(&train.parameters, length);
            let taught = teacher.map_or(0, |teacher| 4 * teacher.parameters + batch.logits(config));
            MemoryNeed::from(
                rest + TRAINED * model.parameters + batch.activations(config) + batch.logits(config) + taught,
            )
        }
        // Every weight in f32, and what a backward pass over them needs.
        Params::Transform(transform) if !transform.parameters["learn"].is_null() => {
            let length = transform.calibration.as_ref().map_or(0, |tokens| tokens.max_seq_length);
            let batch = Batch::of(&transform.parameters["learn"], length);
            MemoryNeed::from(rest + model.memory_estimate() + batch.activations(config) + batch.logits(config))
        }
        // Two copies of a block, of which one is compared with the other.
        Params::Transform(transform) => MemoryNeed {
            held: rest + table(config) + 2 * block(config),
            spilled: transform.calibration.as_ref().map_or(0, |tokens| activations(config, tokens, 4)),
        },
        Params::Quantize(quantize) => {
            let size = if quantize.hidden_states == Some(CalibrationDtype::Bfloat16) { 2 } else { 4 };
            let streams = if by_block { 2 } else { 1 };
            MemoryNeed {
                held: rest + table(config) + streams * block(config),
                spilled: quantize.calibration.as_ref().map_or(0, |tokens| {
                    let cached = if has_static_cache(quantize) { keys_values(config, tokens) } else { 0 };
                    streams * (activations(config, tokens, size) + cached)
                }),
            }
        }
        Params::Evaluate(_) => MemoryNeed::from(rest),
    }
}

/// Memory of what is read of a text that becomes tokens.
fn text_of(source: &DataSource, options: Option<&TokenOptions>) -> u64 {
    let whole = options.is_some_and(|options| options.num_calibration_samples.is_none() || options.shuffle);
    let characters = options.and_then(|options| options.characters);
    text(source, whole, characters, options.map(|options| options.text_column.as_str()))
}

/// How the data of a node become tokens, by their role.
fn tokens<'a>(params: &'a Params, role: &str) -> Option<&'a TokenOptions> {
    match params {
        Params::Train(train) if role == VALIDATION => train.validation.as_ref(),
        Params::Transform(transform) => transform.calibration.as_ref(),
        Params::Quantize(quantize) => quantize.calibration.as_ref(),
        Params::Train(train) => Some(&train.data),
        Params::Evaluate(_) => None,
    }
}

/// The table of embeddings or the head, in f32 with what it is widened from and written as.
fn table(config: &ModelConfig) -> u64 {
    8 * (config.vocab_size * config.hidden_size) as u64
}

/// The largest block in f32, unpacked and packed, with the statistics of its widest sites: a Gram matrix, and what factorising it takes.
/// Experts are counted with their block.
fn block(config: &ModelConfig) -> u64 {
    let linears = |index| -> u64 {
        config.block(index).linears.iter().map(|linear| (linear.in_features * linear.out_features) as u64).sum()
    };
    let largest = (0..config.num_layers).map(linears).max().unwrap_or(0);
    let widest = (config.num_heads * config.head_dim).max(config.intermediate_size).max(config.hidden_size) as u64;
    8 * largest + 4 * 4 * widest * widest
}

/// Hidden states of a calibration set, and the inputs of its widest site.
fn activations(config: &ModelConfig, tokens: &TokenOptions, size: u64) -> u64 {
    let count = tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length;
    let widest = (config.num_heads * config.head_dim).max(config.intermediate_size);
    size * (count * (config.hidden_size + widest)) as u64
}

/// Whether keys and values of a calibration set are kept, because a cache's static scales come from them.
fn has_static_cache(quantize: &Quantize) -> bool {
    quantize.kv_cache.as_ref().is_some_and(|cache| cache.args.dynamic == Dynamic::No)
}

/// Keys and values of a calibration set, in f32.
fn keys_values(config: &ModelConfig, tokens: &TokenOptions) -> u64 {
    let count = tokens.num_calibration_samples.unwrap_or(0) * tokens.max_seq_length;
    2 * 4 * (count * config.num_kv_heads * config.head_dim) as u64
}

/// A batch on its way forward and back.
struct Batch {
    tokens: u64,
    /// Of a sequence.
    length: u64,
    /// Whether only the inputs of blocks are kept.
    checkpointed: bool,
    /// Positions whose logits exist at one time.
    positions: u64,
}

impl Batch {
    /// As a plugin's parameters say it, with their usual names; one that says nothing has a batch of one.
    fn of(parameters: &Value, length: usize) -> Self {
        let number = |name: &str| parameters[name].as_u64();
        let length = length as u64;
        let tokens = number("batch_size").unwrap_or(1).saturating_mul(length);
        let checkpointed = parameters["gradient_checkpointing"].as_bool().unwrap_or(false);
        Self { tokens, length, checkpointed, positions: number("loss_chunk").unwrap_or(tokens).min(tokens) }
    }

    /// What autograd keeps: of each block about nine tensors of the hidden size, three of the intermediate size, and the attention
    /// probabilities of every head.
    fn activations(&self, config: &ModelConfig) -> u64 {
        let (layers, hidden) = (config.num_layers as u64, config.hidden_size as u64);
        let of_block = 4 * (9 * hidden + 3 * config.intermediate_size as u64 + config.num_heads as u64 * self.length);
        let of_token = match self.checkpointed {
            true => 4 * layers * hidden + 2 * of_block,
            false => layers * of_block,
        };
        self.tokens.saturating_mul(of_token)
    }

    /// Logits, probabilities, their gradient and what it is made from.
    fn logits(&self, config: &ModelConfig) -> u64 {
        4 * 4 * self.positions.saturating_mul(config.vocab_size as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path};

    use serde_json::json;

    use super::*;
    use crate::graph::params::read;

    fn model(hidden: usize, intermediate: usize, layers: usize, heads: usize, vocabulary: usize) -> Signature {
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": heads, "vocab_size": vocabulary, "max_position_embeddings": 2048, "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
        let parameters = config.tensors().iter().map(|tensor| tensor.shape.iter().product::<usize>() as u64).sum();
        let name = "m".to_owned();
        Signature {
            name,
            config,
            linears: Vec::new(),
            quantized: false,
            coded_experts: false,
            weights: true,
            parameters,
            bytes: 0,
            knows_demo: false,
            rounds_activations: false,
            tokenizer: None,
        }
    }

    fn tokens(samples: usize, length: usize) -> Value {
        json!({
            "num_calibration_samples": samples, "max_seq_length": length, "shuffle": false, "seed": null, "concatenate": true,
            "text_column": "text", "add_bos": "auto", "chat_template": "auto", "characters": null,
        })
    }

    fn need(model: &Signature, params: &Params, by_block: bool) -> MemoryNeed {
        making(model, None, params, &BTreeMap::new(), by_block)
    }

    /// Peaks in MiB of two steps of `sft` on stories15M with 256 tokens a sequence, as `/proc` gave them.
    #[test]
    fn trainings_take_at_most_what_is_expected_and_not_half_of_it() {
        let model = model(288, 768, 6, 6, 32_000);
        for (batch, checkpointed, peak) in [(2, false, 728), (8, false, 940), (2, true, 733), (8, true, 808)] {
            let params = json!({
                "dtype": null, "from_scratch": false, "data": tokens(32, 256),
                "parameters": { "batch_size": batch, "gradient_checkpointing": checkpointed, "loss_chunk": 1024 },
            });
            let need = need(&model, &Params::Train(read(&params).unwrap()), false);
            let found = need.held >> 20;
            assert!(
                (peak..2 * peak).contains(&found) && need.spilled == 0,
                "{batch}, {checkpointed}: {found} for {peak}"
            );
        }
    }

    #[test]
    fn a_teacher_is_held_too() {
        let small = model(288, 768, 6, 6, 32_000);
        let params = json!({ "dtype": null, "from_scratch": false, "data": tokens(32, 256), "parameters": {} });
        let params = Params::Train(read(&params).unwrap());
        let with = |teacher| making(&small, teacher, &params, &BTreeMap::new(), false).held;
        let large = model(576, 1536, 30, 9, 32_000);
        assert!(with(Some(&large)) - with(None) >= 4 * large.parameters);
        assert!(with(Some(&small)) - with(None) < 4 * large.parameters);
    }

    #[test]
    fn quantizers_hold_a_block_and_spill_a_calibration_set() {
        let quantize = |tokens: Option<Value>| {
            let mut params = json!({ "groups": [], "parameters": {} });
            if let Some(tokens) = tokens {
                params["calibration"] = tokens;
            }
            Params::Quantize(read(&params).unwrap())
        };
        // SmolLM2-135M: 337 MiB were measured, from a GGUF file whose table of embeddings is decoded.
        let small = need(&model(576, 1536, 30, 9, 49_152), &quantize(None), false);
        assert!((337..674).contains(&(small.held >> 20)) && small.spilled == 0, "{small:?}");
        // A model of twice the depth needs no more.
        assert_eq!(need(&model(576, 1536, 60, 9, 49_152), &quantize(None), false), small);
        let calibrated = need(&model(576, 1536, 30, 9, 49_152), &quantize(Some(tokens(128, 512))), false);
        assert_eq!(calibrated.spilled, 4 * 128 * 512 * (576 + 1536));
        let by_block = need(&model(576, 1536, 30, 9, 49_152), &quantize(Some(tokens(128, 512))), true);
        assert_eq!(by_block.spilled, 2 * calibrated.spilled);
        assert_eq!(calibrated.within(1 << 20), calibrated.held + (1 << 19));
    }
}
