//! The world against itself: what is fixed, what is kept apart, and whether every answer can be found where it should be.

mod baseline;
mod foreign;
mod reader;
mod separation;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use rayon::prelude::*;

use super::{
    assets::assets,
    relation::{QUESTIONS, TELLINGS, Values},
    world::{Fact, Gender, PEOPLE, THINGS, WORLD},
    *,
};
use crate::eval::task::{ChoiceItem, GenerateItem, Items, Task};

/// The demo's folder in the project.
pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo")
}

pub(super) fn digest(parts: impl IntoIterator<Item = String>) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(b"\n\n");
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

fn choice_items(name: &str) -> Vec<ChoiceItem> {
    match Task::load(&folder().join("tasks").join(name)).unwrap().items {
        Items::Choice(items) => items,
        other => panic!("{name} holds {} items of another kind", other.len()),
    }
}

/// Every fact of the world.
fn all_facts() -> Vec<Fact> {
    let kinds = [Kind::Person, Kind::Town, Kind::Thing].into_iter();
    let subjects = kinds.flat_map(|kind| (0..world::count(kind)).map(move |index| world::Entity { kind, index }));
    subjects
        .flat_map(|subject| Relation::of(subject.kind).iter().map(move |&relation| Fact { subject, relation }))
        .collect()
}

#[test]
fn the_world_never_changes_under_its_version() {
    // Another digest is another world: change `version` (and draw::SEED), write the assets anew, train anew.
    assert_eq!(version(), "demo-world-2");
    assert_eq!(digest((0..3000).map(|i| document(Split::Train, i))), TRAIN_DIGEST);
    assert_eq!(digest(documents(Split::Valid)), VALID_DIGEST);
    assert_eq!(digest(documents(Split::Test)), TEST_DIGEST);
}

const TRAIN_DIGEST: &str = "f8f7479edc96add0";
const VALID_DIGEST: &str = "f54cc08bc2f3d5e4";
const TEST_DIGEST: &str = "438d302972afd5a3";

#[test]
fn committed_files_are_what_the_generator_writes() {
    let assets = assets().unwrap();
    for (name, contents) in &assets {
        let committed = std::fs::read_to_string(folder().join(name)).unwrap();
        assert!(committed == *contents, "experiments/demo/{name} differs: run `workbench demo write experiments/demo`");
    }
    let temporary = tempfile::tempdir().unwrap();
    let written = write_assets(temporary.path()).unwrap();
    assert_eq!(written.len(), assets.len());
    for (file, (_, contents)) in written.iter().zip(&assets) {
        assert_eq!(std::fs::read_to_string(file).unwrap(), *contents);
    }
    let blocked = temporary.path().join("model/config.json/below");
    assert!(write_assets(&blocked).unwrap_err().to_string().contains("failed to write"));
}

#[test]
fn names_are_names_of_one_person_each() {
    let people: Vec<&str> = words::WOMEN.iter().chain(&words::MEN).copied().collect();
    assert_eq!(people.iter().collect::<BTreeSet<_>>().len(), PEOPLE);
    assert_eq!(words::FAMILIES.iter().collect::<BTreeSet<_>>().len(), words::FAMILIES.len());
    let things: BTreeSet<&str> = all_facts()
        .iter()
        .filter(|fact| fact.subject.kind == Kind::Thing)
        .map(|fact| WORLD.subject(fact.subject).name.as_str())
        .collect();
    assert_eq!(things.len(), THINGS);
    assert_eq!(all_facts().len(), 8 * PEOPLE + 4 * 24 + 4 * THINGS);
}

#[test]
fn values_are_spread_evenly() {
    let mut counts: BTreeMap<Relation, BTreeMap<usize, usize>> = BTreeMap::new();
    for fact in all_facts() {
        *counts.entry(fact.relation).or_default().entry(WORLD.value_index(fact)).or_default() += 1;
    }
    for (relation, counts) in counts {
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        assert!(most - least <= 1, "{relation:?}: {counts:?}");
        if let Values::Words(list) = relation.values() {
            assert_eq!(counts.len(), list.len(), "{relation:?}");
        }
    }
}

