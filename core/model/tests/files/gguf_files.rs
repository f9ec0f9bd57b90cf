//! GGUF files, written by candle and read back; candle's own dequantization is the reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value as Meta};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::{Checkpoint, ModelConfig, WeightSource};

use crate::common::{fixture, parse, values};

/// Rows of 64 and 96 elements: whole blocks of 32. Four query heads of 16, two key-value heads.
pub(crate) fn block_config(class: &str) -> Value {
    json!({"architectures": [class], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 40,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 50000.0, "tie_word_embeddings": true})
}

pub(crate) fn metadata(config: &ModelConfig) -> BTreeMap<String, Meta> {
    let arch = config.architecture.model_type();
    let size = |value: usize| Meta::U32(value as u32);
    [
        ("general.architecture".to_owned(), Meta::String(arch.into())),
        (format!("{arch}.block_count"), size(config.num_layers)),
        (format!("{arch}.context_length"), size(config.max_positions)),
        (format!("{arch}.embedding_length"), size(config.hidden_size)),
        (format!("{arch}.feed_forward_length"), size(config.intermediate_size)),
        (format!("{arch}.attention.head_count"), size(config.num_heads)),
        (format!("{arch}.attention.head_count_kv"), size(config.num_kv_heads)),
        (format!("{arch}.attention.key_length"), size(config.head_dim)),
        (format!("{arch}.attention.layer_norm_rms_epsilon"), Meta::F32(config.rms_norm_eps as f32)),
        (format!("{arch}.rope.freq_base"), Meta::F32(config.rope_theta as f32)),
    ]
    .into()
}

fn gguf_name(name: &str) -> String {
    let pairs = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// llama.cpp's conversion of q and k: within each head, row s * half + j goes to row 2 j + s.
fn interleave(rows: &[f32], heads: usize, columns: usize) -> Vec<f32> {
    let head_dim = rows.len() / columns / heads;
    let half = head_dim / 2;
    let mut out = vec![f32::NAN; rows.len()];
    for head in 0..heads {
        for s in 0..2 {
            for j in 0..half {
                let (from, to) = (head * head_dim + s * half + j, head * head_dim + 2 * j + s);
                out[to * columns..][..columns].copy_from_slice(&rows[from * columns..][..columns]);
            }
        }
    }
    out
}

/// The values a model is made of, in Hugging Face order.
fn dense(config: &ModelConfig) -> BTreeMap<String, (Vec<usize>, Vec<f32>)> {
    let specs = config.tensors().into_iter().enumerate();
    specs.map(|(seed, spec)| (spec.name, (spec.shape.clone(), values(seed, spec.shape.iter().product())))).collect()
}

/// The tensors of a model; matrices take the given type, vectors stay f32 as llama.cpp keeps them.
pub(crate) fn gguf_tensors(
    config: &ModelConfig,
    kind: GgmlDType,
    extra: &[(&str, Vec<f32>)],
) -> Vec<(String, QTensor)> {
    let quantize = |shape: &[usize], data: &[f32]| {
        let tensor = Tensor::from_slice(data, shape, &Device::Cpu).unwrap();
        QTensor::quantize(&tensor, if shape.len() == 2 { kind } else { GgmlDType::F32 }).unwrap()
    };
    let mut tensors = Vec::new();
    for (name, (shape, data)) in dense(config) {
        let heads = match config.architecture {
            Architecture::Llama if name.contains("q_proj") => Some(config.num_heads),
            Architecture::Llama if name.contains("k_proj") => Some(config.num_kv_heads),
            _ => None,
        };
        let columns = if shape.len() == 2 { shape[1] } else { 1 };
        let data = heads.map_or(data.clone(), |heads| interleave(&data, heads, columns));
        tensors.push((gguf_name(&name), quantize(&shape, &data)));
    }
    tensors.extend(extra.iter().map(|(name, data)| ((*name).to_owned(), quantize(&[data.len()], data))));
    tensors
}

pub(crate) fn write_tensors(path: &Path, tensors: &[(String, QTensor)], metadata: &BTreeMap<String, Meta>) {
    let metadata = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect::<Vec<_>>();
    let tensors = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect::<Vec<_>>();
    gguf_file::write(&mut std::fs::File::create(path).unwrap(), &metadata, &tensors).unwrap();
}

pub(crate) fn write_gguf(
    path: &Path,
    config: &ModelConfig,
    kind: GgmlDType,
    metadata: &BTreeMap<String, Meta>,
    extra: &[(&str, Vec<f32>)],
) {
    write_tensors(path, &gguf_tensors(config, kind, extra), metadata);
}

pub(crate) fn gguf_model(class: &str, kind: GgmlDType) -> (TempDir, PathBuf, ModelConfig) {
    let config = parse(&block_config(class)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, &config, kind, &metadata(&config), &[]);
    (folder, path, config)
}

#[test]
fn unquantized_models_come_back_exactly_with_q_and_k_in_order() {
    for class in ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        for kind in [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16] {
            let (_folder, path, config) = gguf_model(class, kind);
            let model = Checkpoint::open(&path).unwrap();
            let read = model.config();
            assert_eq!((read.rms_norm_eps, read.rope_theta), (1e-5, 50000.0));
            assert_eq!(*read, config);
            for (name, (shape, data)) in dense(&config) {
                assert_eq!(model.shape(&name), Some(shape.clone()));
                let rounded: Vec<f32> = match kind {
                    GgmlDType::F16 if shape.len() == 2 => {
                        data.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect()
                    }
                    GgmlDType::BF16 if shape.len() == 2 => {
                        data.iter().map(|v| half::bf16::from_f32(*v).to_f32()).collect()
                    }
                    _ => data,
                };
                assert_eq!(model.values(&name).unwrap(), rounded, "{class} {kind:?} {name}");
                let raw = model.raw(&name).unwrap();
                assert_eq!(raw.bytes.len(), raw.dtype.size() * rounded.len());
                assert_eq!(model.dtype(&name), Some(raw.dtype));
            }
        }
    }
}

