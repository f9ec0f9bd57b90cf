//! Folders that are broken in every way that downloads and editors break them. None may panic, each names its place.

use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::Checkpoint;

use crate::common::{
    Tensors, assert_holds, f32_bytes, open_error, tiny_config, tiny_tensors, values, write_config, write_model,
    write_safetensors,
};

const WEIGHTS: &str = "model.safetensors";
const NORM: &str = "model.layers.1.input_layernorm.weight";

fn model_with(change: impl FnOnce(&mut Tensors)) -> TempDir {
    let mut tensors = tiny_tensors(&tiny_config());
    change(&mut tensors);
    write_model(&tiny_config(), &tensors)
}

/// A model folder whose weight file holds these bytes.
fn model_of_bytes(bytes: &[u8]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &tiny_config());
    std::fs::write(folder.path().join(WEIGHTS), bytes).unwrap();
    folder
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

#[test]
fn missing_extra_and_misshapen_tensors() {
    let missing = model_with(|tensors| drop(tensors.remove(NORM)));
    assert_holds(&open_error(missing.path()), &[NORM, "missing"]);
    let extra = model_with(|tensors| {
        tensors.insert("model.layers.7.input_layernorm.weight".into(), tensors[NORM].clone());
    });
    assert_holds(&open_error(extra.path()), &[WEIGHTS, "model.layers.7.input_layernorm.weight", "2 layers"]);
    let misshapen = model_with(|tensors| {
        tensors.insert(NORM.into(), (Dtype::F32, vec![4, 4], f32_bytes(&values(1, 16))));
    });
    assert_holds(&open_error(misshapen.path()), &[WEIGHTS, NORM, "[4, 4]", "[16]"]);
    let wrong_type = model_with(|tensors| {
        tensors.insert(NORM.into(), (Dtype::I64, vec![16], vec![0; 128]));
    });
    assert_holds(&open_error(wrong_type.path()), &[WEIGHTS, NORM, "I64", "BF16"]);
}

#[test]
fn weights_that_are_not_finite() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let folder = model_with(|tensors| {
            let name = "model.layers.0.mlp.up_proj.weight";
            tensors.get_mut(name).unwrap().2[4 * (2 * 16 + 5)..][..4].copy_from_slice(&bad.to_le_bytes());
        });
        let model = Checkpoint::open(folder.path()).unwrap();
        let error = model.check_finite().unwrap_err().to_string();
        assert_holds(&error, &[WEIGHTS, "model.layers.0.mlp.up_proj.weight", "[2, 5]", &bad.to_string()]);
    }
}

#[test]
fn a_configuration_that_disagrees_with_the_weights() {
    let tensors = tiny_tensors(&tiny_config());
    for (key, value, part) in [
        ("num_hidden_layers", json!(3), "model.layers.2."),
        ("num_hidden_layers", json!(1), "model.layers.1."),
        ("intermediate_size", json!(32), "mlp."),
        ("vocab_size", json!(33), "embed_tokens"),
        ("architectures", json!(["LlamaForCausalLM"]), "k_norm"),
        ("num_key_value_heads", json!(4), "k_proj"),
    ] {
        let mut config = tiny_config();
        config["model_type"] = Value::Null;
        config[key] = value;
        assert_holds(&open_error(write_model(&config, &tensors).path()), &[part]);
    }
}

#[test]
fn end_tokens_that_the_model_has_no_embedding_for() {
    let folder = model_with(|_| ());
    for (ids, found) in [("32", "32"), ("[3, 40]", "40"), ("-1", "-1")] {
        std::fs::write(folder.path().join("generation_config.json"), format!("{{\"eos_token_id\": {ids}}}")).unwrap();
        assert_holds(&open_error(folder.path()), &["generation_config.json", "`eos_token_id`", found]);
    }
}

#[test]
fn files_that_are_absent_or_of_another_kind() {
    let folder = tempfile::tempdir().unwrap();
    assert_holds(&open_error(&folder.path().join("nowhere")), &["nowhere", "cannot be opened"]);
    assert_holds(&open_error(folder.path()), &["config.json", "does not exist"]);
    write_config(folder.path(), &tiny_config());
    assert_holds(&open_error(folder.path()), &[WEIGHTS, "index.json"]);
    std::fs::write(folder.path().join("pytorch_model.bin"), b"").unwrap();
    let error = Checkpoint::open(folder.path()).err().unwrap();
    assert_holds(error.hint().unwrap(), &["pytorch_model.bin", "safetensors"]);
    std::fs::write(folder.path().join("config.json"), "{").unwrap();
    assert_holds(&open_error(folder.path()), &["config.json", "JSON"]);
    std::fs::create_dir(folder.path().join(WEIGHTS)).unwrap();
    write_config(folder.path(), &tiny_config());
    assert_holds(&open_error(folder.path()), &[WEIGHTS]);
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let folder = model_with(|_| ());
    let path = folder.path().join(WEIGHTS);
    let whole = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let cuts = [0, 1, 7, 8, 9, 8 + header / 2, 8 + header, 8 + header + 1, whole.len() / 2, whole.len() - 1];
    for cut in cuts {
        let broken = model_of_bytes(&whole[..cut]);
        assert_holds(&open_error(broken.path()), &[WEIGHTS]);
    }
    let longer = model_of_bytes(&[&whole[..], &[0]].concat());
    assert_holds(&open_error(longer.path()), &[WEIGHTS, "1 bytes after its last tensor"]);
}

