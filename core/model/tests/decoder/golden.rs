//! Logits, hidden states, loss and gradients that transformers computed for a trained model.

use std::ops::ControlFlow;

use candle_core::Device;
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::decoder::{Gradients, LossOptions, Targets, TrainableParams, loss_and_gradients};
use workbench_model::generate::{GenerationConfig, generate};
use workbench_model::{Context, Decoder, ModelConfig};

use crate::support::{Weights, distance, fixture, flat, row};

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: 512,
        hidden_size: 128,
        intermediate_size: 384,
        num_layers: 4,
        num_heads: 8,
        num_kv_heads: 4,
        head_dim: 32,
        max_positions: 2048,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: false,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        sliding_windows: Vec::new(),
        attention_sinks: false,
        experts: None,
        online: Default::default(),
        bos_token_id: None,
        eos_token_ids: vec![511],
    }
}

/// Integers of a file that also holds floats.
fn integers(file: &std::path::Path, name: &str) -> Vec<u32> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    tensors[name].to_vec1::<i64>().unwrap().into_iter().map(|id| id as u32).collect()
}

#[test]
fn a_trained_model_agrees_with_transformers() {
    let name = "a_trained_model_agrees_with_transformers";
    let Some(file) = fixture(name, "golden/tiny_forward.safetensors") else { return };
    let golden = Weights::read(&file);
    for model in ["tiny_trained", "tiny_spin_r1r2_dense"] {
        let Some(weights) = fixture(name, &format!("golden/{model}/model.safetensors")) else { return };
        let config = config();
        let decoder = Decoder::load(&config, &Weights::read(&weights), &Device::Cpu).unwrap();
        let ids = integers(&file, &format!("{model}.ids"));
        let context = Context::full(1, ids.len(), None);
        let mut hidden = decoder.embed(&row(&ids)).unwrap();
        for index in 0..config.num_layers {
            let expected = &golden.0[&format!("{model}.hidden{index}")].1;
            let error = distance(&flat(&hidden), expected);
            assert!(error < 1e-4, "{model}, input of block {index}: {error:e}");
            hidden = decoder.block(index, &hidden, &context, &mut ()).unwrap();
        }
        let error = distance(&flat(&decoder.head(&hidden).unwrap()), &golden.0[&format!("{model}.logits")].1);
        eprintln!("{model}: largest logit difference {error:e} of the largest logit");
        assert!(error < 1e-4, "{model}: {error:e}");
    }
}

#[test]
fn loss_and_gradients_agree_with_torch() {
    let name = "loss_and_gradients_agree_with_torch";
    let Some(file) = fixture(name, "golden/tiny_forward.safetensors") else { return };
    let Some(weights) = fixture(name, "golden/tiny_trained/model.safetensors") else { return };
    let golden = Weights::read(&file);
    let config = config();
    let parameters = TrainableParams::load(&config, &Weights::read(&weights), &Device::Cpu).unwrap();
    let decoder = Decoder::over(&config, &parameters).unwrap();
    let ids = integers(&file, "tiny_trained.ids");
    let targets = Targets::next_token(std::slice::from_ref(&ids), &[vec![true; ids.len()]]);
    let mut gradients = Gradients::default();
    let context = Context::full(1, ids.len(), None);
    let options = LossOptions::default();
    let loss =
        loss_and_gradients(&decoder, &parameters, &row(&ids), &context, &targets, options, &mut gradients).unwrap();
    let expected = f64::from(golden.0["grad.loss"].1[0]);
    assert!((loss / expected - 1.0).abs() < 1e-5, "{loss} instead of {expected}");
    let mut compared = 0;
    for (key, (_, expected)) in
        golden.0.iter().filter(|(key, _)| key.starts_with("grad.model") || key.starts_with("grad.lm"))
    {
        let found = flat(gradients.get(key.strip_prefix("grad.").unwrap()).unwrap());
        let error = distance(&found, expected);
        eprintln!("{key}: {error:e}");
        assert!(error < 1e-4, "{key}: {error:e}");
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn greedy_continuation_agrees_with_transformers() {
    let name = "greedy_continuation_agrees_with_transformers";
    let Some(file) = fixture(name, "golden/tiny_forward.safetensors") else { return };
    let Some(weights) = fixture(name, "golden/tiny_trained/model.safetensors") else { return };
    let decoder = Decoder::load(&config(), &Weights::read(&weights), &Device::Cpu).unwrap();
    let expected = integers(&file, "greedy_from_first16");
    let generation = GenerationConfig { max_new_tokens: expected.len() - 16, ..GenerationConfig::default() };
    let prompts = [expected[..16].to_vec()];
    let found = generate(&decoder, &prompts, &generation, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!(found[0].tokens, expected[16..]);
}