#[test]
fn quantized_models_agree_with_candle() {
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_0, GgmlDType::Q5_1, GgmlDType::Q8_0] {
        let (_folder, path, config) = gguf_model("LlamaForCausalLM", kind);
        compare_with_candle(&path, &config);
    }
    // Rows of whole blocks of 256.
    let mut wide = block_config("LlamaForCausalLM");
    wide.as_object_mut()
        .unwrap()
        .extend(json!({"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}).as_object().unwrap().clone());
    let config = parse(&wide).unwrap();
    for kind in [GgmlDType::Q4K, GgmlDType::Q5K, GgmlDType::Q6K] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        write_gguf(&path, &config, kind, &metadata(&config), &[]);
        compare_with_candle(&path, &config);
    }
}

/// Every tensor of a llama file against candle's reader and dequantizer, bit for bit.
fn compare_with_candle(path: &Path, config: &ModelConfig) {
    let model = Checkpoint::open(path).unwrap();
    let mut file = std::fs::File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    for spec in config.tensors() {
        let reference = content.tensor(&mut file, &gguf_name(&spec.name), &Device::Cpu).unwrap();
        let reference = reference.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let columns = if spec.shape.len() == 2 { spec.shape[1] } else { 1 };
        let found = model.values(&spec.name).unwrap();
        let found = match spec.name.as_str() {
            name if name.contains("q_proj") => interleave(&found, config.num_heads, columns),
            name if name.contains("k_proj") => interleave(&found, config.num_kv_heads, columns),
            _ => found,
        };
        let differing = found.iter().zip(&reference).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        assert_eq!((differing, found.len()), (0, reference.len()), "{}", spec.name);
    }
}

#[test]
fn smollm2_agrees_with_candle() {
    let Some(path) = fixture("smollm2_agrees_with_candle", "models/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let config = Checkpoint::open(&path).unwrap().config().clone();
    assert_eq!((config.num_layers, config.num_heads, config.num_kv_heads, config.head_dim), (30, 9, 3, 64));
    assert!(config.tie_word_embeddings && config.eos_token_ids == [2]);
    assert_eq!((config.rope_theta, config.rms_norm_eps, config.vocab_size), (1e5, 1e-5, 49152));
    compare_with_candle(&path, &config);
}

#[test]
fn blocks_agree_with_the_reference_quantizer() {
    let golden: Value = serde_json::from_str(include_str!("../golden/gguf_blocks.json")).unwrap();
    for (kind, id) in [("Q4_0", GgmlDType::Q4_0), ("Q4_1", GgmlDType::Q4_1), ("Q8_0", GgmlDType::Q8_0)] {
        for row in golden[kind].as_array().unwrap() {
            let (blocks, expected) = (hex(&row["bytes"]), hex(&row["values_le_f32"]));
            // The golden row takes the place of a row of `blk.0.ffn_up` in an otherwise ordinary file.
            let (_folder, path, _) = gguf_model("Qwen3ForCausalLM", id);
            let mut bytes = std::fs::read(&path).unwrap();
            let content = gguf_file::Content::read(&mut std::io::Cursor::new(&bytes)).unwrap();
            let start = content.tensor_data_offset + content.tensor_infos["blk.0.ffn_up.weight"].offset;
            bytes[start as usize..][..blocks.len()].copy_from_slice(&blocks);
            std::fs::write(&path, bytes).unwrap();
            let values = Checkpoint::open(&path).unwrap().values("model.layers.0.mlp.up_proj.weight").unwrap();
            let found = values[..64].iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
            assert_eq!(found, expected, "{kind}");
        }
    }
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn rope_scaling_is_read_from_metadata_and_from_factors() {
    let config = parse(&block_config("LlamaForCausalLM")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut linear = metadata(&config);
    linear.insert("llama.rope.scaling.type".into(), Meta::String("linear".into()));
    linear.insert("llama.rope.scaling.factor".into(), Meta::F32(2.0));
    write_gguf(&path, &config, GgmlDType::F32, &linear, &[]);
    assert_eq!(Checkpoint::open(&path).unwrap().config().rope_scaling, RopeScaling::Linear { factor: 2.0 });
    linear.insert("llama.rope.scaling.type".into(), Meta::String("yarn".into()));
    write_gguf(&path, &config, GgmlDType::F32, &linear, &[]);
    assert!(Checkpoint::open(&path).err().unwrap().to_string().contains("yarn"));

    // Eight frequencies at theta 50000, stretched as Llama 3.2 does: the first six turn fast enough to stay (their
    // wavelength is under 2048), the last turns once in 81,000 positions and is divided by 32, the one between blends.
    let wavelength = |index: f64| std::f64::consts::TAU * 50000_f64.powf(index / 8.0);
    let share = (8192.0 / wavelength(6.0) - 1.0) / 3.0;
    assert!(wavelength(5.0) < 8192.0 && wavelength(6.0) > 8192.0 && wavelength(7.0) > 8192.0 && share < 0.0);
    let blend = (8192.0 / wavelength(5.0) - 1.0) / 3.0;
    let fifth = if wavelength(5.0) < 2048.0 { 1.0 } else { 1.0 / ((1.0 - blend) / 32.0 + blend) } as f32;
    let factors = vec![1.0, 1.0, 1.0, 1.0, 1.0, fifth, 32.0, 32.0];
    write_gguf(&path, &config, GgmlDType::F32, &metadata(&config), &[("rope_freqs.weight", factors.clone())]);
    let scaling = Checkpoint::open(&path).unwrap().config().rope_scaling;
    let expected =
        RopeScaling::Llama3 { factor: 32.0, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max_positions: 8192 };
    assert_eq!(scaling, expected);
    let mut unknown = factors;
    unknown[7] = 3.0;
    write_gguf(&path, &config, GgmlDType::F32, &metadata(&config), &[("rope_freqs.weight", unknown)]);
    assert!(Checkpoint::open(&path).err().unwrap().to_string().contains("rope_freqs.weight"));
}