#[test]
fn headers_that_claim_the_impossible() {
    let open = |bytes: &[u8]| open_error(model_of_bytes(bytes).path());
    let huge = |length: u64| [&length.to_le_bytes()[..], b"{}"].concat();
    assert_holds(&open(&huge(u64::MAX)), &[WEIGHTS, "header of 18446744073709551615 bytes"]);
    assert_holds(&open(&huge(5 << 30)), &[WEIGHTS, "header of 5368709120 bytes"]);
    assert_holds(&open(&huge(4000)), &[WEIGHTS, "has only 2"]);
    assert_holds(&open(&with_header("not json", b"")), &[WEIGHTS, "header"]);
    assert_holds(&open(&with_header("[]", b"")), &[WEIGHTS, "header"]);
    assert_holds(&open(&with_header("\u{0}\u{0}", b"")), &[WEIGHTS, "header"]);
    let entry = |entry: Value| open(&with_header(&json!({"spoilt": entry}).to_string(), &[0; 16]));
    for (broken, part) in [
        (json!({"dtype": "F32", "shape": [u64::MAX, u64::MAX], "data_offsets": [0, 16]}), "does not fit"),
        (json!({"dtype": "F32", "shape": [1_u64 << 40], "data_offsets": [0, 1_u64 << 42]}), "16"),
        (json!({"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}), "does not fit"),
        (json!({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}), "malformed"),
        (json!({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}), "does not fit"),
        (json!({"dtype": "Q17", "shape": [4], "data_offsets": [0, 16]}), "Q17"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}), "gap"),
        (json!({"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}), "belongs to no part"),
        (json!(3), "malformed"),
    ] {
        let message = entry(broken.clone());
        if part == "belongs to no part" {
            assert_holds(&message, &[WEIGHTS, "after its last tensor"]);
        } else {
            assert_holds(&message, &[WEIGHTS, "spoilt", part]);
        }
    }
    let overlap = json!({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "b": {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]}});
    assert_holds(&open(&with_header(&overlap.to_string(), &[0; 16])), &[WEIGHTS, "`b`", "overlaps"]);
}

#[test]
fn flipped_header_bytes_never_panic() {
    let folder = model_with(|_| ());
    let path = folder.path().join(WEIGHTS);
    let whole = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut opened = 0;
    for at in (0..8 + header).step_by(3) {
        for value in [b'0', b'9', b'"', 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            std::fs::write(&path, &bytes).unwrap();
            // Only a byte that was what it became, or a blank of the padding, can leave the file whole.
            opened += usize::from(Checkpoint::open(folder.path()).is_ok());
        }
    }
    assert!(opened * 10 < header, "{opened} damaged headers were accepted");
}

fn sharded(index: &Value, shards: &[(&str, &Tensors)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &tiny_config());
    for (name, tensors) in shards {
        write_safetensors(&folder.path().join(name), tensors);
    }
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder
}

fn index_of(tensors: &Tensors, shard: &str) -> Value {
    json!({"weight_map": tensors.keys().map(|name| (name.clone(), json!(shard))).collect::<serde_json::Map<_, _>>()})
}

#[test]
fn indexes_that_do_not_fit_their_shards() {
    let tensors = tiny_tensors(&tiny_config());
    let index = index_of(&tensors, "a.safetensors");
    let name = "index.json";
    assert_holds(&open_error(sharded(&index, &[]).path()), &[name, "`a.safetensors`", "1 are missing"]);
    for outside in ["../a.safetensors", "/etc/passwd", "..", "sub/a.safetensors", "", "."] {
        let mut index = index.clone();
        index["weight_map"][NORM] = json!(outside);
        let folder = sharded(&index, &[("a.safetensors", &tensors)]);
        assert_holds(&open_error(folder.path()), &[name, NORM, "inside the folder"]);
    }
    let mut unlisted = index.clone();
    unlisted["weight_map"].as_object_mut().unwrap().remove(NORM);
    let folder = sharded(&unlisted, &[("a.safetensors", &tensors)]);
    assert_holds(&open_error(folder.path()), &["a.safetensors", NORM, "not in the index"]);
    let mut phantom = index.clone();
    phantom["weight_map"]["phantom"] = json!("a.safetensors");
    let folder = sharded(&phantom, &[("a.safetensors", &tensors)]);
    assert_holds(&open_error(folder.path()), &[name, "phantom", "does not hold it"]);
    for broken in [json!({}), json!({"weight_map": {}}), json!({"weight_map": {"a": 3}}), json!([])] {
        assert_holds(&open_error(sharded(&broken, &[]).path()), &[name]);
    }
    let folder = sharded(&index, &[]);
    std::fs::write(folder.path().join("a.safetensors"), b"short").unwrap();
    assert_holds(&open_error(folder.path()), &["a.safetensors", "5 bytes"]);
}
