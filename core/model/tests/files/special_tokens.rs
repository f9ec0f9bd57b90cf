//! Special tokens that `tokenizer.json` does not name. The ids and texts are those of transformers 5.17:
//! `AutoTokenizer.from_pretrained(folder)`, then `tokenizer(text)["input_ids"]` and `decode(ids, skip_special_tokens=True)`.

use serde_json::{Value, json};
use tempfile::TempDir;
use workbench_model::{ChatTemplate, Checkpoint, ModelError, Tokenizer};

use crate::common::{assert_holds, tiny_config, tiny_tensors, write_model};

/// Tokens that `tokenizer.json` itself calls its own: id, content, special.
type Added = [(u32, &'static str, bool)];

/// A file beside it.
type File = (&'static str, Value);

/// Files beside it.
type Files = [File];

/// A byte-level vocabulary in which `<|end|>` (9) and `<|pad|>` (14) stand as ordinary entries.
fn tokenizer_json(added: &Added) -> Value {
    let vocab = json!({"<s>": 0, "</s>": 1, "a": 2, "b": 3, "<": 4, "s": 5, ">": 6, "/": 7, "Ġ": 8, "<|end|>": 9, "|": 10,
        "e": 11, "n": 12, "d": 13, "<|pad|>": 14, "p": 15, "x": 16});
    let added = added.iter().map(|(id, content, special)| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": special})
    });
    json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": added.collect::<Vec<_>>(),
        "normalizer": null, "post_processor": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []}})
}

const OWN: [(u32, &str, bool); 2] = [(0, "<s>", true), (1, "</s>", true)];

fn folder(added: &Added, files: &Files) -> TempDir {
    let folder = write_model(&tiny_config(), &tiny_tensors(&tiny_config()));
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer_json(added).to_string()).unwrap();
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content.to_string()).unwrap();
    }
    folder
}

fn tokenizer(added: &Added, files: &Files) -> Result<Tokenizer, ModelError> {
    Tokenizer::from_checkpoint(&Checkpoint::open(folder(added, files).path()).unwrap())
}

const CONFIG: &str = "tokenizer_config.json";
const MAP: &str = "special_tokens_map.json";
const ADDED: &str = "added_tokens.json";

/// `<|end|>` as `added_tokens_decoder` spells it.
fn end(special: bool) -> Value {
    json!({"content": "<|end|>", "lstrip": false, "rstrip": false, "normalized": false, "single_word": false,
        "special": special})
}

