//! A text in pieces against the same text as a whole, which is what `tokenizers` makes of it.

#![allow(clippy::print_stderr)]

use std::path::Path;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use super::*;
use crate::ModelConfig;

/// So small that a text of a few thousand characters has many pieces.
const SMALL: Sizes = Sizes { piece: 2048, overlap: 768 };

fn tokenizer(bytes: &[u8]) -> Tokenizer {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 1 << 20,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": false,
    });
    let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    Tokenizer::from_bytes(bytes, &Value::Null, &config, Path::new("tokenizer.json")).unwrap()
}

/// Whatever a text can hold that tokenizers are particular about.
fn text(characters: usize, seed: u64) -> String {
    const PARTS: [&str; 24] = [
        "the",
        "cat",
        "un",
        "believ",
        "able",
        "walked",
        "'s",
        "don't",
        "123",
        "45678901234",
        ".",
        "...",
        "?!",
        "(\"",
        " ",
        "  ",
        "\n",
        "\n\n\n",
        "\t\t",
        "\r\n",
        "猫坐在垫子上",
        "été",
        "e\u{301}",
        "🧑\u{200d}🚀",
    ];
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut text = String::new();
    while text.len() < characters {
        match random.random_range(0..60) {
            0 => text.push_str("<s>"),
            1 => text.push_str("<|im_end|>"),
            2 => text.push_str(&" ".repeat(random.random_range(1..90))),
            3 => text.push_str(&"a".repeat(random.random_range(1..90))),
            _ => text.push_str(PARTS[random.random_range(0..PARTS.len())]),
        }
        if random.random_bool(0.5) {
            text.push(' ');
        }
    }
    text
}

/// The tokens of a text that comes in parts of odd sizes, and the most text that was ever at hand.
fn streamed(tokenizer: &Tokenizer, text: &str, sizes: Sizes) -> (Vec<u32>, usize) {
    let mut stream = Stream::of_sizes(tokenizer, sizes);
    let (mut ids, mut most, mut rest, mut size) = (Vec::new(), 0, text, 1);
    while !rest.is_empty() {
        let (now, later) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
        ids.extend(stream.push(now).unwrap());
        most = most.max(stream.text.len());
        (rest, size) = (later, size * 7 % 997 + 1);
    }
    ids.extend(stream.finish().unwrap());
    (ids, most)
}

/// Compares texts of all kinds; with `bounded` no more than two pieces may ever be at hand.
fn compare(name: &str, tokenizer: &Tokenizer, texts: &[String], bounded: bool) {
    for (index, text) in texts.iter().enumerate() {
        let whole = tokenizer.encode_whole(text, false).unwrap();
        let (ids, most) = streamed(tokenizer, text, SMALL);
        assert!(ids == whole, "{name}: text {index} of {} characters", text.len());
        assert!(!bounded || most <= 3 * SMALL.piece, "{name}: {most} bytes of text {index} were at hand");
    }
}

fn random_texts() -> Vec<String> {
    // Beginnings and ends of every length, and long texts.
    let short = (0..40).map(|i| text(i * 173, i as u64));
    short.chain((0..4).map(|i| text(60_000, 1000 + i))).collect()
}

/// A tokenizer of every kind, with a vocabulary made of the texts' own parts.
fn made(normalizer: Value, pre_tokenizer: Value, model: Value) -> Tokenizer {
    let special = |id: usize, content: &str, strip: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": strip, "rstrip": strip, "normalized": false,
            "special": true})
    };
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
        "added_tokens": [special(0, "<s>", false), special(1, "<|im_end|>", true)], "post_processor": null, "decoder": null,
        "model": model,
    });
    tokenizer(file.to_string().as_bytes())
}

/// Characters of the texts and merges of some of them, as BPE.
fn bpe(alphabet: &[&str], merges: &[(&str, &str)], unknown: Option<&str>, fuse: bool) -> Value {
    let mut tokens: Vec<String> = ["<s>", "<|im_end|>", "<unk>"].map(str::to_owned).into();
    tokens.extend(alphabet.iter().map(|c| (*c).to_owned()));
    tokens.extend(merges.iter().map(|(a, b)| format!("{a}{b}")));
    let mut vocabulary = serde_json::Map::new();
    for token in tokens {
        let id = vocabulary.len();
        vocabulary.entry(token).or_insert(id.into());
    }
    json!({"type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null, "end_of_word_suffix": null,
        "fuse_unk": fuse, "byte_fallback": false, "ignore_merges": false, "vocab": vocabulary,
        "merges": merges.iter().map(|(a, b)| json!([a, b])).collect::<Vec<_>>()})
}

const MERGES: [(&str, &str); 12] = [
    ("t", "h"),
    ("th", "e"),
    ("a", "b"),
    ("l", "e"),
    ("ab", "le"),
    ("a", "a"),
    ("aa", "aa"),
    ("c", "a"),
    ("ca", "t"),
    ("1", "2"),
    ("12", "3"),
    ("w", "a"),
];

