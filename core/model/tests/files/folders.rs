//! Dense folders: one file or shards, every float type, and what a checkpoint says about itself.

use half::{bf16, f16};
use safetensors::Dtype;
use serde_json::json;
use workbench_model::{Checkpoint, ModelError, Tokenizer, WeightSource, checkpoint};

use crate::common::{
    Tensors, f32_bytes, fixture, tiny_config, tiny_tensors, values, write_config, write_model, write_safetensors,
};

#[test]
fn a_single_file_gives_back_what_was_written() {
    let tensors = tiny_tensors(&tiny_config());
    let folder = write_model(&tiny_config(), &tensors);
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.names(), tensors.keys().cloned().collect::<Vec<_>>());
    for (name, (_, shape, data)) in &tensors {
        let raw = model.raw(name).unwrap();
        assert_eq!((raw.dtype, raw.shape, &*raw.bytes), (checkpoint::Dtype::F32, &shape[..], &data[..]));
        assert_eq!(model.shape(name).as_ref(), Some(shape));
        assert_eq!(f32_bytes(&model.values(name).unwrap()), *data);
    }
    model.check_finite().unwrap();
    model.drop_pages(["lm_head.weight"]);
    assert_eq!(f32_bytes(&model.values("lm_head.weight").unwrap()), tensors["lm_head.weight"].2);
    assert_eq!(model.bytes_on_disk(), folder.path().join("model.safetensors").metadata().unwrap().len());
    assert_eq!(model.files(), ["config.json", "model.safetensors"].map(|name| folder.path().join(name)));
    assert!(model.shape("nonsense").is_none());
    assert!(matches!(model.values("nonsense"), Err(ModelError::Tensor { tensor, .. }) if tensor == "nonsense"));
}

#[test]
fn half_types_are_widened_and_raw_stays_as_stored() {
    let mut tensors = tiny_tensors(&tiny_config());
    let ones = values(9, 16);
    let (halves, brains) = (ones.iter().map(|v| f16::from_f32(*v)), ones.iter().map(|v| bf16::from_f32(*v)));
    let f16_data = halves.clone().flat_map(f16::to_le_bytes).collect::<Vec<_>>();
    let bf16_data = brains.clone().flat_map(bf16::to_le_bytes).collect::<Vec<_>>();
    tensors.insert("model.norm.weight".into(), (Dtype::F16, vec![16], f16_data.clone()));
    tensors.insert("model.layers.0.input_layernorm.weight".into(), (Dtype::BF16, vec![16], bf16_data));
    let folder = write_model(&tiny_config(), &tensors);
    let model = Checkpoint::open(folder.path()).unwrap();
    assert_eq!(model.values("model.norm.weight").unwrap(), halves.map(f16::to_f32).collect::<Vec<_>>());
    let widened = model.values("model.layers.0.input_layernorm.weight").unwrap();
    assert_eq!(widened, brains.map(bf16::to_f32).collect::<Vec<_>>());
    assert_eq!(model.dtype("model.layers.0.input_layernorm.weight"), Some(checkpoint::Dtype::BF16));
    assert_eq!(&*model.raw("model.norm.weight").unwrap().bytes, &f16_data[..]);
}

#[test]
fn data_at_an_odd_address_is_read_exactly() {
    let tensors = tiny_tensors(&tiny_config());
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &tiny_config());
    let path = folder.path().join("model.safetensors");
    write_safetensors(&path, &tensors);
    // The same file with a header padded to an odd length: every tensor then lies at an odd address.
    let file = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut odd = ((header + 1) as u64).to_le_bytes().to_vec();
    odd.extend_from_slice(&file[8..8 + header]);
    odd.push(b' ');
    odd.extend_from_slice(&file[8 + header..]);
    std::fs::write(&path, odd).unwrap();
    let model = Checkpoint::open(folder.path()).unwrap();
    for (name, (_, _, data)) in &tensors {
        assert_eq!(f32_bytes(&model.values(name).unwrap()), *data);
    }
}

#[test]
fn shards_are_found_through_the_index() {
    let tensors = tiny_tensors(&tiny_config());
    let folder = tempfile::tempdir().unwrap();
    write_config(folder.path(), &tiny_config());
    let mut weight_map = serde_json::Map::new();
    let (first, second): (Tensors, Tensors) =
        tensors.clone().into_iter().partition(|(name, _)| name.contains("layers.0"));
    for (shard, part) in [("model-1.safetensors", &first), ("model-2.safetensors", &second)] {
        write_safetensors(&folder.path().join(shard), part);
        weight_map.extend(part.keys().map(|name| (name.clone(), json!(shard))));
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": weight_map});
    std::fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    let model = Checkpoint::open(folder.path()).unwrap();
    for (name, (_, _, data)) in &tensors {
        assert_eq!(f32_bytes(&model.values(name).unwrap()), *data);
    }
    let files = ["config.json", "model.safetensors.index.json", "model-1.safetensors", "model-2.safetensors"];
    assert_eq!(model.files(), files.map(|name| folder.path().join(name)));
}

#[test]
fn tied_embeddings_need_no_head_and_end_tokens_come_from_both_files() {
    let mut config = tiny_config();
    config["tie_word_embeddings"] = json!(true);
    let mut tensors = tiny_tensors(&config);
    let folder = write_model(&config, &tensors);
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [5, 3]}"#).unwrap();
    let model = Checkpoint::open(folder.path()).unwrap();
    assert!(model.shape("lm_head.weight").is_none());
    assert_eq!(model.config().eos_token_ids, [3, 5]);

    // Some exports write the head although it is tied; an equal copy is no contradiction.
    let copy = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".into(), copy);
    assert!(Checkpoint::open(write_model(&config, &tensors).path()).is_ok());
    tensors.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    let folder = write_model(&config, &tensors);
    let error = Checkpoint::open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("lm_head.weight") && error.contains("tie_word_embeddings"), "{error}");
}

#[test]
fn real_folders_open_and_their_tokenizers_round_trip() {
    let test = "real_folders_open_and_their_tokenizers_round_trip";
    for (path, text) in [
        ("models/stories260K", "Once upon a time, there was a little girl."),
        ("models/stories15M", "Once upon a time, there was a little girl."),
        ("golden/tiny_trained", "Hello there, it's 12 o'clock.\n\n"),
    ] {
        let Some(folder) = fixture(test, path) else { continue };
        let model = Checkpoint::open(&folder).unwrap();
        model.check_finite().unwrap();
        let tokenizer = Tokenizer::from_checkpoint(&model).unwrap();
        let ids = tokenizer.encode(text, true).unwrap();
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), text);
        assert_eq!(tokenizer.encode_batch(&[text, ""], true).unwrap()[0], ids);
        if path.starts_with("models/") {
            assert_eq!((ids[0], tokenizer.bos_id()), (1, Some(1)));
            assert_eq!(tokenizer.encode(text, false).unwrap(), ids[1..]);
        }
    }
}
