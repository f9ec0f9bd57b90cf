//! Scores of a small real model against lm-eval's and transformers', for tokenizers that put different tokens around a text.
//!
//! The peers' figures: `HFLM(pretrained=folder, dtype="float32")` of lm-eval 0.4.13 with its `loglikelihood_rolling` and
//! `loglikelihood`, and the mean over the same windows of `AutoModelForCausalLM(…)(ids).logits` of transformers 5.17 in float32,
//! on the folders that [`variant`] makes.

#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{Conduct, Loaded, Sequence, Windows, perplexity, style::Style, task::TextItem, windows, windows_of};
use crate::graph::{
    node::DataSource,
    params::{Protocol, TextOptions, Toggle},
};

/// A file of the large fixtures, if they are there.
fn fixture(test: &str, name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let found = Some(root.join(name)).filter(|path| path.exists());
    if found.is_none() {
        eprintln!("skipped: {test}: {name} is not among the fixtures");
    }
    found
}

/// stories260K (a BOS `<s>` of id 1, `</s>` of id 2) with a tokenizer that puts tokens around a text.
struct Variant {
    prefix: &'static [u32],
    suffix: &'static [u32],
    bos_token: Option<&'static str>,
    config_bos: Option<u32>,
}

const PLAIN: Variant = Variant { prefix: &[1], suffix: &[], bos_token: Some("<s>"), config_bos: Some(1) };

fn variant(from: &Path, made: &Variant) -> (tempfile::TempDir, Loaded) {
    let folder = tempfile::tempdir().unwrap();
    let read = |name: &str| -> Value { serde_json::from_slice(&fs::read(from.join(name)).unwrap()).unwrap() };
    let write = |name: &str, value: &Value| fs::write(folder.path().join(name), value.to_string()).unwrap();
    let mut tokenizer = read("tokenizer.json");
    let name = |id: &u32| ["<unk>", "<s>", "</s>"][*id as usize];
    let token = |id: &u32| json!({ "SpecialToken": { "id": name(id), "type_id": 0 } });
    let text = json!({ "Sequence": { "id": "A", "type_id": 0 } });
    let single: Vec<Value> =
        made.prefix.iter().map(token).chain([text.clone()]).chain(made.suffix.iter().map(token)).collect();
    let known = |id: u32, name: &str| json!({ "id": name, "ids": [id], "tokens": [name] });
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing", "single": single, "pair": [text, { "Sequence": { "id": "B", "type_id": 0 } }],
        "special_tokens": { "<s>": known(1, "<s>"), "</s>": known(2, "</s>") },
    });
    write("tokenizer.json", &tokenizer);
    let mut settings = read("tokenizer_config.json");
    settings["bos_token"] = made.bos_token.into();
    write("tokenizer_config.json", &settings);
    let mut config = read("config.json");
    config["bos_token_id"] = made.config_bos.into();
    write("config.json", &config);
    fs::copy(from.join("model.safetensors"), folder.path().join("model.safetensors")).unwrap();
    let loaded = Loaded::open(folder.path()).unwrap();
    (folder, loaded)
}

fn options(protocol: Protocol, max_seq_length: usize, blocks: Option<usize>) -> TextOptions {
    TextOptions {
        protocol,
        max_seq_length,
        blocks,
        add_bos: Toggle::Auto,
        text_column: "text".into(),
        characters: Some(4000),
        batch_size: 1,
        task: "t".into(),
    }
}

/// By variant: the loss of four blocks of 64 tokens; the sums of log-likelihoods of two documents and of one that is longer than
/// the model's context; the log-likelihoods of a continuation of nothing and of a prompt.
const SCORES: [(Variant, f64, [f64; 3], [f64; 2]); 6] = [
    (PLAIN, 1.974_974, [-129.9296, -136.3875, -3502.4768], [-14.470_24, -0.000_72]),
    // No config names the BOS that the tokenizer adds.
    (
        Variant { bos_token: None, config_bos: None, ..PLAIN },
        1.974_974,
        [-148.2622, -150.674, -3548.8955],
        [-16.100_58, -0.000_72],
    ),
    // It adds two tokens.
    (Variant { prefix: &[2, 1], ..PLAIN }, 2.074_945, [-177.6362, -181.9766, -3571.0323], [-14.470_24, -0.001_53]),
    // It adds none; what config.json calls BOS is no business of the tokenizer's.
    (
        Variant { prefix: &[], bos_token: None, config_bos: Some(7), ..PLAIN },
        1.544_178,
        [-126.7321, -133.4135, -3559.1319],
        [-16.100_58, -0.000_44],
    ),
    (
        Variant { prefix: &[], bos_token: Some("</s>"), config_bos: Some(7), ..PLAIN },
        1.544_178,
        [-126.7321, -133.4135, -3559.1319],
        [-16.100_58, -0.000_44],
    ),
    // It ends a text as well: a token of a document, but nothing that stands within a prompt and its continuation.
    (Variant { suffix: &[2], ..PLAIN }, 1.974_974, [-159.2742, -164.6649, -3528.0415], [-14.470_24, -0.000_72]),
];

