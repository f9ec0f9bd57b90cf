//! Broken GGUF files: an error that names the file and the place, never a panic or a huge allocation.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;

use crate::common::{assert_holds, open_error, parse};
use crate::gguf_files::{block_config, gguf_model, metadata, write_gguf};

/// Opens the bytes as a GGUF file, which must fail.
fn error_of(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    std::fs::write(&path, bytes).unwrap();
    open_error(&path)
}

fn header(version: u32, tensors: u64, entries: u64) -> Vec<u8> {
    [b"GGUF".as_slice(), &version.to_le_bytes(), &tensors.to_le_bytes(), &entries.to_le_bytes()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

/// Replaces the only occurrence of a pattern.
fn patch(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

#[test]
fn absurd_counts_and_lengths() {
    assert_holds(&error_of(&header(3, u64::MAX, 0)), &["bad.gguf", "18446744073709551615 tensors"]);
    assert_holds(&error_of(&header(3, 0, 1 << 40)), &["bad.gguf", "1099511627776 metadata entries"]);
    let long_key = [header(3, 0, 1), u64::MAX.to_le_bytes().to_vec(), vec![0; 40]].concat();
    assert_holds(&error_of(&long_key), &["bad.gguf", "ends inside its header"]);
    let list = |kind: u32, count: u64| {
        [
            header(3, 0, 1),
            text("key"),
            9_u32.to_le_bytes().into(),
            kind.to_le_bytes().into(),
            count.to_le_bytes().into(),
            vec![0; 40],
        ]
        .concat()
    };
    assert_holds(&error_of(&list(4, 1 << 60)), &["bad.gguf", "array elements"]);
    assert_holds(&error_of(&list(8, 1 << 30)), &["bad.gguf", "array elements"]);
    assert_holds(&error_of(&list(77, 1)), &["bad.gguf", "unknown type 77"]);
    // Arrays of arrays of arrays: each level is one more `9, count 1`.
    let mut nested = [header(3, 0, 1), text("key"), 9_u32.to_le_bytes().to_vec()].concat();
    for _ in 0..10_000 {
        nested.extend(9_u32.to_le_bytes());
        nested.extend(1_u64.to_le_bytes());
    }
    assert_holds(&error_of(&nested), &["bad.gguf", "nests"]);
    let twice =
        [header(3, 0, 2), text("key"), vec![7, 0, 0, 0, 1], text("key"), vec![7, 0, 0, 0, 1], vec![0; 40]].concat();
    assert_holds(&error_of(&twice), &["`key` occurs twice"]);
    let not_text = [header(3, 0, 1), 2_u64.to_le_bytes().to_vec(), vec![0xff, 0xfe], vec![0; 40]].concat();
    assert_holds(&error_of(&not_text), &["not UTF-8"]);
}

#[test]
fn other_formats_and_versions() {
    assert_holds(&error_of(b""), &["bad.gguf"]);
    assert_holds(&error_of(b"GGU"), &["bad.gguf"]);
    assert_holds(&error_of(b"PK\x03\x04 a zip file, not a model"), &["bad.gguf", "GGUF"]);
    assert_holds(&error_of(&header(1, 0, 0)), &["version 1", "2 and 3"]);
    assert_holds(&error_of(&header(3_u32.swap_bytes(), 0, 0)), &["big-endian"]);
    assert_holds(&error_of(&header(3, 0, 0)), &["general.architecture", "missing"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    std::fs::write(&path, b"something").unwrap();
    assert_holds(&open_error(&path), &["model.safetensors", "neither a model folder nor a GGUF file"]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (_folder, path, _) = gguf_model("LlamaForCausalLM", GgmlDType::Q4_1);
    let whole = std::fs::read(&path).unwrap();
    for cut in (0..4096).step_by(61).chain([whole.len() / 2, whole.len() - 40]) {
        assert_holds(&error_of(&whole[..cut]), &["bad.gguf"]);
    }
}

#[test]
fn flipped_header_bytes_never_panic() {
    let (_folder, path, _) = gguf_model("Qwen3ForCausalLM", GgmlDType::Q8_0);
    let whole = std::fs::read(&path).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("bad.gguf");
    for at in (0..2600).step_by(7) {
        for value in [0x00, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            std::fs::write(&target, &bytes).unwrap();
            // Some flips only rename a key nobody reads; whatever opens must still be readable.
            if let Ok(model) = workbench_model::Checkpoint::open(&target) {
                let _finite_or_error = model.check_finite();
            }
        }
    }
}

#[test]
fn unsupported_types_are_named() {
    let (_folder, path, _) = gguf_model("LlamaForCausalLM", GgmlDType::Q8_0);
    let whole = std::fs::read(&path).unwrap();
    let entry = [
        text("blk.0.ffn_up.weight"),
        2_u32.to_le_bytes().into(),
        64_u64.to_le_bytes().into(),
        96_u64.to_le_bytes().into(),
    ]
    .concat();
    let with_type = |id: u32| [&entry[..], &id.to_le_bytes()].concat();
    for (id, name) in [(10, "Q2_K"), (20, "IQ4_NL"), (39, "MXFP4"), (4242, "id 4242")] {
        let bytes = patch(&whole, &with_type(8), &with_type(id));
        assert_holds(&error_of(&bytes), &["bad.gguf", "blk.0.ffn_up.weight", name]);
    }
}

#[test]
fn rows_that_blocks_do_not_fill_are_named() {
    let (_folder, path, _) = gguf_model("LlamaForCausalLM", GgmlDType::Q8_0);
    let whole = std::fs::read(&path).unwrap();
    let dims = [2_u32.to_le_bytes().as_slice(), &64_u64.to_le_bytes(), &96_u64.to_le_bytes()].concat();
    let entry = [&text("blk.0.ffn_up.weight"), &dims[..]].concat();
    let with_type = |id: u32| [&entry[..], &id.to_le_bytes()].concat();
    for (id, name) in [(12, "Q4_K"), (13, "Q5_K"), (14, "Q6_K")] {
        let bytes = patch(&whole, &with_type(8), &with_type(id));
        assert_holds(&error_of(&bytes), &["bad.gguf", "blk.0.ffn_up.weight", name, "rows of 64", "blocks of 256"]);
    }
}

#[test]
fn metadata_that_contradict_the_tensors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.gguf");
    let config = parse(&block_config("LlamaForCausalLM")).unwrap();
    for (key, value, parts) in [
        ("general.architecture", Meta::String("mamba".into()), ["mamba", "known are"]),
        ("llama.block_count", Meta::U32(3), ["blk.2.", "missing"]),
        ("llama.block_count", Meta::U32(1), ["blk.1.", "1 layers"]),
        ("llama.feed_forward_length", Meta::U32(128), ["ffn_gate", "[96, 64]"]),
        ("llama.attention.head_count", Meta::U32(0), ["num_attention_heads", "0"]),
        ("llama.attention.head_count_kv", Meta::U32(3), ["4 attention heads", "3"]),
        ("llama.attention.head_count_kv", Meta::Array(vec![Meta::U32(2)]), ["head_count_kv", "between layers"]),
        ("llama.rope.dimension_count", Meta::U32(8), ["rope.dimension_count", "8"]),
        ("general.alignment", Meta::U32(0), ["general.alignment", "0"]),
        ("general.alignment", Meta::U32(48), ["general.alignment", "48"]),
        ("llama.embedding_length", Meta::String("64".into()), ["embedding_length", "whole number"]),
    ] {
        let mut metadata = metadata(&config);
        metadata.insert(key.into(), value);
        // candle's writer refuses none of these, but rounds offsets by the alignment only where it is sensible.
        write_gguf(&path, &config, GgmlDType::F32, &metadata, &[]);
        let error = workbench_model::Checkpoint::open(&path).err();
        let error = error.map(|error| format!("{error} {}", error.hint().unwrap_or_default())).unwrap_or_default();
        assert_holds(&error, &parts);
        assert_holds(&error, &["bad.gguf"]);
    }
    write_gguf(&path, &config, GgmlDType::F32, &metadata(&config), &[("blk.0.ffn_gate_inp.weight", vec![0.0; 64])]);
    assert_holds(&open_error(&path), &["blk.0.ffn_gate_inp.weight", "belongs to no part"]);
}

#[test]
fn blocks_with_scales_that_are_not_finite() {
    let (_folder, path, _) = gguf_model("Qwen3ForCausalLM", GgmlDType::Q8_0);
    let mut bytes = std::fs::read(&path).unwrap();
    let content = candle_core::quantized::gguf_file::Content::read(&mut std::io::Cursor::new(&bytes)).unwrap();
    let at = content.tensor_data_offset + content.tensor_infos["blk.1.ffn_down.weight"].offset;
    bytes[at as usize..][..2].copy_from_slice(&half::f16::NAN.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let error = workbench_model::Checkpoint::open(&path).unwrap().check_finite().unwrap_err().to_string();
    assert_holds(&error, &["model.gguf", "model.layers.1.mlp.down_proj.weight", "NaN", "[0, 0]"]);
}
