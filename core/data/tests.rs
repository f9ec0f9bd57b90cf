//! How texts become sequences, with tokenizers that put different tokens around a text.

mod odd;
mod pieces;

use std::path::Path;

use serde_json::{Value, json};
use workbench_model::{
    ModelConfig,
    tokenizer::{ChatTemplate, Message, Tokenizer},
};

use super::*;
use crate::graph::{
    node::DataSource,
    params::{Toggle, TokenOptions},
};

/// A tokenizer of words: `<a>`, `<b>` and `<e>` are 0 to 2, `w3` to `w19` their own numbers. `before` and `behind` stand around
/// a text; `bos` is what a config calls BOS.
pub(crate) fn words(before: &[u32], behind: &[u32], bos: Option<&str>) -> Tokenizer {
    let name = |id: &u32| ["<a>", "<b>", "<e>"][*id as usize];
    let special = |id: &u32| json!({ "SpecialToken": { "id": name(id), "type_id": 0 } });
    let sequence = |id: &str| json!({ "Sequence": { "id": id, "type_id": 0 } });
    let single: Vec<Value> =
        before.iter().map(special).chain([sequence("A")]).chain(behind.iter().map(special)).collect();
    let known = |id: u32| (name(&id).to_owned(), json!({ "id": name(&id), "ids": [id], "tokens": [name(&id)] }));
    let vocabulary: serde_json::Map<String, Value> = (0..3_u32)
        .map(|id| (name(&id).to_owned(), id.into()))
        .chain((3..20_u32).map(|id| (format!("w{id}"), id.into())))
        .collect();
    let added = |id: u32| {
        json!({ "id": id, "content": name(&id), "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
    };
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": (0..3).map(added).collect::<Vec<_>>(),
        "normalizer": null, "pre_tokenizer": { "type": "WhitespaceSplit" }, "decoder": null,
        "post_processor": { "type": "TemplateProcessing", "single": single, "pair": [sequence("A"), sequence("B")],
            "special_tokens": (0..3).map(known).collect::<serde_json::Map<_, _>>() },
        "model": { "type": "WordLevel", "vocab": vocabulary, "unk_token": "w19" },
    });
    let config = json!({ "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 20, "hidden_size": 8,
        "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "hidden_act": "silu" });
    let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
    let settings = json!({ "bos_token": bos });
    Tokenizer::from_bytes(tokenizer.to_string().as_bytes(), &settings, &config, Path::new("tokenizer.json")).unwrap()
}

fn options(length: usize, concatenate: bool) -> TokenOptions {
    TokenOptions {
        num_calibration_samples: None,
        max_seq_length: length,
        shuffle: false,
        seed: None,
        concatenate,
        text_column: "text".into(),
        add_bos: Toggle::Auto,
        chat_template: Toggle::Auto,
        characters: None,
    }
}

fn made(documents: &[Document], one_text: bool, options: &TokenOptions, tokenizer: &Tokenizer) -> Sequences {
    let template =
        ChatTemplate::new("<a>{% for m in messages %}{{ ' ' + m.content }}{% endfor %}", &Value::Null).unwrap();
    let found = documents.iter().cloned().map(Ok);
    sequences_of(found, one_text, options, tokenizer, Some(&template)).unwrap()
}

fn text(text: &str) -> Document {
    Document::Text(text.into())
}

/// A sequence is as long as was asked for, with what the tokenizer puts in front; the names of configs do not matter.
#[test]
fn sequences_of_one_text_count_what_stands_in_front() {
    let story = [text("w3 w4 w5 w6 w7 w8 w9")];
    for bos in [Some("<a>"), Some("<e>"), None] {
        let found = made(&story, true, &options(4, true), &words(&[0], &[], bos));
        assert_eq!(found.ids, [[0, 3, 4, 5], [0, 6, 7, 8]], "{bos:?}");
        assert_eq!(found.learn[0], [false, true, true, true]);
    }
    let found = made(&story, true, &options(4, true), &words(&[0, 1], &[], Some("<a>")));
    assert_eq!(found.ids, [[0, 1, 3, 4], [0, 1, 5, 6], [0, 1, 7, 8]]);
    assert_eq!(found.facts["bos"], "`<a>` `<b>` before each sequence");
    let off = TokenOptions { add_bos: Toggle::Off, ..options(4, true) };
    assert_eq!(made(&story, true, &off, &words(&[0], &[2], None)).ids, [[3, 4, 5, 6]]);
    let on = TokenOptions { add_bos: Toggle::On, ..options(4, true) };
    assert_eq!(made(&story, true, &on, &words(&[], &[], Some("<b>"))).ids[0], [1, 3, 4, 5]);
    // A text that spells what stands in front has it once, and one that begins with a part of it keeps that.
    let tokenizer = words(&[0, 1], &[], Some("<a>"));
    assert_eq!(made(&[text("<a> <b> w3 w4 w5")], true, &options(4, true), &tokenizer).ids, [[0, 1, 3, 4]]);
    assert_eq!(made(&[text("<a> w3 w4")], true, &options(4, true), &tokenizer).ids, [[0, 1, 0, 3]]);
    for (content, ids) in [("<a> <b> w3 w4 w5", [0, 1, 3, 4]), ("<a> w3 w4", [0, 1, 0, 3])] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let source = DataSource::File(file.path().to_owned());
        assert_eq!(sequences(&source, &options(4, true), &tokenizer, None).unwrap().ids, [ids], "a file of {content}");
    }
    let two = options(2, true);
    let error = sequences_of([Ok(text("w3"))].into_iter(), true, &two, &words(&[0, 1], &[], None), None).unwrap_err();
    assert!(error.message.contains("`<a>` `<b>`"), "{error}");
}

#[test]
fn documents_have_the_tokenizers_tokens_around_them() {
    let stories = [text("w3 w4 w5"), text("w6"), text("w7 w8")];
    let tokenizer = words(&[0], &[2], Some("<a>"));
    let found = made(&stories, false, &options(4, true), &tokenizer);
    assert_eq!(found.ids, [[0, 3, 4, 5], [2, 0, 6, 2], [0, 7, 8, 2]]);
    assert_eq!(found.facts["behind_each_text"], "`<e>`");
    // One alone is cut as transformers cuts, which keeps what stands around it.
    let found = made(&stories, false, &options(4, false), &tokenizer);
    assert_eq!(found.ids, [[0, 3, 4, 2], [0, 7, 8, 2]]);
    assert_eq!(
        (found.facts["documents_truncated"].as_u64(), found.facts["documents_too_short"].as_u64()),
        (Some(1), Some(1))
    );
    // A text that spells its own beginning gets no second one.
    assert_eq!(made(&[text("<a> w3 w4")], false, &options(8, false), &tokenizer).ids, [[0, 3, 4, 2]]);
}

/// What a template writes is all that a conversation begins and ends with.
#[test]
fn conversations_are_encoded_as_they_stand() {
    let tokenizer = words(&[0], &[2], Some("<a>"));
    let chat = Document::Chat(vec![Message::new("user", "w3 w4"), Message::new("assistant", "w5")]);
    for (length, concatenate) in [(4, true), (8, false)] {
        let found = made(std::slice::from_ref(&chat), false, &options(length, concatenate), &tokenizer);
        assert_eq!(found.ids, [[0, 3, 4, 5]], "concatenate: {concatenate}");
        assert_eq!(found.learn, [[false, false, false, true]]);
    }
    let through_template = TokenOptions { chat_template: Toggle::On, ..options(3, true) };
    assert_eq!(made(&[text("w3 w4 w5 w6 w7")], true, &through_template, &tokenizer).ids, [[0, 3, 4], [5, 6, 7]]);
    let off = TokenOptions { chat_template: Toggle::Off, ..options(8, false) };
    let template = ChatTemplate::new("x", &Value::Null).unwrap();
    let error = sequences_of([Ok(chat)].into_iter(), false, &off, &tokenizer, Some(&template)).unwrap_err();
    assert!(error.message.contains("chat_template is off"), "{error}");
}

/// Each option changes what is read: a field of the parameters that nothing reads has no case here that passes.
#[test]
fn every_option_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let lines = (3..9).map(|n| format!("{{\"text\": \"w{n} w{n} w4\", \"other\": \"w{} w5 w6\"}}\n", n + 9));
    std::fs::write(&rows, lines.collect::<String>()).unwrap();
    let story = folder.path().join("story.txt");
    std::fs::write(&story, "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14").unwrap();
    let tokenizer = words(&[0], &[], Some("<a>"));
    let template = ChatTemplate::new("{% for m in messages %}{{ m.content }} w17{% endfor %}", &Value::Null).unwrap();
    let read = |path: &Path, options: &TokenOptions| {
        sequences(&DataSource::File(path.to_owned()), options, &tokenizer, Some(&template)).unwrap().ids
    };
    let base = TokenOptions { num_calibration_samples: Some(3), ..options(4, true) };
    let drawn = TokenOptions { shuffle: true, seed: Some(1), ..base.clone() };
    let TokenOptions {
        num_calibration_samples: _,
        max_seq_length: _,
        shuffle: _,
        seed: _,
        concatenate: _,
        text_column: _,
        add_bos: _,
        chat_template: _,
        characters: _,
    } = &base;
    for (name, path, one, other) in [
        ("num_calibration_samples", &rows, &base, TokenOptions { num_calibration_samples: Some(2), ..base.clone() }),
        ("max_seq_length", &rows, &base, TokenOptions { max_seq_length: 5, ..base.clone() }),
        ("shuffle", &rows, &base, drawn.clone()),
        ("seed", &rows, &drawn, TokenOptions { seed: Some(2), ..drawn.clone() }),
        ("concatenate", &rows, &base, TokenOptions { concatenate: false, max_seq_length: 3, ..base.clone() }),
        ("text_column", &rows, &base, TokenOptions { text_column: "other".into(), ..base.clone() }),
        ("add_bos", &rows, &base, TokenOptions { add_bos: Toggle::Off, ..base.clone() }),
        ("chat_template", &rows, &base, TokenOptions { chat_template: Toggle::On, ..base.clone() }),
        (
            "characters",
            &story,
            &TokenOptions { num_calibration_samples: None, ..base.clone() },
            TokenOptions { num_calibration_samples: None, characters: Some(12), ..base.clone() },
        ),
    ] {
        assert_ne!(read(path, one), read(path, &other), "{name}");
    }
}