#[test]
fn tokens_are_special_wherever_a_model_says_so() {
    let decoder = |special: bool| json!({"added_tokens_decoder": {"9": end(special)}});
    let mut unmarked = end(true);
    unmarked.as_object_mut().unwrap().remove("special");
    let cases: [(&str, &Added, Vec<File>); 12] = [
        ("decoder", &OWN, vec![(CONFIG, decoder(true))]),
        ("additional", &OWN, vec![(CONFIG, json!({"additional_special_tokens": ["<|end|>"]}))]),
        ("extra", &OWN, vec![(CONFIG, json!({"extra_special_tokens": ["<|end|>"]}))]),
        ("extra by name", &OWN, vec![(CONFIG, json!({"extra_special_tokens": {"image_token": "<|end|>"}}))]),
        ("own name", &OWN, vec![(CONFIG, json!({"image_token": "<|end|>"}))]),
        ("eos", &OWN, vec![(CONFIG, json!({"eos_token": "<|end|>"}))]),
        ("map, eos", &OWN, vec![(MAP, json!({"eos_token": "<|end|>"}))]),
        ("map, eos as an object", &OWN, vec![(MAP, json!({"eos_token": unmarked}))]),
        ("map, additional", &OWN, vec![(MAP, json!({"additional_special_tokens": ["<|end|>"]}))]),
        ("added and map", &OWN, vec![(ADDED, json!({"<|end|>": 9})), (MAP, json!({"eos_token": "<|end|>"}))]),
        ("named over its flag", &[(9, "<|end|>", false)], vec![(CONFIG, json!({"eos_token": "<|end|>"}))]),
        ("decoder over its flag", &[(9, "<|end|>", false)], vec![(CONFIG, decoder(true))]),
    ];
    for (case, added, files) in cases {
        let tokenizer = tokenizer(added, &files).unwrap();
        let ids = tokenizer.encode("a<|end|>b<|pad|>x", true).unwrap();
        assert_eq!(ids, [2, 9, 3, 4, 10, 15, 2, 13, 10, 6, 16], "{case}");
        assert_eq!(tokenizer.decode(&ids, true).unwrap(), "ab<|pad|>x", "{case}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "a<|end|>b<|pad|>x", "{case}");
    }
    // Tokens of their own that are not special: read whole, and kept in the text.
    for files in [vec![(CONFIG, decoder(false))], vec![(ADDED, json!({"<|end|>": 9}))]] {
        let tokenizer = tokenizer(&OWN, &files).unwrap();
        let ids = tokenizer.encode("a<|end|>b", true).unwrap();
        assert_eq!((ids.as_slice(), tokenizer.decode(&ids, true).unwrap().as_str()), (&[2, 9, 3][..], "a<|end|>b"));
    }
    // What nobody names stays text.
    assert_eq!(tokenizer(&OWN, &[]).unwrap().encode("a<|end|>", true).unwrap(), [2, 4, 10, 11, 12, 13, 10, 6]);
    // Where the decoder is there, the older files are not looked at.
    let files = [
        (CONFIG, json!({"added_tokens_decoder": {"0": {"content": "<s>", "special": true}}})),
        (MAP, json!({"eos_token": "<|end|>"})),
    ];
    let tokenizer = tokenizer(&OWN, &files).unwrap();
    assert_eq!(tokenizer.encode("a<|end|>", true).unwrap(), [2, 4, 10, 11, 12, 13, 10, 6]);
    assert_eq!(tokenizer.eos_ids(), [3]);
}

#[test]
fn habits_of_added_tokens_and_new_ids() {
    let mut greedy = end(true);
    greedy["lstrip"] = json!(true);
    greedy["rstrip"] = json!(true);
    let stripping = tokenizer(&OWN, &[(CONFIG, json!({"added_tokens_decoder": {"9": greedy}}))]).unwrap();
    assert_eq!(stripping.encode("a <|end|> b", true).unwrap(), [2, 9, 3]);
    for files in [
        vec![(CONFIG, json!({"added_tokens_decoder": {"17": {"content": "<|new|>", "special": true}}}))],
        vec![(ADDED, json!({"<|new|>": 17}))],
        vec![(CONFIG, json!({"eos_token": "<|new|>"}))],
    ] {
        assert_eq!(tokenizer(&OWN, &files).unwrap().encode("a<|new|>b", true).unwrap(), [2, 17, 3]);
    }
}

#[test]
fn the_ends_among_them_end_generation() {
    let stops = |files: &Files| tokenizer(&OWN, files).unwrap().stop_ids();
    // The configuration of the model names 3.
    assert_eq!(stops(&[]), [3]);
    assert_eq!(stops(&[(MAP, json!({"eos_token": "<|end|>"}))]), [3, 9]);
    assert_eq!(stops(&[(MAP, json!({"eos_token": "<|end|>", "pad_token": "<|pad|>"}))]), [3, 9, 14]);
    assert_eq!(stops(&[(CONFIG, json!({"eos_token": end(true), "pad_token": "<|end|>"}))]), [3, 9]);
    assert_eq!(tokenizer(&OWN, &[(MAP, json!({"pad_token": "<|pad|>"}))]).unwrap().eos_ids(), [3]);
    // A model of 17 embeddings cannot write what would be the 18th token.
    let mut small = tiny_config();
    small["vocab_size"] = json!(17);
    let config = crate::common::parse(&small).unwrap();
    let bytes = tokenizer_json(&OWN).to_string().into_bytes();
    let settings = json!({"eos_token": "<|new|>", "bos_token": "<|new|>"});
    let read = Tokenizer::from_bytes(&bytes, &settings, &config, "tokenizer.json".as_ref()).unwrap();
    assert_eq!((read.stop_ids(), read.bos_id()), (vec![3], None));
    assert_holds(&read.encode("<|new|>", true).unwrap_err().to_string(), &["id 17", "17 embeddings"]);
}

#[test]
fn templates_write_every_token_with_a_name() {
    let folder = folder(
        &OWN,
        &[
            (
                CONFIG,
                json!({"chat_template": "{{ bos_token }}{{ eos_token }}{{ image_token }}{{ sep_token }}",
            "bos_token": "<s>", "extra_special_tokens": {"image_token": "<|pad|>"}}),
            ),
            (MAP, json!({"eos_token": "<|end|>", "sep_token": {"content": "</s>"}})),
        ],
    );
    let model = Checkpoint::open(folder.path()).unwrap();
    for template in [ChatTemplate::from_checkpoint(&model), ChatTemplate::from_folder(folder.path())] {
        let text = template.unwrap().unwrap().render(&[], false, &serde_json::Map::new()).unwrap();
        assert_eq!(text, "<s><|end|><|pad|></s>");
    }
}

#[test]
fn files_that_contradict_each_other_are_errors() {
    let error = |files: &Files| {
        let error = tokenizer(&OWN, files).err().unwrap();
        format!("{error} | {}", error.hint().unwrap_or_default())
    };
    let moved = json!({"added_tokens_decoder": {"25": {"content": "<|new|>"}}});
    assert_holds(&error(&[(CONFIG, moved)]), &["tokenizer_config.json", "`<|new|>` at 25", "id 17"]);
    assert_holds(&error(&[(ADDED, json!({"<|end|>": 10}))]), &["`<|end|>` at 10", "id 9"]);
    let two = [(CONFIG, json!({"eos_token": "</s>"})), (MAP, json!({"eos_token": "<|end|>"}))];
    assert_holds(&error(&two), &["special_tokens_map.json", "`eos_token`", "<|end|>", "tokenizer_config.json", "</s>"]);
    let lists = json!({"extra_special_tokens": ["<|end|>"], "additional_special_tokens": ["<|pad|>"]});
    assert_holds(&error(&[(CONFIG, lists)]), &["`extra_special_tokens`", "`additional_special_tokens`", "differ"]);
    assert_holds(&error(&[(CONFIG, json!({"extra_special_tokens": [3]}))]), &["extra_special_tokens", "3"]);
    assert_holds(&error(&[(CONFIG, json!({"added_tokens_decoder": {"x": "a"}}))]), &["added_tokens_decoder", "`x`"]);
    assert_holds(&error(&[(MAP, json!([1]))]), &["special_tokens_map.json", "not a JSON object"]);
    assert_holds(&error(&[(ADDED, json!({"<|end|>": "9"}))]), &["added_tokens.json", "<|end|>"]);
}
