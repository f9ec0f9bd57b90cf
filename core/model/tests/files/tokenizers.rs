//! Tokenizers of folders and of GGUF files.

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Meta;
use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::checkpoint::CheckpointWriter;
use workbench_model::{Checkpoint, ModelError, Tokenizer};

use crate::common::{assert_holds, fixture, parse, tiny_config, tiny_tensors, write_model};
use crate::gguf_files::{block_config, metadata, write_gguf};

fn texts(list: &[&str]) -> Meta {
    Meta::Array(list.iter().map(|text| Meta::String((*text).into())).collect())
}

/// A GGUF file with this vocabulary; the model has as many embeddings as there are tokens.
fn gguf_with(vocab_size: usize, entries: &[(&str, Meta)]) -> TempDir {
    let mut config = block_config("LlamaForCausalLM");
    config["vocab_size"] = json!(vocab_size);
    let config = parse(&config).unwrap();
    let mut metadata = metadata(&config);
    metadata.extend(entries.iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value.clone())));
    let folder = tempfile::tempdir().unwrap();
    write_gguf(&folder.path().join("model.gguf"), &config, GgmlDType::F32, &metadata, &[]);
    folder
}

fn tokenizer_of(folder: &TempDir) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_checkpoint(&Checkpoint::open(&folder.path().join("model.gguf")).unwrap())
}

/// A byte-level vocabulary of digits, `a`, `s`, apostrophe and space, in which any run of digits could be merged.
fn byte_level(pre: &str, extra: &[(&str, Meta)]) -> Result<Tokenizer, ModelError> {
    let tokens = ["<e>", "1", "2", "a", "s", "'", "Ġ", "12", "1212", "Ġa", "as", "<b>", "'s", "<u>"];
    let kinds = [3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 3, 1, 4].map(Meta::I32);
    let mut entries = vec![
        ("model", Meta::String("gpt2".into())),
        ("pre", Meta::String(pre.into())),
        ("tokens", texts(&tokens)),
        ("token_type", Meta::Array(kinds.into())),
        ("merges", texts(&["1 2", "12 12", "Ġ a", "a s", "' s"])),
        ("bos_token_id", Meta::U32(11)),
        ("eos_token_id", Meta::U32(0)),
    ];
    entries.extend_from_slice(extra);
    tokenizer_of(&gguf_with(tokens.len(), &entries))
}

#[test]
fn byte_level_splits_follow_the_named_rule() {
    let encode = |pre: &str, text: &str| byte_level(pre, &[]).unwrap().encode(text, false).unwrap();
    // One run of digits, each digit alone, each digit alone, runs of at most three.
    assert_eq!(encode("gpt-2", "1212"), [8]);
    assert_eq!(encode("smollm", "1212"), [1, 2, 1, 2]);
    assert_eq!(encode("qwen2", "1212"), [1, 2, 1, 2]);
    assert_eq!(encode("llama-bpe", "1212"), [7, 1, 2]);
    // A contraction is a piece of its own in every rule; a space belongs to the word after it.
    for pre in ["gpt-2", "smollm", "qwen2", "llama-bpe"] {
        assert_eq!(encode(pre, "a's a"), [3, 12, 9], "{pre}");
    }
    assert_holds(&byte_level("brand-new", &[]).err().unwrap().to_string(), &["brand-new", "tokenizer.ggml.pre"]);
}