#[test]
fn wordings_have_what_they_need() {
    for fact in all_facts() {
        let wordings = fact.relation.wordings();
        for telling in 0..TELLINGS {
            let wording = fact.relation.telling(telling);
            assert!(wording.contains("{v}") || wording.contains("{a}"), "{wording}");
            assert_eq!(Fact::is_predicate(telling), !wording.ends_with('.'), "{wording}");
        }
        for question in wordings.questions {
            let (_, after) = question.split_once("{N}").unwrap();
            // A name that stood at the end would let three words of context know the answer.
            assert!(
                after.split_whitespace().count() >= 2 || after.starts_with(" is ") || after.len() > 3,
                "{question}"
            );
            assert!(question.ends_with('?') && !question.contains("{v}"), "{question}");
        }
        let distinct: BTreeSet<&str> = wordings.questions.into_iter().collect();
        assert_eq!(distinct.len(), QUESTIONS);
    }
}

#[test]
fn documents_can_be_read_from_anywhere() {
    let text = text("demo:stories/valid").unwrap();
    let documents: Vec<String> = documents(Split::Valid).collect();
    assert_eq!(text.trim_end().split("\n\n").collect::<Vec<_>>(), documents);
    assert_eq!(document(Split::Valid, 77), documents[77]);
    assert!(!document(Split::Train, 1 << 40).is_empty());
    for (name, split) in names().into_iter().zip([Split::Train, Split::Valid, Split::Test]) {
        assert_eq!((Text::by_name(name).unwrap(), split.name()), (Text::Stories(split), name));
    }
    let all: BTreeSet<Text> = names().into_iter().map(|name| Text::by_name(&format!("demo:{name}")).unwrap()).collect();
    assert_eq!(all.len(), names().len());
    for text in all.into_iter().filter(|&text| text != Text::Stories(Split::Train)) {
        assert_eq!(text.passages().count() as u64, text.count(), "{text:?}");
    }
    let error = super::text("demo:stories/tset").unwrap_err();
    assert_eq!(error.to_string(), "the demo has no text `demo:stories/tset`");
    let hint = error.hint().unwrap();
    assert!(names().iter().all(|name| hint.contains(&format!("`demo:{name}`"))), "{hint}");
}

#[test]
fn documents_are_clean_text() {
    for split in [Split::Train, Split::Valid, Split::Test] {
        for document in documents(split).take(4000) {
            assert!(document.is_ascii() && document.trim() == document && document.len() > 20, "{document}");
            for bad in ["{", "}", "  ", "\n\n", "..", " ,", " .", ",,", "?.", "?,"] {
                assert!(!document.contains(bad), "{bad:?} in {document}");
            }
            let is_story = !document.contains("Question:") && !document.contains("<|im_start|>");
            assert!(split == Split::Train || is_story, "{document}");
        }
    }
}

#[test]
fn stories_never_contradict_each_other_and_tell_every_tested_fact() {
    let reader = reader::Reader::new();
    let told: BTreeMap<(String, Relation), BTreeMap<String, usize>> = (0..60_000)
        .into_par_iter()
        .map(|index| document(Split::Train, index))
        .filter(|document| !document.contains("Question:") && !document.contains("<|im_start|>"))
        .map(|story| reader.named_facts(&story))
        .reduce(Vec::new, |mut left, mut right| {
            left.append(&mut right);
            left
        })
        .into_iter()
        .fold(BTreeMap::new(), |mut told, (name, relation, value)| {
            *told.entry((name, relation)).or_default().entry(value).or_default() += 1;
            told
        });
    let mut complete = 0;
    for fact in all_facts() {
        let Some(values) = told.get(&(WORLD.subject(fact.subject).name.clone(), fact.relation)) else { continue };
        assert_eq!(values.keys().collect::<Vec<_>>(), [WORLD.value(fact)], "{fact:?}");
        complete += 1;
    }
    assert!(complete * 100 > 95 * all_facts().len(), "{complete} facts found");
    // The tasks' answers are what the stories tell. A few facts never stand in a sentence of their own with the whole name
    // in this part of the split.
    let mut missing = 0;
    for item in choice_items("facts.toml") {
        match told.get(&reader.question(&item.prompt.question)) {
            Some(values) => assert_eq!(values.keys().collect::<Vec<_>>(), [&item.choices[item.answer]]),
            None => missing += 1,
        }
    }
    assert!(missing < 25, "{missing} tested facts not found");
}

