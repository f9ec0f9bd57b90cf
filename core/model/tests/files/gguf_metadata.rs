//! Metadata of GGUF files that change what a model computes. What they mean is what llama.cpp makes of them.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;
use workbench_model::config::RopeScaling;
use workbench_model::{Checkpoint, ModelConfig, Tokenizer};

use crate::common::{assert_holds, parse};
use crate::gguf_files::{block_config, metadata, write_gguf};

/// The configuration of a llama file with these entries, or the error with its hint.
fn read(entries: &[(&str, Meta)]) -> Result<ModelConfig, String> {
    read_as(GgmlDType::F32, entries)
}

fn read_as(kind: GgmlDType, entries: &[(&str, Meta)]) -> Result<ModelConfig, String> {
    let config = parse(&block_config("LlamaForCausalLM")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut metadata = metadata(&config);
    metadata.extend(entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    write_gguf(&path, &config, kind, &metadata, &[]);
    let opened = Checkpoint::open(&path).map(|model| model.config().clone());
    opened.map_err(|error| format!("{error} | {}", error.hint().unwrap_or_default()))
}

fn text(text: &str) -> Meta {
    Meta::String(text.into())
}

#[test]
fn rotary_factors_count_under_each_of_their_names() {
    let scaling = |entries: &[(&str, Meta)]| read(entries).unwrap().rope_scaling;
    let (kind, new, old) = ("llama.rope.scaling.type", "llama.rope.scaling.factor", "llama.rope.scale_linear");
    let four = RopeScaling::Linear { factor: 4.0 };
    assert_eq!(scaling(&[(new, Meta::F32(4.0))]), four);
    assert_eq!(scaling(&[(old, Meta::F32(4.0))]), four);
    assert_eq!(scaling(&[(kind, text("linear")), (old, Meta::F32(4.0))]), four);
    assert_eq!(scaling(&[(new, Meta::F32(4.0)), (old, Meta::F32(4.0))]), four);
    // 0 stands for none, and a type of "none" switches the factor off.
    assert_eq!(scaling(&[(new, Meta::F32(0.0)), (old, Meta::F32(4.0))]), four);
    assert_eq!(scaling(&[(new, Meta::F32(1.0))]), RopeScaling::None);
    assert_eq!(scaling(&[(kind, text("none")), (new, Meta::F32(4.0))]), RopeScaling::None);
    let differ = read(&[(new, Meta::F32(4.0)), (old, Meta::F32(2.0))]).unwrap_err();
    assert_holds(&differ, &["model.gguf", "`llama.rope.scaling.factor` is 4", "`llama.rope.scale_linear` is 2"]);
    assert_holds(&read(&[(kind, text("yarn")), (new, Meta::F32(4.0))]).unwrap_err(), &[kind, "yarn", "linear"]);
    assert_holds(&read(&[(kind, Meta::U32(1))]).unwrap_err(), &[kind, "1", "not a text"]);
}

#[test]
fn numbers_that_json_could_not_hold_are_refused() {
    for (key, value) in [
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::NAN)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(f32::INFINITY)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(-1e-5)),
        ("llama.attention.layer_norm_rms_epsilon", Meta::F32(0.0)),
        ("llama.attention.layer_norm_rms_epsilon", text("1e-5")),
        ("llama.rope.freq_base", Meta::F32(f32::INFINITY)),
        ("llama.rope.freq_base", Meta::F32(f32::NAN)),
        ("llama.rope.freq_base", Meta::F32(0.0)),
        ("llama.rope.scaling.factor", Meta::F32(f32::NAN)),
        ("llama.rope.scale_linear", Meta::F32(-2.0)),
        ("tokenizer.ggml.bos_token_id", Meta::U32(40)),
        ("tokenizer.ggml.eos_token_id", Meta::U32(u32::MAX)),
        ("tokenizer.ggml.bos_token_id", Meta::I32(-1)),
        ("tokenizer.ggml.bos_token_id", text("<s>")),
        ("llama.vocab_size", Meta::U32(41)),
        ("general.quantization_version", Meta::U32(1)),
    ] {
        let kind = if key.contains("version") { GgmlDType::Q8_0 } else { GgmlDType::F32 };
        assert_holds(&read_as(kind, &[(key, value)]).unwrap_err(), &["model.gguf", key]);
    }
    assert!(read(&[("tokenizer.ggml.bos_token_id", Meta::U32(39)), ("llama.vocab_size", Meta::U32(40))]).is_ok());
    let config = parse(&block_config("LlamaForCausalLM")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    let mut entries = metadata(&config);
    entries.remove("llama.attention.layer_norm_rms_epsilon");
    write_gguf(&path, &config, GgmlDType::F32, &entries, &[]);
    assert_holds(&crate::common::open_error(&path), &["layer_norm_rms_epsilon", "missing"]);
}

#[test]
fn what_would_change_the_function_is_not_dropped() {
    for (key, value) in [
        ("llama.attention.clamp_kqv", Meta::F32(8.0)),
        ("llama.attention.sliding_window", Meta::U32(64)),
        ("llama.attention.causal", Meta::Bool(false)),
        ("llama.attention.scale", Meta::F32(0.5)),
        ("llama.attn_logit_softcapping", Meta::F32(50.0)),
        ("llama.logit_scale", Meta::F32(0.25)),
        ("llama.expert_count", Meta::U32(8)),
        ("llama.rope.scaling.attn_factor", Meta::F32(1.2)),
        ("llama.use_parallel_residual", Meta::Bool(true)),
        ("llama.tensor_data_layout", text("reference")),
        ("llama.something_new", Meta::F32(1.0)),
        ("general.type", text("adapter")),
    ] {
        assert_holds(&read(&[(key, value)]).unwrap_err(), &["model.gguf", key]);
    }
    let harmless = [
        ("llama.attention.clamp_kqv", Meta::F32(0.0)),
        ("llama.attention.causal", Meta::Bool(true)),
        ("llama.attention.scale", Meta::F32(0.25)),
        ("llama.logit_scale", Meta::F32(1.0)),
        ("llama.rope.scaling.original_context_length", Meta::U32(128)),
        ("llama.tensor_data_layout", text("Meta AI original pth")),
        ("general.type", text("model")),
        ("general.name", text("a name")),
        ("quantize.imatrix.file", text("somewhere")),
    ];
    assert_eq!(read(&harmless).unwrap(), read(&[]).unwrap());
}

/// A byte-level tokenizer of three letters with these entries.
fn tokenizer(entries: &[(&str, Meta)]) -> Result<Tokenizer, String> {
    let mut config = block_config("LlamaForCausalLM");
    config["vocab_size"] = 5.into();
    let config = parse(&config).unwrap();
    let texts = |list: &[&str]| Meta::Array(list.iter().map(|entry| text(entry)).collect());
    let mut metadata = metadata(&config);
    let base = [
        ("model", text("gpt2")),
        ("pre", text("gpt-2")),
        ("tokens", texts(&["<s>", "</s>", "a", "b", "ab"])),
        ("token_type", Meta::Array([3, 3, 1, 1, 1].map(Meta::I32).into())),
        ("merges", texts(&["a b"])),
        ("bos_token_id", Meta::U32(0)),
        ("eos_token_id", Meta::U32(1)),
    ];
    metadata.extend(base.into_iter().chain(entries.iter().cloned()).map(|(k, v)| (format!("tokenizer.ggml.{k}"), v)));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    write_gguf(&path, &config, GgmlDType::F32, &metadata, &[]);
    let read = Checkpoint::open(&path).and_then(|model| Tokenizer::from_checkpoint(&model));
    read.map_err(|error| error.to_string())
}

#[test]
fn what_would_change_the_tokens_is_not_dropped() {
    let on = || Meta::Bool(true);
    let ids = |entries: &[(&str, Meta)]| tokenizer(entries).unwrap().encode("ab", true).unwrap();
    assert_eq!(ids(&[]), [4]);
    assert_eq!(ids(&[("add_bos_token", on())]), [0, 4]);
    assert_eq!(ids(&[("add_eos_token", on())]), [4, 1]);
    assert_eq!(ids(&[("add_bos_token", on()), ("add_eos_token", on())]), [0, 4, 1]);
    // Padding or an unknown token that is a piece of text by its kind stays one: "b" is read, and does not end an answer.
    for key in ["padding_token_id", "unknown_token_id"] {
        let named = tokenizer(&[(key, Meta::U32(3))]).unwrap();
        assert_eq!((named.stop_ids(), named.encode("ab", true).unwrap()), (vec![1], vec![4]), "{key}");
    }
    let kinds = Meta::Array([3, 3, 1, 3, 1].map(Meta::I32).into());
    let padded = tokenizer(&[("padding_token_id", Meta::U32(3)), ("token_type", kinds)]).unwrap();
    assert_eq!((padded.stop_ids(), padded.encode("ab", true).unwrap()), (vec![1, 3], vec![2, 3]));
    assert_eq!(tokenizer(&[("eom_token_id", Meta::U32(2))]).unwrap().stop_ids(), [1, 2]);
    // Padding that names no token is in many files, and never read.
    assert_eq!(tokenizer(&[("padding_token_id", Meta::U32(u32::MAX))]).unwrap().stop_ids(), [1]);
    for (key, value) in [
        ("add_sep_token", on()),
        ("remove_extra_whitespaces", on()),
        ("add_bos_token", Meta::U32(1)),
        ("bos_token_id", Meta::U32(5)),
        ("eot_token_id", Meta::U32(99)),
        ("precompiled_charsmap", Meta::Array(vec![Meta::U8(1)])),
        ("something_new", on()),
        ("token_type", Meta::Array([3, 3, 1, 1, 9].map(Meta::I32).into())),
    ] {
        assert_holds(&tokenizer(&[(key, value)]).err().unwrap(), &["model.gguf", key]);
    }
}
