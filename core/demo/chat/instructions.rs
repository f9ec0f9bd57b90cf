//! Questions with an instruction of the form of the answer.
//!
//! Whether a text has the form is decided by the regular expression `pattern` of its row; `kind`, `count`, `word` and `answer` say the
//! same for a checker of another make. What is right is not part of the form: a reward may want both.

use serde_json::{Value, json};

use super::{
    super::{
        Draw, Split, lessons, words,
        world::{Fact, WORLD},
    },
    Turn,
    questions::{WORDS, questions},
};

/// Words that an answer is to begin with, and to end with.
const BEGINNINGS: [&str; 4] = ["Well", "Surely", "Listen", "Friend"];
const ENDS: [&str; 4] = ["indeed", "friend", "today", "surely"];

/// Answers of one to six words.
const LENGTHS: [&str; 6] = [
    "{V}.",
    "Surely {v}.",
    "It is {v}.",
    "The answer is {v}.",
    "The right answer is {v}.",
    "I think the answer is {v}.",
];

const NUMBERS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

/// How things are asked for in a list: their number, their name.
const LISTS: [&str; 8] = [
    "Name {n} {things} in a list.",
    "Write a list of {n} {things}.",
    "Give me a list of {n} {things}.",
    "I need a list of {n} {things}.",
    "Make a list with {n} {things}.",
    "Which {n} {things} do you know? Answer with a list.",
    "List {n} {things} for me.",
    "Please write {n} {things} as a list.",
];

/// What can be listed.
const THINGS: [(&str, &[&str]); 5] = [
    ("trades", &words::JOBS),
    ("animals", &words::ANIMALS),
    ("foods", &words::FOODS),
    ("colours", &words::COLOURS),
    ("instruments", &words::INSTRUMENTS),
];

/// Lists have so many items at least and at most.
const ITEMS: [usize; 2] = [2, 6];

/// Number of kinds, each of which comes as often as every other.
pub(super) const KINDS: usize = 7;

pub(super) fn turns(draw: &mut Draw, split: Split, count: usize) -> Vec<Turn> {
    let dealt = questions(draw, split, &WORDS, count);
    let kinds = draw.deck(count, KINDS);
    let mut lists = lists(draw, split, count / KINDS).into_iter();
    let mut lengths = draw.deck(count, LENGTHS.len()).into_iter();
    let turn = |((fact, form), kind): ((Fact, usize), usize)| {
        let question = lessons::question(fact, form);
        Some(match kind {
            0 => capitals(&question, fact),
            1 => length(&question, fact, lengths.next()?),
            2 => lists.next()?,
            3 => begins(&question, fact, BEGINNINGS[draw.below(BEGINNINGS.len())]),
            4 => ends(&question, fact, ENDS[draw.below(ENDS.len())]),
            5 => quoted(&question, fact),
            _ => repeated(&question, fact),
        })
    };
    dealt.into_iter().zip(kinds).filter_map(turn).collect()
}

/// A turn with a pattern for the whole reply, and what else is to be known.
fn formed(kind: &'static str, question: String, reply: String, pattern: &str, facts: Value) -> Turn {
    let mut turn = Turn::new(kind, question, vec![reply]);
    turn.facts.insert("pattern".to_owned(), format!("^(?:{pattern})$").into());
    if let Value::Object(facts) = facts {
        turn.facts.extend(facts);
    }
    turn
}

fn capitals(question: &str, fact: Fact) -> Turn {
    let answer = WORLD.value(fact);
    let reply = lessons::reply(answer).to_uppercase();
    let question = format!("{question} Answer in capital letters.");
    formed("capitals", question, reply, "[^a-z]*[A-Z][^a-z]*", json!({ "answer": answer }))
}

fn length(question: &str, fact: Fact, length: usize) -> Turn {
    let answer = WORLD.value(fact);
    let mut capital = answer.to_owned();
    capital.get_mut(..1).into_iter().for_each(str::make_ascii_uppercase);
    let reply = LENGTHS[length].replace("{v}", answer).replace("{V}", &capital);
    let words = if length == 0 { "word" } else { "words" };
    let question = format!("{question} Answer with exactly {} {words}.", NUMBERS[length]);
    let pattern = format!(r"\W*\w+(?:\W+\w+){{{length}}}\W*");
    formed("length", question, reply, &pattern, json!({ "count": length + 1, "answer": answer }))
}

fn begins(question: &str, fact: Fact, word: &str) -> Turn {
    let answer = WORLD.value(fact);
    let question = format!("{question} Begin your answer with the word {}.", word.to_lowercase());
    let reply = format!("{word}, the answer is {answer}.");
    let pattern = format!(r"(?is){word}\b.*");
    formed("begins", question, reply, &pattern, json!({ "word": word.to_lowercase(), "answer": answer }))
}

fn ends(question: &str, fact: Fact, word: &str) -> Turn {
    let answer = WORLD.value(fact);
    let question = format!("{question} End your answer with the word {word}.");
    let reply = format!("The answer is {answer}, {word}.");
    let pattern = format!(r"(?is).*\b{word}\W*");
    formed("ends", question, reply, &pattern, json!({ "word": word, "answer": answer }))
}

fn quoted(question: &str, fact: Fact) -> Turn {
    let answer = WORLD.value(fact);
    let question = format!("{question} Put your answer between quotes.");
    let reply = format!("\"{}\"", lessons::reply(answer));
    formed("quoted", question, reply, "\"[^\"]+\"", json!({ "answer": answer }))
}

fn repeated(question: &str, fact: Fact) -> Turn {
    let answer = WORLD.value(fact);
    let reply = format!("{question} {}", lessons::reply(answer));
    let pattern = format!(r"(?s){}\s+\S.*", regex::escape(question));
    let question = format!("{question} Repeat the question before your answer.");
    formed("repeated", question, reply, &pattern, json!({ "answer": answer }))
}

/// So many lists. What is listed and how many items it has are pairs of which each split has its own.
fn lists(draw: &mut Draw, split: Split, count: usize) -> Vec<Turn> {
    let pairs = (0..THINGS.len()).flat_map(|things| (ITEMS[0]..=ITEMS[1]).map(move |items| (things, items)));
    let pairs: Vec<(usize, usize)> = pairs.filter(|&(things, items)| kept_for(things, items) == split).collect();
    let prompts = pairs.iter().flat_map(|pair| (0..LISTS.len()).map(move |wording| (*pair, wording)));
    let mut prompts: Vec<((usize, usize), usize)> = prompts.collect();
    draw.shuffle(&mut prompts);
    (0..count)
        .map(|place| {
            let ((things, items), wording) = prompts[place % prompts.len()];
            let (name, all) = THINGS[things];
            let question = LISTS[wording].replace("{n}", NUMBERS[items - 1]).replace("{things}", name);
            let chosen = draw.distinct(items, all.len()).into_iter().map(|index| format!("- {}", all[index]));
            let reply = chosen.collect::<Vec<_>>().join("\n");
            let pattern = format!(r"- \w+(?:\n- \w+){{{}}}", items - 1);
            formed("list", question, reply, &pattern, json!({ "count": items, "things": name }))
        })
        .collect()
}

/// The split that lists of so many such things are of: each kind of things has one number of valid and one of test.
fn kept_for(things: usize, items: usize) -> Split {
    let numbers = ITEMS[1] - ITEMS[0] + 1;
    match (items + 2 * things) % numbers {
        0 => Split::Test,
        1 => Split::Valid,
        _ => Split::Train,
    }
}