fn letters() -> Vec<&'static str> {
    "thecaunblivwkdonr'0123456789.?!(\"".split("").filter(|c| !c.is_empty()).collect()
}

#[test]
fn words_of_a_pattern_are_seams() {
    // As GPT-2 and Qwen2 split; unknown characters are dropped.
    let patterns = [
        r"'s|'t| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ];
    for pattern in patterns {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let steps = json!({"type": "Sequence", "pretokenizers": [split, bytes]});
        let alphabet: Vec<String> =
            tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
        let alphabet: Vec<&str> = alphabet.iter().map(String::as_str).collect();
        let mut merges = MERGES.to_vec();
        merges.extend([("Ġ", "Ġ"), ("ĠĠ", "ĠĠ"), ("Ċ", "Ċ"), ("Ġ", "the"), (".", "Ċ")]);
        let made = made(json!({"type": "NFC"}), steps, bpe(&alphabet, &merges, None, false));
        compare(pattern, &made, &random_texts(), true);
    }
}

#[test]
fn a_text_of_one_word_has_seams_where_nothing_can_merge() {
    let normalizer = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]});
    let alphabet = [letters(), vec!["▁"]].concat();
    let mut merges = MERGES.to_vec();
    merges.extend([("▁", "▁"), ("▁▁", "▁▁"), ("▁", "the"), (".", "▁"), ("d", "▁"), ("d▁", "▁the")]);
    for fuse in [false, true] {
        let made = made(normalizer.clone(), Value::Null, bpe(&alphabet, &merges, Some("<unk>"), fuse));
        compare("one word", &made, &random_texts(), true);
    }
}

/// Where no seam is known, pieces become one, and the tokens are still right.
#[test]
fn without_seams_all_is_encoded_together() {
    let pieces: Vec<Value> = [("<s>", 0.0), ("<|im_end|>", 0.0), ("<unk>", -20.0)]
        .into_iter()
        .chain(letters().into_iter().map(|c| (c, -5.0)))
        .chain([(" ", -4.0), ("aa", -7.0), ("the ", -6.0), ("cat", -6.5), ("t u", -9.0), ("12", -8.0), ("23", -8.0)])
        .map(|(token, score)| json!([token, score]))
        .collect();
    let model = json!({"type": "Unigram", "unk_id": 2, "vocab": pieces, "byte_fallback": false});
    let without_words = made(Value::Null, Value::Null, model.clone());
    compare("unigram", &without_words, &random_texts(), false);
    let metaspace = json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let with_words = made(Value::Null, metaspace, model);
    compare("unigram with words", &with_words, &random_texts(), true);
    // One word longer than any piece.
    let long = "a".repeat(5 * SMALL.piece);
    compare("a long word", &with_words, &[format!("the cat {long} the {long}")], false);
}

/// The tokenizers of real models, on real texts in their usual pieces and in small ones.
#[test]
fn real_tokenizers_and_texts() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let fixtures =
        std::env::var_os("WORKBENCH_FIXTURES").map_or_else(|| here.join("../../../shared"), |path| path.into());
    let texts =
        ["wikitext2/wiki.test.raw", "rgb/zh_fact.json", "humaneval/HumanEval.jsonl", "tinystories/valid_first.txt"];
    let texts: Vec<String> =
        texts.iter().filter_map(|name| std::fs::read_to_string(fixtures.join("data").join(name)).ok()).collect();
    let demo = here.join("../../experiments/demo/model");
    let models = ["models/stories15M", "models/stories260K", "golden/tiny_trained"].map(|name| fixtures.join(name));
    for folder in models.iter().chain([&demo]) {
        let Ok(bytes) = std::fs::read(folder.join("tokenizer.json")) else {
            eprintln!("skipped: real_tokenizers_and_texts: {} is not among the fixtures", folder.display());
            continue;
        };
        let tokenizer = tokenizer(&bytes);
        compare(&folder.display().to_string(), &tokenizer, &random_texts(), true);
        let long = text(3 * SIZES.piece, 7);
        let whole = tokenizer.encode_whole(&long, false).unwrap();
        for most in [1, 1000, whole.len() - 1, usize::MAX] {
            let ids = tokenizer.encode_first(&long, most).unwrap();
            assert!(ids.len() >= most.min(whole.len()) && whole.starts_with(&ids), "{most}");
        }
        assert!(tokenizer.encode_first(&long, 1).unwrap().len() < whole.len());
        for (index, text) in texts.iter().enumerate() {
            let text = &text[..text.floor_char_boundary(400_000.min(text.len()))];
            let whole = tokenizer.encode_whole(text, false).unwrap();
            for sizes in [SMALL, SIZES] {
                let (ids, most) = streamed(&tokenizer, text, sizes);
                assert!(ids == whole, "{}: text {index}", folder.display());
                assert!(most <= 3 * sizes.piece, "{}: {most} bytes of text {index} were at hand", folder.display());
            }
        }
    }
}
