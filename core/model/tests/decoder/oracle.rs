//! candle-transformers as a second opinion: it gives the logits of the last position.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{llama, qwen2, qwen3};
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::{Context, Decoder, ModelConfig};

use crate::support::{Weights, distance, flat, random_ids, row, tiny};

/// Our logits of the last position, and the weights for the other implementation.
fn ours(config: &ModelConfig, ids: &[u32]) -> (Vec<f32>, VarBuilder<'static>) {
    let weights = Weights::random(config, 11);
    let decoder = Decoder::load(config, &weights, &Device::Cpu).unwrap();
    let logits = flat(&decoder.forward(&row(ids), &Context::full(1, ids.len(), None)).unwrap());
    let tensors: HashMap<String, Tensor> = weights.0.keys().map(|name| (name.clone(), weights.tensor(name))).collect();
    (logits[logits.len() - config.vocab_size..].to_vec(), VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))
}

#[test]
fn llama_equals_candle_transformers() {
    let plain = tiny(Architecture::Llama);
    let scaling =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 32 };
    let tied = ModelConfig { tie_word_embeddings: true, ..plain.clone() };
    for config in [plain.clone(), ModelConfig { rope_scaling: scaling, ..plain }, tied] {
        let ids = random_ids(&config, 60, 1);
        let (logits, weights) = ours(&config, &ids);
        let rope_scaling = match config.rope_scaling {
            RopeScaling::None => None,
            _ => Some(llama::Llama3RopeConfig {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 32,
                rope_type: llama::Llama3RopeType::Llama3,
            }),
        };
        let theirs = llama::Config {
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            vocab_size: config.vocab_size,
            num_hidden_layers: config.num_layers,
            num_attention_heads: config.num_heads,
            num_key_value_heads: config.num_kv_heads,
            use_flash_attn: false,
            rms_norm_eps: config.rms_norm_eps,
            rope_theta: config.rope_theta as f32,
            bos_token_id: None,
            eos_token_id: None,
            rope_scaling,
            max_position_embeddings: config.max_positions,
            tie_word_embeddings: config.tie_word_embeddings,
        };
        let mut cache = llama::Cache::new(true, DType::F32, &theirs, &Device::Cpu).unwrap();
        let model = llama::Llama::load(weights, &theirs).unwrap();
        assert!(distance(&logits, &flat(&model.forward(&row(&ids), 0, &mut cache).unwrap())) < 1e-5);
    }
}

#[test]
fn qwen2_equals_candle_transformers() {
    let config = ModelConfig { tie_word_embeddings: false, ..tiny(Architecture::Qwen2) };
    let ids = random_ids(&config, 60, 1);
    let (logits, weights) = ours(&config, &ids);
    let theirs = qwen2::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_layers,
        num_attention_heads: config.num_heads,
        num_key_value_heads: config.num_kv_heads,
        max_position_embeddings: config.max_positions,
        sliding_window: config.max_positions,
        max_window_layers: 0,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: candle_nn::Activation::Silu,
    };
    let mut model = qwen2::ModelForCausalLM::new(&theirs, weights).unwrap();
    assert!(distance(&logits, &flat(&model.forward(&row(&ids), 0).unwrap())) < 1e-5);
}

#[test]
fn qwen3_equals_candle_transformers() {
    let config = tiny(Architecture::Qwen3);
    let ids = random_ids(&config, 60, 1);
    let (logits, weights) = ours(&config, &ids);
    let theirs = qwen3::Config {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_hidden_layers: config.num_layers,
        num_attention_heads: config.num_heads,
        head_dim: config.head_dim,
        attention_bias: false,
        num_key_value_heads: config.num_kv_heads,
        max_position_embeddings: config.max_positions,
        sliding_window: None,
        max_window_layers: 0,
        tie_word_embeddings: config.tie_word_embeddings,
        rope_theta: config.rope_theta,
        rms_norm_eps: config.rms_norm_eps,
        use_sliding_window: false,
        hidden_act: candle_nn::Activation::Silu,
    };
    let mut model = qwen3::ModelForCausalLM::new(&theirs, weights).unwrap();
    assert!(distance(&logits, &flat(&model.forward(&row(&ids), 0).unwrap())) < 1e-5);
}