#[test]
fn a_gguf_tokenizer_becomes_the_files_of_a_folder() {
    let tokens = ["<e>", "<t>", "a", "b", "ab", "<b>"];
    let kinds = [3, 3, 1, 1, 1, 3].map(Meta::I32);
    let folder = gguf_with(
        tokens.len(),
        &[
            ("model", Meta::String("gpt2".into())),
            ("pre", Meta::String("qwen2".into())),
            ("tokens", texts(&tokens)),
            ("token_type", Meta::Array(kinds.into())),
            ("merges", texts(&["a b"])),
            ("bos_token_id", Meta::U32(5)),
            ("eos_token_id", Meta::U32(0)),
            ("eot_token_id", Meta::U32(1)),
            ("add_bos_token", Meta::Bool(true)),
        ],
    );
    let gguf = Checkpoint::open(&folder.path().join("model.gguf")).unwrap();
    let target = tempfile::tempdir().unwrap();
    let mut writer = CheckpointWriter::create(target.path(), gguf.config_json()).unwrap();
    for name in gguf.names() {
        let raw = gguf.raw(&name).unwrap();
        writer.put_dense(&name, raw.dtype, raw.shape, &raw.bytes).unwrap();
    }
    writer.copy_companions(&gguf).unwrap();
    writer.finish().unwrap();
    let written = Checkpoint::open(target.path()).unwrap();
    assert_eq!(written.config(), gguf.config());
    assert_eq!(written.config().eos_token_ids, [0, 1]);
    let [before, after] = [&gguf, &written].map(|model| Tokenizer::from_checkpoint(model).unwrap());
    assert_eq!(before.encode("ab<t>", true).unwrap(), [5, 4, 1]);
    assert_eq!(after.encode("ab<t>", true).unwrap(), [5, 4, 1]);
    assert_eq!((before.bos_id(), before.eos_ids()), (after.bos_id(), after.eos_ids()));
}

#[test]
fn special_tokens_are_found_in_text_and_left_out_on_request() {
    let tokenizer = byte_level("gpt-2", &[]).unwrap();
    let ids = tokenizer.encode("a<e>1<u>2", true).unwrap();
    assert_eq!(ids, [3, 0, 1, 13, 2]);
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a<e>1<u>2");
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "a1<u>2");
    assert_eq!((tokenizer.bos_id(), tokenizer.eos_ids()), (Some(11), &[0][..]));
    assert_eq!((tokenizer.token_id("Ġa"), tokenizer.token(9).as_deref()), (Some(9), Some("Ġa")));
    assert_eq!(tokenizer.vocab_size(), 14);

    // BOS is put in front where the metadata or the kind of tokenizer ask for it.
    let bos = byte_level("gpt-2", &[("add_bos_token", Meta::Bool(true))]).unwrap();
    assert_eq!(bos.encode("a", true).unwrap(), [11, 3]);
    assert_eq!(bos.encode("a", false).unwrap(), [3]);
    assert_eq!(byte_level("llama-bpe", &[]).unwrap().encode("a", true).unwrap(), [11, 3]);
}

#[test]
fn sentencepiece_merges_by_score() {
    let mut tokens = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into()];
    tokens.extend((0..=255).map(|byte| format!("<0x{byte:02X}>")));
    let pieces =
        [("▁", -9.0), ("a", -9.1), ("b", -9.2), ("c", -9.3), ("ab", -2.0), ("bc", -1.0), ("▁a", -3.0), ("abc", -4.0)];
    tokens.extend(pieces.iter().map(|(piece, _)| (*piece).to_owned()));
    let id = |piece: &str| tokens.iter().position(|token| token == piece).unwrap() as u32;
    let scores = std::iter::repeat_n(0.0, 259).chain(pieces.iter().map(|(_, score)| *score));
    let mut kinds = vec![Meta::I32(2), Meta::I32(3), Meta::I32(3)];
    kinds.extend(std::iter::repeat_n(Meta::I32(6), 256).chain(std::iter::repeat_n(Meta::I32(1), pieces.len())));
    let entries = [
        ("model", Meta::String("llama".into())),
        ("tokens", texts(&tokens.iter().map(String::as_str).collect::<Vec<_>>())),
        ("token_type", Meta::Array(kinds)),
        ("scores", Meta::Array(scores.map(Meta::F32).collect())),
        ("bos_token_id", Meta::U32(1)),
        ("eos_token_id", Meta::U32(2)),
        ("unknown_token_id", Meta::U32(0)),
    ];
    let tokenizer = tokenizer_of(&gguf_with(tokens.len(), &entries)).unwrap();
    // `bc` scores above `ab`; then `▁a` above `abc`.
    assert_eq!(tokenizer.encode("abc", true).unwrap(), [1, id("▁a"), id("bc")]);
    // A second word has its own `▁`; a letter outside the vocabulary falls back to its bytes.
    let ids = tokenizer.encode("ab é", false).unwrap();
    let bytes = [3 + 0xC3, 3 + 0xA9];
    assert_eq!(ids, [&[id("▁"), id("ab"), id("▁")][..], &bytes].concat());
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab é");
}