/// lm-eval 0.4.13 encodes a prompt alone and takes from the whole only what follows: `me` behind `ti` is not `time`.
#[test]
fn a_token_across_the_seam_of_a_continuation_is_not_seen() {
    let test = "a_token_across_the_seam_of_a_continuation_is_not_seen";
    let Some(model) = fixture(test, "models/stories260K") else { return };
    let loaded = Loaded::open(&model).unwrap();
    let style = Style::of(&loaded.tokenizer, false, Toggle::Auto).unwrap();
    let mut nothing = ();
    let mut alone = Conduct { progress: &(), notes: &mut nothing };
    for (prompt, next, wanted) in
        [("Once upon a ti", "me there was", -11.891_862), ("One day, Lil", "y saw a bi", -24.709_745)]
    {
        let (ids, context) = style.continued(prompt, next, &loaded.tokenizer).unwrap();
        assert_ne!(ids, loaded.tokenizer.encode(&format!("{prompt}{next}"), true).unwrap(), "a token lies across");
        let scores = alone.score(&loaded, &[Sequence { ids: &ids, scored: context }], 1).unwrap();
        let found: f64 = scores[0].iter().map(|s| s.log_probability).sum();
        assert!((found - wanted).abs() < 5e-5, "{prompt}|{next}: {found} for {wanted}");
    }
}

#[test]
fn scores_are_those_of_the_peers_whatever_stands_around_a_text() {
    let test = "scores_are_those_of_the_peers_whatever_stands_around_a_text";
    let (Some(model), Some(text)) =
        (fixture(test, "models/stories260K"), fixture(test, "data/tinystories/valid_first.txt"))
    else {
        return;
    };
    let stories: String = fs::read_to_string(&text).unwrap().chars().take(4000).collect();
    let paragraphs = stories.split("\n\n").map(|p| p.trim_matches('\n').to_owned());
    let long = format!("Once upon a time there was a {}big dog.", "very ".repeat(700));
    let mut nothing = ();
    let mut alone = Conduct { progress: &(), notes: &mut nothing };
    for (index, (made, blocks, documents, continued)) in SCORES.iter().enumerate() {
        let (_folder, loaded) = variant(&model, made);
        let near = |found: f64, wanted: f64, of: f64| {
            assert!((found - wanted).abs() < of, "variant {index}: {found} for {wanted}");
        };
        let found =
            windows(&DataSource::File(text.clone()), &options(Protocol::Blocks, 64, Some(4)), &loaded.tokenizer);
        let found = found.unwrap();
        let item = TextItem { id: "1".to_owned(), text: fs::read_to_string(&text).unwrap() };
        let of_a_task = windows_of(vec![item], true, &options(Protocol::Blocks, 64, Some(4)), &loaded.tokenizer);
        let ids = |found: &Windows| found.windows.iter().map(|window| window.ids.clone()).collect::<Vec<_>>();
        assert_eq!(ids(&found), ids(&of_a_task.unwrap()), "variant {index}: a task's text is cut as a file's");
        near(perplexity(&loaded, found, 1, &mut alone).unwrap().mean("nll"), *blocks, 1e-5);
        let texts = paragraphs.clone().take(2).chain([long.clone()]).enumerate();
        let texts = texts.map(|(id, text)| TextItem { id: id.to_string(), text }).collect();
        let found = windows_of(texts, false, &options(Protocol::Rolling, 512, None), &loaded.tokenizer).unwrap();
        let found = perplexity(&loaded, found, 1, &mut alone).unwrap();
        for (item, wanted) in found.items.iter().zip(documents) {
            near(-item.sums["nll"], *wanted, wanted.abs() * 2e-6);
        }
        let style = Style::of(&loaded.tokenizer, false, Toggle::Auto).unwrap();
        for ((prompt, next), wanted) in [("", " Once upon a time"), ("Once upon a ", "time")].iter().zip(continued) {
            let (ids, context) = style.continued(prompt, next, &loaded.tokenizer).unwrap();
            let asked = [Sequence { ids: &ids, scored: context }];
            let scores = alone.score(&loaded, &asked, 1).unwrap();
            near(scores[0].iter().map(|s| s.log_probability).sum(), *wanted, 2e-5);
        }
    }
}

/// Every option of the text of an evaluation decides what is scored. `batch_size` and `task` are for the step, which names them.
#[test]
fn every_option_of_a_text_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let rows = folder.path().join("rows.jsonl");
    let lines = (3..9).map(|n| format!("{{\"text\": \"w{n} w{n} w4\", \"other\": \"w{} w5 w6\"}}\n", n + 9));
    fs::write(&rows, lines.collect::<String>()).unwrap();
    let story = folder.path().join("story.txt");
    fs::write(&story, "w3 w4 w5 w6 w7 w8 w9 w10 w11 w12 w13 w14").unwrap();
    let tokenizer = crate::data::tests::words(&[0], &[], Some("<a>"));
    let read = |path: &Path, options: &TextOptions| {
        let found = windows(&DataSource::File(path.to_owned()), options, &tokenizer).unwrap();
        found.windows.into_iter().map(|window| window.ids).collect::<Vec<_>>()
    };
    let base = TextOptions {
        protocol: Protocol::Blocks,
        max_seq_length: 4,
        blocks: Some(2),
        add_bos: Toggle::Auto,
        text_column: "text".into(),
        characters: None,
        batch_size: 1,
        task: "text".into(),
    };
    let whole = TextOptions { blocks: None, ..base.clone() };
    for (name, path, one, other) in [
        ("protocol", &rows, &base, TextOptions { protocol: Protocol::Rolling, ..base.clone() }),
        ("max_seq_length", &rows, &base, TextOptions { max_seq_length: 5, ..base.clone() }),
        ("blocks", &rows, &base, TextOptions { blocks: Some(3), ..base.clone() }),
        ("add_bos", &rows, &base, TextOptions { add_bos: Toggle::Off, ..base.clone() }),
        ("text_column", &rows, &base, TextOptions { text_column: "other".into(), ..base.clone() }),
        ("characters", &story, &whole, TextOptions { characters: Some(20), ..whole.clone() }),
    ] {
        assert_ne!(read(path, one), read(path, &other), "{name}");
    }
}
