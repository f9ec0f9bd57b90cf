//! What keeps the tasks and the other splits apart from the train split, in one pass over all of it.

use std::collections::{BTreeMap, HashSet};

use rayon::prelude::*;
use regex::Regex;

use super::{
    super::{
        Chat, Split, chat, document, lessons,
        reading::kept_for_tasks,
        relation::{QUESTIONS, TELLINGS},
        tasks,
        world::{Fact, Mention, WORLD, fill},
    },
    all_facts, choice_items, foreign,
};

/// Every way to state a fact with the whole name, as a sentence or a part of one.
fn statement(fact: Fact, telling: usize) -> String {
    let mut out = String::new();
    let wording = fact.relation.telling(telling);
    let wording = if Fact::is_predicate(telling) { format!("{{S}} {wording}") } else { wording.to_owned() };
    fill(&mut out, &wording, WORLD.subject(fact.subject), Mention::Full, WORLD.value(fact), true);
    out
}

/// What one pass over the train split finds.
#[derive(Default)]
struct Seen {
    documents: HashSet<[u8; 32]>,
    words: HashSet<String>,
    questions: HashSet<String>,
    /// Statements with a whole name, and how often each was made.
    statements: BTreeMap<String, usize>,
    bytes: usize,
}

impl Seen {
    fn add(mut self, document: &str, known: &HashSet<String>) -> Self {
        self.bytes += document.len() + 2;
        self.documents.insert(*blake3::hash(document.as_bytes()).as_bytes());
        for word in document.split(|c: char| !c.is_alphabetic()).filter(|word| word.starts_with(char::is_uppercase)) {
            if !self.words.contains(word) {
                self.words.insert(word.to_owned());
            }
        }
        for line in document.lines() {
            let question = line.trim_end_matches("<|im_end|>");
            self.questions
                .extend(question.ends_with('?').then(|| question.trim_start_matches("Question: ").to_owned()));
            for sentence in line.split_inclusive(". ") {
                let bare = sentence.trim().trim_end_matches('.');
                for candidate in [bare.to_owned(), format!("{bare}.")] {
                    if known.contains(&candidate) {
                        *self.statements.entry(candidate).or_default() += 1;
                    }
                }
            }
        }
        self
    }

    fn merge(mut self, other: Self) -> Self {
        self.bytes += other.bytes;
        self.documents.extend(other.documents);
        self.words.extend(other.words);
        self.questions.extend(other.questions);
        for (statement, count) in other.statements {
            *self.statements.entry(statement).or_default() += count;
        }
        self
    }

    fn in_split(split: Split) -> Self {
        let known: HashSet<String> = all_facts()
            .into_iter()
            .flat_map(|fact| (0..TELLINGS).map(move |telling| statement(fact, telling)))
            .collect();
        (0..split.documents())
            .into_par_iter()
            .fold(Self::default, |seen, index| seen.add(&document(split, index), &known))
            .reduce(Self::default, Self::merge)
    }
}

#[test]
fn nothing_of_the_tasks_or_other_splits_is_in_the_train_split() {
    let train = Seen::in_split(Split::Train);
    assert!(train.bytes > 50_000_000, "{} bytes", train.bytes);

    // Documents.
    let (valid, test) = (Seen::in_split(Split::Valid), Seen::in_split(Split::Test));
    assert_eq!((valid.documents.len(), test.documents.len()), (400, 400));
    for (left, right) in [(&train, &valid), (&train, &test), (&valid, &test)] {
        assert!(left.documents.is_disjoint(&right.documents));
    }

    // Wordings: the held-out one of each fact is used by the other splits only, every other one by the train split.
    let mut elsewhere = 0;
    let mut rare = 0;
    for fact in all_facts() {
        let mut used = 0;
        for telling in 0..TELLINGS {
            let statement = statement(fact, telling);
            if telling == fact.held_out_telling() {
                assert_eq!(train.statements.get(&statement), None, "{statement}");
                elsewhere +=
                    usize::from(valid.statements.contains_key(&statement) || test.statements.contains_key(&statement));
            } else {
                used += usize::from(train.statements.contains_key(&statement));
            }
        }
        assert!(used > 0, "{fact:?} is not told");
        rare += usize::from(used < 3);
    }
    assert!(elsewhere > 100, "held-out wordings were met {elsewhere} times in the other splits");
    assert!(rare * 100 < all_facts().len(), "{rare} facts are told in fewer than three wordings with the whole name");

    // Questions: the held-out form of each fact is never asked; the other forms are.
    let mut asked = 0;
    for fact in all_facts() {
        for form in 0..QUESTIONS {
            let known = train.questions.contains(&lessons::question(fact, form));
            assert!(!(known && form == fact.held_out_question()), "{fact:?}");
            asked += usize::from(known);
        }
    }
    assert!(asked * 100 > all_facts().len() * (QUESTIONS - 1) * 90, "{asked} questions are asked");
    for item in choice_items("facts.toml") {
        let question = item.prompt.question.trim_start_matches("Question: ").trim_end_matches("\nAnswer:").to_owned();
        assert!(!train.questions.contains(&question), "{question}");
    }

    // Whatever the second world calls its own, and strangers whom the test split asks about.
    for name in foreign::own_names() {
        assert!(!name.split(' ').any(|word| train.words.contains(word)), "{name}");
    }
    let full_name = Regex::new("([A-Z][a-z]+) [A-Z][a-z]+").unwrap();
    for row in chat::rows(Chat::Strangers, Split::Test) {
        let question = row["question"].as_str().unwrap();
        assert!(!train.questions.contains(question), "{question}");
        if row["kind"] == "unknown" {
            let given = full_name.captures_iter(question).last().unwrap()[1].to_owned();
            assert!(kept_for_tasks(&given) && !train.words.contains(&given), "{question}");
        }
    }

    // Names made for the pages of the tasks.
    let names: Vec<String> = tasks::pages_of_tasks().into_iter().flat_map(|page| page.names).collect();
    assert!(names.len() > 1000);
    for name in names {
        assert!(!train.words.contains(&name), "{name}");
    }
}