#[test]
fn pages_hold_the_answer_or_do_not() {
    let reader = reader::Reader::new();
    let items = choice_items("reading.toml");
    let mut refusals = 0;
    for item in &items {
        let (page, question) = item.prompt.question.split_once("\nQuestion: ").unwrap();
        let (name, relation) = reader.question(&format!("Question: {question}"));
        let facts = reader.page_facts(page);
        let found: Vec<&str> =
            facts.iter().filter(|fact| fact.0 == name && fact.1 == relation).map(|fact| fact.2.as_str()).collect();
        let answer = item.choices[item.answer].as_str();
        if answer == reading::REFUSAL {
            refusals += 1;
            assert!(found.is_empty(), "{page}\n{question}");
        } else {
            assert_eq!(found, [answer], "{page}\n{question}");
        }
        // Two choices stand on the page, one does not, one is the refusal.
        let on_page =
            item.choices.iter().filter(|&choice| facts.iter().any(|fact| fact.1 == relation && fact.2 == *choice));
        assert_eq!(on_page.count(), 2, "{page}\n{:?}", item.choices);
        assert!(item.choices.iter().any(|choice| choice == reading::REFUSAL));
    }
    assert_eq!((items.len(), refusals), (320, 80));
    let stories = Task::load(&folder().join("tasks/stories.toml")).unwrap();
    assert!(
        matches!(&stories.items, Items::Text(texts) if texts.len() == 300 && texts[7].text == document(Split::Test, 7))
    );
    // The generated task asks the same.
    let task = Task::load(&folder().join("tasks/reading_generate.toml")).unwrap();
    let Items::Generate(generated) = task.items else { panic!("generate items") };
    for (choice, GenerateItem { id, prompt, answers }) in items.iter().zip(&generated) {
        let answer = &choice.choices[choice.answer];
        assert_eq!((&choice.id, &choice.prompt.question), (id, &prompt.question));
        assert!(answers.contains(answer) && answers[0] == lessons::reply(answer));
    }
}

#[test]
fn answers_are_spread_evenly() {
    for (name, count) in [("facts.toml", 500), ("reading.toml", 320)] {
        let items = choice_items(name);
        assert_eq!(items.len(), count);
        for place in 0..4 {
            assert_eq!(items.iter().filter(|item| item.answer == place).count(), count / 4, "{name}");
        }
        assert!(items.iter().all(|item| item.choices.len() == 4));
        // No text is right much more often than it is offered, but for the refusal, which is offered everywhere.
        let mut offered: BTreeMap<&str, [usize; 2]> = BTreeMap::new();
        for item in &items {
            for (place, choice) in item.choices.iter().enumerate() {
                let counts = offered.entry(choice).or_default();
                counts[0] += 1;
                counts[1] += usize::from(place == item.answer);
            }
        }
        for (choice, [offered, right]) in offered {
            assert!(offered < 12 || right * 10 <= offered * 6, "{choice}: {right} of {offered}");
        }
    }
}

#[test]
fn counting_words_is_not_enough() {
    let baseline = baseline::Baseline::train(30_000);
    for (name, limit) in [("facts.toml", 0.33), ("reading.toml", 0.36)] {
        let items = choice_items(name);
        for order in 1..=3 {
            let right = items.iter().filter(|item| baseline.answer(item, order) == item.answer).count();
            let share = right as f64 / items.len() as f64;
            assert!(share < limit, "{name}: {order}-grams answer {:.1} %", 100.0 * share);
        }
    }
}

