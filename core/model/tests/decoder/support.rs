//! Models and weights that the tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use workbench_model::config::{Architecture, OnlineRotations, RopeScaling};
use workbench_model::{ModelConfig, ModelError, WeightSource};

/// Weights in memory.
#[derive(Clone, Default)]
pub(crate) struct Weights(pub(crate) BTreeMap<String, (Vec<usize>, Vec<f32>)>);

impl WeightSource for Weights {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).map(|(shape, _)| shape.clone())
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        self.0
            .get(name)
            .map(|(_, values)| values.clone())
            .ok_or_else(|| ModelError::Text(format!("no tensor `{name}`")))
    }
}

impl Weights {
    pub(crate) fn read(file: &Path) -> Self {
        let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
        let tensors = tensors.into_iter().map(|(name, tensor)| {
            let values = tensor.to_dtype(candle_core::DType::F32).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            (name, (tensor.dims().to_vec(), values))
        });
        Self(tensors.collect())
    }

    pub(crate) fn tensor(&self, name: &str) -> Tensor {
        let (shape, values) = &self.0[name];
        Tensor::from_slice(values, shape.as_slice(), &Device::Cpu).unwrap()
    }

    /// Random weights of every tensor that the architecture needs: norms around 1, the rest around 0.
    pub(crate) fn random(config: &ModelConfig, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (hidden, vocab) = (config.hidden_size, config.vocab_size);
        let mut weights = Self::default();
        let mut put = |name: String, shape: Vec<usize>, middle: f32, spread: f32| {
            let count = shape.iter().product();
            let values = (0..count).map(|_| middle + spread * rng.random_range(-1.0..1.0)).collect();
            weights.0.insert(name, (shape, values));
        };
        put("model.embed_tokens.weight".into(), vec![vocab, hidden], 0.0, 1.0);
        put("model.norm.weight".into(), vec![hidden], 1.0, 0.3);
        if !config.tie_word_embeddings {
            put("lm_head.weight".into(), vec![vocab, hidden], 0.0, 0.5);
        }
        for linear in config.linears() {
            let spread = 2.0 / (linear.in_features as f32).sqrt();
            put(format!("{}.weight", linear.name), vec![linear.out_features, linear.in_features], 0.0, spread);
            let attention = linear.name.contains("self_attn") && !linear.name.ends_with("o_proj");
            let mlp = linear.name.contains(".mlp.");
            let output = linear.name.ends_with("o_proj");
            if attention && config.qkv_bias || mlp && config.mlp_bias || output && config.output_bias {
                put(format!("{}.bias", linear.name), vec![linear.out_features], 0.0, 0.5);
            }
        }
        for block in 0..config.num_layers {
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                put(format!("model.layers.{block}.{norm}.weight"), vec![hidden], 1.0, 0.3);
            }
            if config.qk_norm {
                for norm in ["q_norm", "k_norm"] {
                    put(format!("model.layers.{block}.self_attn.{norm}.weight"), vec![config.head_dim], 1.0, 0.3);
                }
            }
        }
        weights
    }
}

/// A tiny model of an architecture: grouped heads, a head dimension that is not hidden / heads.
pub(crate) fn tiny(architecture: Architecture) -> ModelConfig {
    ModelConfig {
        architecture,
        vocab_size: 40,
        hidden_size: 24,
        intermediate_size: 44,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: if architecture == Architecture::Qwen3 { 8 } else { 6 },
        max_positions: 128,
        rms_norm_eps: 1e-5,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: architecture != Architecture::Llama,
        qkv_bias: architecture == Architecture::Qwen2,
        output_bias: false,
        mlp_bias: false,
        qk_norm: architecture == Architecture::Qwen3,
        online: OnlineRotations::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

/// All architectures, and the variations of them that change the computation.
pub(crate) fn variations() -> Vec<ModelConfig> {
    let llama = tiny(Architecture::Llama);
    let llama3 =
        RopeScaling::Llama3 { factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 32 };
    vec![
        llama.clone(),
        ModelConfig { rope_scaling: RopeScaling::Linear { factor: 4.0 }, ..llama.clone() },
        ModelConfig { rope_scaling: llama3, num_kv_heads: 4, ..llama.clone() },
        ModelConfig { qkv_bias: true, output_bias: true, mlp_bias: true, num_kv_heads: 1, ..llama },
        tiny(Architecture::Qwen2),
        tiny(Architecture::Qwen3),
        // Rotations of whole rows, one of them with a base of 44, and in blocks.
        ModelConfig { online: OnlineRotations { heads: Some(8), down: Some(44) }, ..tiny(Architecture::Qwen3) },
        ModelConfig { online: OnlineRotations { heads: Some(2), down: Some(4) }, ..tiny(Architecture::Qwen2) },
        ModelConfig { tie_word_embeddings: false, ..tiny(Architecture::Qwen3) },
    ]
}

pub(crate) fn random_ids(config: &ModelConfig, len: usize, seed: u64) -> Vec<u32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len).map(|_| rng.random_range(0..config.vocab_size as u32)).collect()
}

/// A batch of one.
pub(crate) fn row(ids: &[u32]) -> Tensor {
    Tensor::from_slice(ids, (1, ids.len()), &Device::Cpu).unwrap()
}

pub(crate) fn flat(x: &Tensor) -> Vec<f32> {
    x.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference, relative to the largest value of `expected`.
pub(crate) fn distance(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    assert!(found.iter().all(|x| x.is_finite()));
    let scale = expected.iter().fold(f32::MIN_POSITIVE, |most, x| most.max(x.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale
}

/// A file of the large fixtures, or `None` with a note that the test is skipped.
pub(crate) fn fixture(test: &str, file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"), PathBuf::from);
    let path = folder.join(file);
    if !path.exists() {
        eprintln!("skipped: {test}: {} is missing", path.display());
        return None;
    }
    Some(path)
}
