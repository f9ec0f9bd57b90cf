//! Where the tensors of GGUF files lie: directories that contradict themselves, and models that are split over several files.

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;
use tempfile::TempDir;
use workbench_model::{Checkpoint, WeightSource};

use crate::common::{assert_holds, open_error, parse};
use crate::gguf_files::{block_config, gguf_model, gguf_tensors, metadata, write_tensors};

/// Where the directory entry of a tensor says its type (four bytes) and, behind it, its offset (eight).
fn type_at(bytes: &[u8], name: &str) -> usize {
    let text = [&(name.len() as u64).to_le_bytes(), name.as_bytes()].concat();
    let at = bytes.windows(text.len()).position(|window| window == text).unwrap() + text.len();
    let dimensions = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    at + 4 + 8 * dimensions as usize
}

fn offset(bytes: &[u8], name: &str) -> u64 {
    let at = type_at(bytes, name) + 4;
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn set_offset(bytes: &mut [u8], name: &str, offset: u64) {
    let at = type_at(bytes, name) + 4;
    bytes[at..at + 8].copy_from_slice(&offset.to_le_bytes());
}

/// llama.cpp refuses these too: it expects each tensor where the one before it ends.
#[test]
fn tensors_lie_one_after_the_other() {
    let (folder, path, _) = gguf_model("LlamaForCausalLM", GgmlDType::Q8_0);
    let whole = std::fs::read(&path).unwrap();
    let target = folder.path().join("bad.gguf");
    let error = |bytes: &[u8]| {
        std::fs::write(&target, bytes).unwrap();
        open_error(&target)
    };
    let (gate, up) = ("blk.0.ffn_gate.weight", "blk.0.ffn_up.weight");
    let (first, second) = (offset(&whole, gate), offset(&whole, up));
    let mut swapped = whole.clone();
    set_offset(&mut swapped, gate, second);
    set_offset(&mut swapped, up, first);
    assert_holds(&error(&swapped), &["bad.gguf", gate, "offset", "gap"]);
    for (shift, what) in [(-32_i64, "overlaps"), (32, "gap"), (1, "no multiple of 32"), (-2, "no multiple of 32")] {
        let mut moved = whole.clone();
        set_offset(&mut moved, gate, first.wrapping_add_signed(shift));
        assert_holds(&error(&moved), &["bad.gguf", gate, what, &first.to_string()]);
    }
    // Types of other sizes: Q4_0 and Q5_1 for Q8_0, F16 for F32.
    for (name, kind) in [(gate, 2_u32), (gate, 7), ("blk.0.attn_norm.weight", 1), ("blk.1.ffn_norm.weight", 1)] {
        let mut retyped = whole.clone();
        let at = type_at(&retyped, name);
        retyped[at..at + 4].copy_from_slice(&kind.to_le_bytes());
        assert_holds(&error(&retyped), &["bad.gguf", "offset"]);
    }
    let last = "output_norm.weight";
    assert!([gate, up, "token_embd.weight"].iter().all(|name| offset(&whole, name) < offset(&whole, last)));
    let mut retyped = whole.clone();
    let at = type_at(&retyped, last);
    retyped[at..at + 4].copy_from_slice(&1_u32.to_le_bytes());
    assert_holds(&error(&retyped), &["bad.gguf", "bytes after its last tensor", last]);
    assert_holds(&error(&[&whole[..], &[0; 64]].concat()), &["bad.gguf", "bytes after its last tensor"]);
}

/// Writes a model in parts of these tensors; the metadata stand in the first, as `gguf-split` leaves them.
fn split(ranges: &[std::ops::Range<usize>]) -> TempDir {
    let config = parse(&block_config("LlamaForCausalLM")).unwrap();
    let tensors = gguf_tensors(&config, GgmlDType::Q8_0, &[]);
    let folder = tempfile::tempdir().unwrap();
    for (no, range) in ranges.iter().enumerate() {
        let mut entries = if no == 0 { metadata(&config) } else { Default::default() };
        entries.insert("split.no".into(), Meta::U16(no as u16));
        entries.insert("split.count".into(), Meta::U16(ranges.len() as u16));
        entries.insert("split.tensors.count".into(), Meta::I32(tensors.len() as i32));
        let name = format!("model-{:05}-of-{:05}.gguf", no + 1, ranges.len());
        write_tensors(&folder.path().join(name), &tensors[range.clone()], &entries);
    }
    folder
}

fn part(folder: &TempDir, no: usize) -> std::path::PathBuf {
    folder.path().join(format!("model-{no:05}-of-00003.gguf"))
}

#[test]
fn a_split_model_is_the_model() {
    let (_folder, path, config) = gguf_model("LlamaForCausalLM", GgmlDType::Q8_0);
    let reference = Checkpoint::open(&path).unwrap();
    let count = config.tensors().len();
    // The first part may hold metadata alone.
    for ranges in [[0..5, 5..11, 11..count], [0..0, 0..11, 11..count]] {
        let folder = split(&ranges);
        for named in 1..=3 {
            let model = Checkpoint::open(&part(&folder, named)).unwrap();
            assert_eq!(model.config(), reference.config());
            assert_eq!(model.files(), [1, 2, 3].map(|no| part(&folder, no)), "all of them decide what the model is");
            for name in reference.names() {
                assert_eq!(model.values(&name).unwrap(), reference.values(&name).unwrap(), "{name}");
            }
            model.check_finite().unwrap();
        }
    }
}

#[test]
fn parts_that_are_missing_or_of_another_model() {
    let count = parse(&block_config("LlamaForCausalLM")).unwrap().tensors().len();
    let whole = || split(&[0..5, 5..11, 11..count]);
    let folder = whole();
    std::fs::remove_file(part(&folder, 2)).unwrap();
    assert_holds(&open_error(&part(&folder, 1)), &["model-00002-of-00003.gguf", "does not exist", "part 2 of the 3"]);
    let folder = whole();
    std::fs::rename(part(&folder, 1), folder.path().join("alone.gguf")).unwrap();
    assert_holds(&open_error(&folder.path().join("alone.gguf")), &["alone.gguf", "part 1 of 3"]);
    let folder = whole();
    std::fs::copy(part(&folder, 3), part(&folder, 2)).unwrap();
    assert_holds(&open_error(&part(&folder, 1)), &["model-00002-of-00003.gguf", "`split.no` is 2, expected 1"]);
    let folder = split(&[0..5, 4..11, 11..count]);
    assert_holds(&open_error(&part(&folder, 1)), &["model-00002-of-00003.gguf", "is in", "model-00001-of-00003.gguf"]);
    let folder = split(&[0..5, 6..11, 11..count]);
    assert_holds(&open_error(&part(&folder, 1)), &["split.tensors.count"]);
}
