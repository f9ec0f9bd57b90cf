//! Models and weights that the tests share.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use workbench_model::config::{Architecture, Experts, Gating, OnlineRotations, RopeScaling, Routing, Yarn};
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
            if linear.bias {
                put(format!("{}.bias", linear.name), vec![linear.out_features], 0.0, 0.5);
            }
        }
        for block in config.blocks() {
            if let Some(router) = block.router {
                // Far enough apart that a small step of a weight sends no token elsewhere.
                put(router.weight(), vec![router.out_features, hidden], 0.0, 2.0);
                if let Some(bias) = router.bias() {
                    put(bias, vec![router.out_features], 0.0, 0.5);
                }
            }
            if let Some((name, heads)) = block.sinks {
                put(name, vec![heads], 0.0, 1.5);
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
        sliding_windows: Vec::new(),
        attention_sinks: false,
        experts: None,
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
        mixture(true),
        mixture(false),
        gpt_oss(),
        // Of dense blocks and experts alike, and of experts alone.
        ModelConfig { online: OnlineRotations { heads: Some(8), down: Some(4) }, ..mixture(true) },
        ModelConfig { online: OnlineRotations { heads: None, down: Some(12) }, ..gpt_oss() },
    ]
}

/// A mixture of experts that keeps Qwen3's attention; its first block is dense.
pub(crate) fn mixture(renormalize: bool) -> ModelConfig {
    let experts = Experts {
        count: 5,
        per_token: 2,
        intermediate_size: 12,
        routing: Routing::SoftmaxTopK { renormalize },
        gating: Gating::Silu,
        bias: false,
        dense_blocks: vec![0],
    };
    ModelConfig {
        architecture: Architecture::Qwen3Moe,
        experts: Some(experts),
        head_dim: 8,
        ..tiny(Architecture::Qwen3)
    }
}

/// A gpt-oss with a limit low enough to clamp something.
pub(crate) fn gpt_oss() -> ModelConfig {
    let experts = Experts {
        count: 4,
        per_token: 2,
        intermediate_size: 12,
        routing: Routing::TopKSoftmax,
        gating: Gating::Clamped { alpha: 1.702, limit: 1.0 },
        bias: true,
        dense_blocks: Vec::new(),
    };
    let yarn = Yarn {
        factor: 8.0,
        beta_fast: 2.0,
        beta_slow: 1.0,
        original_max_positions: 32,
        attention_factor: 1.2,
        truncate: false,
    };
    ModelConfig {
        architecture: Architecture::GptOss,
        tie_word_embeddings: false,
        qkv_bias: true,
        output_bias: true,
        rope_scaling: RopeScaling::Yarn(yarn),
        sliding_windows: vec![Some(4), None],
        attention_sinks: true,
        experts: Some(experts),
        ..tiny(Architecture::Llama)
    }
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