#[test]
fn stories_vocabulary_survives_the_way_through_gguf() {
    let test = "stories_vocabulary_survives_the_way_through_gguf";
    let Some(folder) = fixture(test, "models/stories260K") else { return };
    let original = Checkpoint::open(&folder).unwrap();
    let json: Value = serde_json::from_slice(&original.companion("tokenizer.json").unwrap().unwrap()).unwrap();
    let vocab: BTreeMap<u64, &str> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), &token[..]))
        .collect();
    // The earlier a token first appears as the result of a merge, the higher its score.
    let merges = json["model"]["merges"].as_array().unwrap();
    let rank = |token: &str| {
        merges.iter().position(|merge| match merge {
            Value::String(text) => text.replacen(' ', "", 1) == token,
            pair => format!("{}{}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()) == token,
        })
    };
    let scores = vocab.values().map(|token| Meta::F32(rank(token).map_or(-1e6, |rank| -(rank as f32))));
    let kinds = vocab.keys().map(|id| {
        Meta::I32(match id {
            0 => 2,
            1 | 2 => 3,
            3..259 => 6,
            _ => 1,
        })
    });
    let entries = [
        ("model", Meta::String("llama".into())),
        ("tokens", texts(&vocab.values().copied().collect::<Vec<_>>())),
        ("token_type", Meta::Array(kinds.collect())),
        ("scores", Meta::Array(scores.collect())),
        ("bos_token_id", Meta::U32(1)),
        ("eos_token_id", Meta::U32(2)),
        ("unknown_token_id", Meta::U32(0)),
    ];
    let through_gguf = tokenizer_of(&gguf_with(vocab.len(), &entries)).unwrap();
    compare(&Tokenizer::from_checkpoint(&original).unwrap(), &through_gguf);
}

#[test]
fn qwen3_vocabulary_survives_the_way_through_gguf() {
    let test = "qwen3_vocabulary_survives_the_way_through_gguf";
    let Some(file) = fixture(test, "tokenizers/qwen3/tokenizer.json") else { return };
    let bytes = std::fs::read(&file).unwrap();
    let json: Value = serde_json::from_slice(&bytes).unwrap();
    let mut tokens: BTreeMap<u64, (&str, i32)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(token, id)| (id.as_u64().unwrap(), (&token[..], 1)))
        .collect();
    for added in json["added_tokens"].as_array().unwrap() {
        let kind = if added["special"] == true { 3 } else { 4 };
        tokens.insert(added["id"].as_u64().unwrap(), (added["content"].as_str().unwrap(), kind));
    }
    let merges = json["model"]["merges"].as_array().unwrap().iter().map(|merge| match merge {
        Value::String(text) => Meta::String(text.clone()),
        pair => Meta::String(format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap())),
    });
    let entries = [
        ("model", Meta::String("gpt2".into())),
        ("pre", Meta::String("qwen2".into())),
        ("tokens", texts(&tokens.values().map(|(token, _)| *token).collect::<Vec<_>>())),
        ("token_type", Meta::Array(tokens.values().map(|(_, kind)| Meta::I32(*kind)).collect())),
        ("merges", Meta::Array(merges.collect())),
        ("eos_token_id", Meta::U32(151645)),
    ];
    let through_gguf = tokenizer_of(&gguf_with(tokens.len(), &entries)).unwrap();
    let mut config = block_config("Qwen3ForCausalLM");
    config["vocab_size"] = json!(tokens.len());
    let config = parse(&config).unwrap();
    compare(&Tokenizer::from_bytes(&bytes, &Value::Null, &config, &file).unwrap(), &through_gguf);
}

/// The same ids for texts with every kind of character, and the same texts back.
fn compare(original: &Tokenizer, other: &Tokenizer) {
    for text in [
        "Once upon a time, there was a little girl named Lily. She wasn't sad!",
        "1234567 and 3.14159\n\n\n  indented\tline   \r\n",
        "中文测试，混合 English。Café naïve — \u{1F600} e\u{301}",
        "<|im_start|>user\nHi<|im_end|>\n<think>\n\n</think>",
        "",
    ] {
        let ids = original.encode(text, true).unwrap();
        assert_eq!(other.encode(text, true).unwrap(), ids, "{text:?}");
        assert_eq!(other.decode(&ids, true).unwrap(), original.decode(&ids, true).unwrap());
    }
}