#[test]
fn the_tokenizer_keeps_every_byte_and_knows_its_special_tokens() {
    let tokenizer = tokenizers::Tokenizer::from_file(folder().join("model/tokenizer.json")).unwrap();
    assert_eq!(tokenizer.get_vocab_size(true), 2048);
    for (id, token) in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"].iter().enumerate() {
        assert_eq!(tokenizer.token_to_id(token), Some(id as u32));
    }
    let documents: Vec<String> = documents(Split::Test).take(50).chain(documents(Split::Train).take(50)).collect();
    for text in documents.iter().map(String::as_str).chain(["Ünï 中文 🦀\n\n\t1234 it's", " ", ""]) {
        let tokens = tokenizer.encode_fast(text, false).unwrap();
        assert_eq!(tokenizer.decode(tokens.get_ids(), false).unwrap(), text);
        let begun = tokenizer.encode_fast(text, true).unwrap();
        assert_eq!(begun.get_ids()[0], 0);
        assert_eq!(begun.get_ids()[1..], *tokens.get_ids());
    }
    let chat = lessons::chat_turns("Who?", "Ada");
    let ids = tokenizer.encode_fast(chat, false).unwrap();
    assert_eq!(ids.get_ids().iter().filter(|&&id| id < 3).collect::<Vec<_>>(), [&1, &2, &1, &2]);
    // English of this world takes few tokens: about four characters each.
    let (characters, tokens) = documents.iter().fold((0, 0), |(c, t), document| {
        (c + document.len(), t + tokenizer.encode_fast(document.as_str(), false).unwrap().len())
    });
    assert!(characters > 7 * tokens / 2, "{characters} characters in {tokens} tokens");
}

#[test]
fn the_configuration_names_the_tokens_of_the_tokenizer() {
    let read = |name: &str| -> serde_json::Value {
        serde_json::from_str(&std::fs::read_to_string(folder().join("model").join(name)).unwrap()).unwrap()
    };
    let (config, generation, tokenizer) =
        (read("config.json"), read("generation_config.json"), read("tokenizer_config.json"));
    assert_eq!(
        (&config["vocab_size"], &config["bos_token_id"], &config["eos_token_id"]),
        (&2048.into(), &0.into(), &2.into())
    );
    assert_eq!(generation["eos_token_id"], serde_json::json!([2, 0]));
    assert_eq!(
        (tokenizer["bos_token"].as_str(), tokenizer["eos_token"].as_str()),
        (Some("<|endoftext|>"), Some("<|im_end|>"))
    );
    // The texts hold conversations in the very form that the template gives them.
    let template =
        workbench_model::ChatTemplate::new(tokenizer["chat_template"].as_str().unwrap(), &tokenizer).unwrap();
    let messages = ["user", "assistant"]
        .map(|role| workbench_model::Message::new(role, if role == "user" { "Who?" } else { "The answer is Ada." }));
    let render =
        |count: usize, generate| template.render(&messages[..count], generate, &serde_json::Map::new()).unwrap();
    assert_eq!(render(2, false), lessons::chat_turns("Who?", "Ada") + "\n");
    assert!(render(2, false).starts_with(&render(1, true)));
    let model = workbench_model::ModelConfig::from_json(&config, &folder().join("model/config.json")).unwrap();
    assert_eq!((model.linears().len(), model.tie_word_embeddings, model.qk_norm), (42, true, true));
    for width in ["hidden_size", "intermediate_size"] {
        assert_eq!(config[width].as_u64().unwrap() % 128, 0, "{width}");
    }
}

#[test]
fn draws_are_fair() {
    let mut draw = Draw::new("test", 7);
    let mut counts = [0_usize; 6];
    for _ in 0..60_000 {
        counts[draw.below(6)] += 1;
    }
    // Six standard deviations of a binomial count.
    assert!(counts.iter().all(|count| count.abs_diff(10_000) < 550), "{counts:?}");
    let ring = draw.ring(50);
    let mut at = 0;
    let mut seen = BTreeSet::new();
    for _ in 0..50 {
        seen.insert(at);
        at = ring[at];
    }
    assert_eq!((seen.len(), at), (50, 0));
    let deck = draw.deck(22, 5);
    assert!((0..5).all(|value| matches!(deck.iter().filter(|&&v| v == value).count(), 4 | 5)));
    let mut again = Draw::new("test", 7);
    assert_ne!(Draw::new("test", 8).below(1 << 30), again.below(1 << 30));
    assert_eq!(Gender::She.pronouns()[1], "her");
}
