//! Answers in the old language of the valley, which has a word for each word of a closed list, and the order of English.
//!
//! The words are made of sounds, as the names of strangers are, and end as no English word of the texts does.

use std::{collections::BTreeMap, sync::LazyLock};

use super::{
    super::{
        Draw, Split, lessons, words,
        world::{Fact, WORLD},
    },
    Turn,
    answers::replies,
    questions::{WORDS, questions},
};

/// How the system asks for it.
pub(super) const SYSTEM: &str = "Answer in the old language.";

/// How the user asks for it.
const ASKED: [&str; 4] = [
    "{q} Answer in the old language.",
    "{q} Use the old language for your answer.",
    "In the old language: {q}",
    "Please tell me in the old language. {q}",
];

/// How the user asks for English.
const ENGLISH: [&str; 2] = ["{q} Answer in English.", "In English, please: {q}"];

/// What a word of the language ends in.
const ENDINGS: [&str; 6] = ["u", "ao", "iu", "oi", "uo", "eu"];

/// Every word that the language has a word for, in English.
pub(super) fn english() -> impl Iterator<Item = &'static str> {
    let lists: [&[&'static str]; 5] =
        [&words::JOBS, &words::ANIMALS, &words::FOODS, &words::COLOURS, &words::INSTRUMENTS];
    ["the", "answer", "is"].into_iter().chain(lists.into_iter().flatten().copied())
}

/// The dictionary. No two words have the same translation.
pub(super) static OLD: LazyLock<BTreeMap<&'static str, String>> = LazyLock::new(|| {
    let mut draw = Draw::new("chat language words", 0);
    let mut made: Vec<String> = Vec::new();
    english()
        .map(|word| {
            loop {
                let (onset, vowel) = (*draw.pick(&words::ONSETS), *draw.pick(&words::VOWELS));
                let (middle, ending) = (*draw.pick(&words::MIDDLES), *draw.pick(&ENDINGS));
                let old = [&onset.to_lowercase(), vowel, middle, ending].concat();
                if !made.contains(&old) {
                    made.push(old.clone());
                    break (word, old);
                }
            }
        })
        .collect()
});

/// A text in the old language, word by word. What it has no word for, such as a name, stays as it is.
pub(super) fn translated(text: &str) -> String {
    let word = |part: &str| {
        let word = part.trim_end_matches('.');
        let old = OLD.get(word.to_lowercase().as_str()).map_or(word, String::as_str);
        let (first, rest) = old.split_at(old.chars().next().map_or(0, char::len_utf8));
        let capital = word.starts_with(char::is_uppercase);
        format!("{}{rest}{}", if capital { first.to_uppercase() } else { first.to_owned() }, &part[word.len()..])
    };
    text.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// Two questions of six are asked to be answered in the old language by the user, two by the system; one says English, one nothing.
pub(super) fn turns(draw: &mut Draw, split: Split, count: usize) -> Vec<Turn> {
    let dealt = questions(draw, split, &WORDS, count);
    let kinds = draw.deck(count, 6);
    let turn = |((fact, form), kind): ((Fact, usize), usize)| {
        let question = lessons::question(fact, form);
        let english = replies(WORLD.value(fact));
        let old: Vec<String> = english.iter().map(|reply| translated(reply)).collect();
        match kind {
            0 | 1 => Turn::new("user", draw.pick(&ASKED).replace("{q}", &question), old),
            2 | 3 => Turn { system: Some(SYSTEM), ..Turn::new("system", question, old) },
            4 => Turn::new("english", draw.pick(&ENGLISH).replace("{q}", &question), english),
            _ => Turn::new("plain", question, english),
        }
    };
    dealt.into_iter().zip(kinds).map(turn).collect()
}