#[test]
fn smollm2_gives_the_ids_of_a_plain_byte_pair_encoder() {
    let test = "smollm2_gives_the_ids_of_a_plain_byte_pair_encoder";
    let Some(path) = fixture(test, "models/SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(&path).unwrap()).unwrap();
    // Ids computed by a direct implementation of the published algorithm and splitting rule in another language.
    let expected: [(&str, &[u32]); 3] = [
        (
            "Hello world!  It's 2024, isn't it?\n\n  def f(x):\n\treturn x**2 + 10.5",
            &[
                19556, 905, 17, 216, 657, 506, 216, 34, 32, 34, 36, 28, 3247, 982, 357, 47, 8866, 753, 275, 24, 104,
                727, 198, 197, 5406, 1792, 828, 34, 1232, 216, 33, 32, 30, 37,
            ],
        ),
        (
            "<|im_start|>user\nNaïve café — 中文测试 １２<|im_end|>\n",
            &[
                1, 4093, 198, 26062, 46494, 37366, 1841, 216, 28589, 29184, 43222, 229, 16313, 239, 216, 8083, 235,
                8083, 236, 2, 198,
            ],
        ),
        ("   leading and trailing   ", &[256, 2899, 284, 35079, 333]),
    ];
    for (text, ids) in expected {
        assert_eq!(tokenizer.encode(text, true).unwrap(), ids);
        assert_eq!(tokenizer.decode(ids, false).unwrap(), text);
    }
    let Some(text) = fixture(test, "data/wikitext2/wiki.test.raw") else { return };
    let text = std::fs::read_to_string(text).unwrap().chars().take(32_768).collect::<String>();
    let ids = tokenizer.encode(&text, false).unwrap();
    let checksum = ids.iter().enumerate().map(|(at, id)| u64::from(*id) * (at as u64 % 1009 + 1)).sum::<u64>();
    assert_eq!((ids.len(), checksum), (7616, 18_476_551_257));
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
}

#[test]
fn broken_tokenizers_are_refused_by_name() {
    let folder = write_model(&tiny_config(), &tiny_tensors(&tiny_config()));
    let error = || Tokenizer::from_checkpoint(&Checkpoint::open(folder.path()).unwrap()).err().unwrap().to_string();
    assert_holds(&error(), &["tokenizer.json", "does not exist"]);
    std::fs::write(folder.path().join("tokenizer.json"), "{}").unwrap();
    assert_holds(&error(), &["tokenizer.json", "is no tokenizer"]);

    // A vocabulary larger than the embeddings is an error where such an id appears, and only there.
    let vocab = json!({"version": "1.0", "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst",
        "stride": 0}, "padding": null, "added_tokens": [], "normalizer": null, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": null, "decoder": null, "model": {"type": "WordLevel", "unk_token": "a", "vocab": {"a": 0, "b": 40}}});
    std::fs::write(folder.path().join("tokenizer.json"), vocab.to_string()).unwrap();
    let tokenizer = Tokenizer::from_checkpoint(&Checkpoint::open(folder.path()).unwrap()).unwrap();
    // The truncation that the file remembers is not applied.
    assert_eq!(tokenizer.encode("a a a a", true).unwrap(), [0, 0, 0, 0]);
    assert_holds(&tokenizer.encode("a b", true).unwrap_err().to_string(), &["id 40", "`b`", "32 embeddings"]);

    let gguf = |entries: &[(&str, Meta)]| tokenizer_of(&gguf_with(2, entries)).err().unwrap().to_string();
    let model = |name: &str| ("model", Meta::String(name.into()));
    assert_holds(&gguf(&[]), &["model.gguf", "tokenizer.json"]);
    assert_holds(&gguf(&[model("bert"), ("tokens", texts(&["a", "b"]))]), &["model.gguf", "bert"]);
    assert_holds(&gguf(&[model("gpt2"), ("tokens", texts(&["a", "b"]))]), &["merges"]);
    assert_holds(&gguf(&[model("llama"), ("tokens", texts(&["a", "b"]))]), &["scores"]);
    let alike = [
        model("gpt2"),
        ("tokens", texts(&["a", "a"])),
        ("merges", texts(&["a a"])),
        ("pre", Meta::String("gpt-2".into())),
    ];
    assert_holds(&gguf(&alike), &["ids 0 and 1", "`a`"]);
}
