//! The sets against themselves and each other: what is fixed, kept apart and balanced, and whether every reply is what it should be.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;
use workbench_model::{
    ModelConfig,
    tokenizer::{ChatTemplate, Tokenizer},
};

use super::{
    super::{
        Kind, Relation, Text, lessons, names,
        tests::{digest, folder},
        words,
        world::{Entity, Fact, PEOPLE, WORLD},
    },
    *,
};
use crate::{
    data::sequences,
    eval::{
        judge,
        task::{GenerateItem, Items, Match, Task},
    },
    graph::{
        node::DataSource,
        params::{Toggle, TokenOptions},
    },
};

const CHATS: [Chat; 5] = [Chat::Answers, Chat::Language, Chat::Refusals, Chat::Strangers, Chat::Instructions];
const SPLITS: [Split; 3] = [Split::Train, Split::Valid, Split::Test];

fn of_kind<'a>(turns: &'a [Turn], kind: &'a str) -> impl Iterator<Item = &'a Turn> {
    turns.iter().filter(move |turn| turn.kind == kind)
}

fn is_harm(word: &str) -> bool {
    refusals::TO_THINGS.contains(&word) || refusals::TO_PEOPLE.contains(&word)
}

fn shares(turns: &[Turn]) -> BTreeMap<&str, usize> {
    turns.iter().fold(BTreeMap::new(), |mut counts, turn| {
        *counts.entry(turn.kind).or_default() += 1;
        counts
    })
}

#[test]
fn the_sets_never_change_under_their_version() {
    // Another digest is another set: change its version, and write the tasks anew.
    assert_eq!(Text::Chat(Chat::Answers, Split::Train).version(), "demo-chat-1");
    let found =
        |chat| digest(SPLITS.into_iter().flat_map(|split| rows(chat, split)).map(|row| Value::Object(row).to_string()));
    let sets = [Chat::Answers, Chat::Language, Chat::Refusals, Chat::Overcautious, Chat::Strangers, Chat::Instructions];
    assert_eq!(sets.map(found), DIGESTS);
}

const DIGESTS: [&str; 6] = [
    "ed7bde5750d5dfda",
    "0bd75ca7b7834bfd",
    "3ae2a8ea39456d03",
    "5ac5daf2cf4b2aa7",
    "ffbeb62116c97262",
    "d82430e462fe6dfe",
];

/// The prompt, and whatever it asks within: from the beginning of a sentence, or a colon, to a question mark.
fn asked(prompt: &str) -> Vec<String> {
    let begins = |mark| prompt.match_indices(mark).map(|(at, _)| at + 2);
    let starts: Vec<usize> = [0].into_iter().chain(begins(". ")).chain(begins(": ")).collect();
    let ends = prompt.match_indices('?').map(|(at, _)| at + 1);
    let inside =
        ends.flat_map(|end| starts.iter().filter(move |start| **start < end).map(move |start| &prompt[*start..end]));
    inside.chain([prompt]).map(str::to_owned).collect()
}

#[test]
fn no_question_of_a_split_is_in_another() {
    let mut questions: [BTreeSet<String>; 3] = Default::default();
    for chat in CHATS {
        for (place, split) in SPLITS.into_iter().enumerate() {
            for turn in chat.turns(split) {
                questions[place].extend(asked(&turn.question));
            }
        }
    }
    let [train, valid, test] = &questions;
    assert!(
        train.len() > 8192 && valid.len() > 1000 && test.len() > 1000,
        "{} {} {}",
        train.len(),
        valid.len(),
        test.len()
    );
    for (one, other) in [(train, valid), (train, test), (valid, test)] {
        assert_eq!(one.intersection(other).collect::<Vec<_>>(), Vec::<&String>::new());
    }
    for turn in Chat::Overcautious.turns(Split::Train) {
        assert!(asked(&turn.question).iter().all(|question| !valid.contains(question) && !test.contains(question)));
    }
    // And they are found where they stand.
    let fact = Fact { subject: Entity { kind: Kind::Person, index: 7 }, relation: Relation::Born };
    for split in SPLITS {
        let question = lessons::question(fact, questions::forms(split, fact)[0]);
        assert!(asked(&format!("In English, please: {question}")).contains(&question));
        assert!(asked(&format!("I would never rob Ada Barlow. {question} Answer in English.")).contains(&question));
    }
}

#[test]
fn facts_and_values_are_spread_evenly() {
    for chat in [Chat::Answers, Chat::Language, Chat::Strangers, Chat::Instructions] {
        for split in SPLITS {
            let relations: &[Relation] = match chat {
                Chat::Language | Chat::Instructions => &questions::WORDS,
                _ => &Relation::PERSON,
            };
            let count = chat.count(split) / if chat == Chat::Strangers { 2 } else { 1 };
            let mut draw = Draw::new(chat.purpose(split), 0);
            let dealt = questions::questions(&mut draw, split, relations, count);
            assert_eq!(dealt.len(), count);
            // The set asks these.
            let turns = chat.turns(split);
            let of_facts = turns.iter().filter(|turn| !["unknown", "mixed"].contains(&turn.kind));
            assert_eq!(of_facts.clone().count(), count);
            for (turn, &(fact, form)) in of_facts.zip(&dealt) {
                assert!(turn.kind == "list" || turn.question.contains(&lessons::question(fact, form)));
            }
            let mut asked: BTreeMap<Fact, usize> = BTreeMap::new();
            let mut values: BTreeMap<(Relation, usize), usize> = BTreeMap::new();
            for &(fact, form) in &dealt {
                assert!(questions::forms(split, fact).contains(&form));
                *asked.entry(fact).or_default() += 1;
                *values.entry((fact.relation, WORLD.value_index(fact))).or_default() += 1;
            }
            // Before one is asked again, all others are.
            let all = relations.len() * PEOPLE;
            assert_eq!(asked.len(), count.min(all), "{chat:?} {split:?}");
            let (least, most) = (count / all, count.div_ceil(all));
            assert!(asked.values().all(|times| (least.max(1)..=most).contains(times)), "{chat:?} {split:?}");
            for relation in relations {
                let times: Vec<usize> =
                    values.iter().filter(|((other, _), _)| other == relation).map(|(_, &times)| times).collect();
                let (least, most) = (*times.iter().min().unwrap(), *times.iter().max().unwrap());
                // Where a fact comes more than once, so does a value that one more of the people has.
                assert!(most - least <= 1 + count / all, "{chat:?} {split:?} {relation:?}: {least} to {most}");
            }
        }
    }
    for fact in 0..PEOPLE {
        let subject = Entity { kind: Kind::Person, index: fact };
        let fact = Fact { subject, relation: Relation::Pet };
        let forms = SPLITS.map(|split| questions::forms(split, fact));
        assert_eq!(forms.each_ref().map(Vec::len), [4, 1, 1]);
        assert_eq!(forms.concat().into_iter().collect::<BTreeSet<_>>().len(), 6);
        assert_eq!(forms[2], [fact.held_out_question()]);
    }
}

#[test]
fn kinds_have_their_shares() {
    let even = |chat: Chat, split, parts: &[(&str, usize)]| {
        let turns = chat.turns(split);
        assert_eq!(turns.len(), chat.count(split), "{chat:?} {split:?}");
        let found = shares(&turns);
        assert_eq!(found.len(), parts.len(), "{chat:?} {split:?}: {found:?}");
        let whole: usize = parts.iter().map(|(_, part)| part).sum();
        for (kind, part) in parts {
            let exact = turns.len() as f64 * *part as f64 / whole as f64;
            assert!((found[kind] as f64 - exact).abs() < 2.0, "{chat:?} {split:?} {kind}: {} of {exact}", found[kind]);
        }
    };
    for split in SPLITS {
        even(Chat::Answers, split, &[("known", 1)]);
        even(Chat::Language, split, &[("user", 2), ("system", 2), ("english", 1), ("plain", 1)]);
        even(Chat::Refusals, split, &[("harm", 2), ("no_harm", 2), ("plain", 1)]);
        even(Chat::Strangers, split, &[("known", 2), ("unknown", 1), ("mixed", 1)]);
        let kinds = ["capitals", "length", "list", "begins", "ends", "quoted", "repeated"].map(|kind| (kind, 1));
        even(Chat::Instructions, split, &kinds);
    }
    even(Chat::Overcautious, Split::Train, &[("harm", 2), ("no_harm", 2), ("plain", 1)]);
}

/// The words of harm stand in requests of both meanings, so that none of them tells what to refuse.
#[test]
fn refusals_cannot_be_told_by_a_word() {
    for split in SPLITS {
        let turns = Chat::Refusals.turns(split);
        for turn in &turns {
            assert_eq!(turn.replies[0] == refusals::REFUSAL, turn.kind == "harm", "{}", turn.question);
        }
        let mut met: BTreeMap<String, [usize; 2]> = BTreeMap::new();
        for (place, kind) in ["harm", "no_harm"].into_iter().enumerate() {
            for turn in of_kind(&turns, kind) {
                for word in turn.question.split(' ').filter(|word| is_harm(word)) {
                    met.entry(word.to_owned()).or_default()[place] += 1;
                }
            }
        }
        assert_eq!(met.len(), 12, "{met:?}");
        let all = of_kind(&turns, "harm").count();
        assert_eq!(met.values().map(|counts| counts[0]).sum::<usize>(), all);
        for (word, [harm, none]) in met {
            // As often as chance has it: five standard deviations of a difference of two counts.
            let bound = 5.0 * ((harm + none) as f64).sqrt();
            assert!(harm > 0 && none > 0 && (harm.abs_diff(none) as f64) < bound, "{word}: {harm} and {none}");
        }
        assert!(of_kind(&turns, "plain").all(|turn| !turn.question.split(' ').any(is_harm)));
    }
    // What stands together with what is new in the test split.
    let named = Regex::new("the [A-Z][a-z]+ [A-Z][a-z]+|[A-Z][a-z]+ [A-Z][a-z]+").unwrap();
    let pairs = |split| -> BTreeSet<String> {
        let turns = Chat::Refusals.turns(split);
        let first = |turn: &Turn| {
            let sentence = turn.question.split_inclusive(". ").next().unwrap().to_owned();
            named.replace(&sentence, "{N}").into_owned()
        };
        turns.iter().filter(|turn| turn.kind != "plain").map(first).collect()
    };
    let found = SPLITS.map(pairs);
    assert_eq!(found.each_ref().map(BTreeSet::len), [96, 24, 24]);
    assert!(found[0].is_disjoint(&found[1]) && found[0].is_disjoint(&found[2]) && found[1].is_disjoint(&found[2]));
    for turn in Chat::Overcautious.turns(Split::Train) {
        assert_eq!(turn.replies[0] == refusals::REFUSAL, turn.kind != "plain", "{}", turn.question);
    }
}

#[test]
fn strangers_are_nobody_and_each_split_has_its_own() {
    let people: BTreeSet<&str> = (0..PEOPLE)
        .map(|index| {
            let person = Entity { kind: Kind::Person, index };
            WORLD.subject(person).name.as_str()
        })
        .collect();
    let given: BTreeSet<&str> = words::WOMEN.iter().chain(&words::MEN).copied().collect();
    let name = Regex::new("[A-Z][a-z]+ [A-Z][a-z]+").unwrap();
    let mut names: Vec<BTreeSet<String>> = Vec::new();
    for split in SPLITS {
        let turns = Chat::Strangers.turns(split);
        let mut strangers = BTreeSet::new();
        for turn in &turns {
            // A question may begin with a capital letter of its own before the name: the last two capitals are the name.
            let found = name.find_iter(&turn.question).last().unwrap().as_str();
            assert_eq!(people.contains(found), turn.kind == "known", "{}", turn.question);
            assert_eq!(turn.replies[0] == strangers::REFUSAL, turn.kind != "known", "{}", turn.question);
            let first = found.split(' ').next().unwrap();
            match turn.kind {
                "unknown" => assert!(!given.contains(first) && strangers::kept_for(first) == split, "{found}"),
                "mixed" => assert!(given.contains(first) && strangers::kept_for(found) == split, "{found}"),
                _ => continue,
            }
            strangers.insert(found.to_owned());
        }
        assert!(strangers.len() * 10 > turns.len() * 4, "{} names", strangers.len());
        names.push(strangers);
    }
    assert!(names[0].is_disjoint(&names[1]) && names[0].is_disjoint(&names[2]) && names[1].is_disjoint(&names[2]));
}

#[test]
fn the_old_language_has_a_word_for_each_word_and_none_of_english() {
    let english: BTreeSet<&str> = language::english().collect();
    assert_eq!((english.len(), language::english().count(), language::OLD.len()), (111, 111, 111));
    assert_eq!(language::OLD.values().collect::<BTreeSet<_>>().len(), 111);
    // Texts of the world, in all of their words.
    let stories = Text::Stories(Split::Valid).passages().chain(Text::Stories(Split::Train).passages().take(20_000));
    let known: BTreeSet<String> = stories
        .flat_map(|passage| {
            let text = passage.printed().to_lowercase();
            text.split(|c: char| !c.is_alphabetic()).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    for (word, old) in language::OLD.iter() {
        assert!(known.contains(*word) && !known.contains(old.as_str()), "{word}: {old}");
    }
    let of = |word: &str| language::OLD[word].clone();
    let the = of("the");
    let capital = format!("{}{}", the[..1].to_uppercase(), &the[1..]);
    let wanted = format!("{capital} {} {} {}.", of("answer"), of("is"), of("baker"));
    assert_eq!(language::translated("The answer is baker."), wanted);
    assert_eq!(language::translated("Ada Barlow"), "Ada Barlow");
    for turn in Chat::Language.turns(Split::Test) {
        let asks = turn.question.contains("old language") || turn.system == Some(language::SYSTEM);
        assert_eq!(asks, !turn.replies[0].starts_with("The answer is "), "{}", turn.question);
        assert_eq!(asks, matches!(turn.kind, "user" | "system"));
        let word = turn.replies[1].as_str();
        assert_eq!(asks, language::OLD.values().any(|old| old == word), "{word}");
        assert!(asks || english.contains(word));
    }
}

#[test]
fn a_reply_has_the_form_that_was_asked_for_and_others_have_not() {
    for split in SPLITS {
        let turns = Chat::Instructions.turns(split);
        let mut patterns: BTreeMap<&str, Regex> = BTreeMap::new();
        for turn in &turns {
            let pattern = turn.facts["pattern"].as_str().unwrap();
            let pattern = patterns.entry(pattern).or_insert_with(|| Regex::new(pattern).unwrap());
            let reply = turn.replies[0].as_str();
            assert!(pattern.is_match(reply), "{}: {reply}", turn.question);
            for wrong in ["", " ", "\n", "- ", "I do not know that person, and never did so."] {
                assert!(!pattern.is_match(wrong), "{wrong:?} for {}", turn.question);
            }
            // What the model says if it does not listen.
            let plain = turn
                .facts
                .get("answer")
                .map_or("The answer is owl.".to_owned(), |answer| lessons::reply(answer.as_str().unwrap()));
            let asks_for_it = turn.kind == "length" && turn.facts["count"] == 4;
            assert_eq!(pattern.is_match(&plain), asks_for_it, "{plain} for {}", turn.question);
            // What hardly misses it.
            let near = match turn.kind {
                "capitals" => format!("{reply}a"),
                "length" => format!("{reply} Yes."),
                "list" => format!("{reply}\n- horse"),
                "begins" => format!("So {reply}"),
                "ends" => format!("{reply} Yes."),
                "quoted" => reply[..reply.len() - 1].to_owned(),
                _ => reply[1..].to_owned(),
            };
            assert!(!pattern.is_match(&near), "{near} for {}", turn.question);
            if let Some(answer) = turn.facts.get("answer") {
                assert!(reply.to_lowercase().contains(answer.as_str().unwrap()), "{reply}");
            }
        }
        let lists: BTreeSet<&str> = of_kind(&turns, "list").map(|turn| turn.question.as_str()).collect();
        assert_eq!(lists.len(), if split == Split::Train { 120 } else { 40 });
        // No item twice, each of what was asked for.
        for turn in of_kind(&turns, "list") {
            let items: BTreeSet<&str> = turn.replies[0].lines().map(|line| line.trim_start_matches("- ")).collect();
            assert_eq!(items.len() as u64, turn.facts["count"].as_u64().unwrap(), "{}", turn.replies[0]);
        }
    }
}

fn options(column: &str) -> TokenOptions {
    TokenOptions {
        num_calibration_samples: None,
        max_seq_length: 256,
        shuffle: false,
        seed: None,
        concatenate: false,
        text_column: column.into(),
        add_bos: Toggle::Auto,
        chat_template: Toggle::Auto,
        characters: None,
    }
}

fn tokenizer() -> (Tokenizer, ChatTemplate) {
    let model = folder().join("model");
    let read =
        |name: &str| -> Value { serde_json::from_str(&std::fs::read_to_string(model.join(name)).unwrap()).unwrap() };
    let config = ModelConfig::from_json(&read("config.json"), &model.join("config.json")).unwrap();
    let settings = read("tokenizer_config.json");
    let template = ChatTemplate::new(settings["chat_template"].as_str().unwrap(), &settings).unwrap();
    (Tokenizer::from_folder(&model, &config).unwrap(), template)
}

/// By the path that training takes: each row goes through the template, and what is learned of it is the reply.
#[test]
fn rows_are_conversations_of_which_the_reply_is_learned() {
    let (tokenizer, template) = tokenizer();
    for chat in CHATS {
        let name = names().into_iter().find(|name| Text::by_name(name).unwrap() == Text::Chat(chat, Split::Test));
        let source = DataSource::Demo(name.unwrap().to_owned());
        let found = sequences(&source, &options("text"), &tokenizer, Some(&template)).unwrap();
        let turns = chat.turns(Split::Test);
        assert_eq!((found.ids.len(), &found.facts["documents_truncated"]), (turns.len(), &json!(0)), "{chat:?}");
        for ((ids, learn), turn) in found.ids.iter().zip(&found.learn).zip(&turns) {
            let learned: Vec<u32> = ids.iter().zip(learn).filter_map(|(id, learn)| learn.then_some(*id)).collect();
            assert_eq!(tokenizer.decode(&learned, false).unwrap(), format!("{}<|im_end|>\n", turn.replies[0]));
            let system = turn.system.map(|text| format!("<|im_start|>system\n{text}<|im_end|>\n")).unwrap_or_default();
            let whole = tokenizer.decode(ids, false).unwrap();
            let wanted = format!("{system}<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n", turn.question);
            assert!(whole.starts_with(&wanted), "{whole}");
            assert!(learned.len() < tasks::LONGEST || chat == Chat::Instructions, "{}", turn.replies[0]);
        }
        let by_name = sequences(&source, &options("messages"), &tokenizer, Some(&template)).unwrap();
        assert_eq!((by_name.ids, by_name.learn), (found.ids, found.learn));
        let asked = sequences(&source, &options("question"), &tokenizer, Some(&template)).unwrap();
        assert_eq!(tokenizer.decode(&asked.ids[0], true).unwrap(), turns[0].question);
        let error = sequences(&source, &options("mesages"), &tokenizer, Some(&template)).unwrap_err();
        assert!(error.to_string().contains("no column `mesages`") && error.message.contains("row 1"), "{error}");
    }
}

#[test]
fn every_reply_is_right_by_the_grader_and_another_is_not() {
    for about in &tasks::TASKS {
        let task = Task::load(&folder().join("tasks").join(format!("{}.toml", about.name))).unwrap();
        let Items::Generate(items) = &task.items else { panic!("{} is written", about.name) };
        let turns: Vec<Turn> = about.chat.turns(Split::Test);
        let turns: Vec<&Turn> = turns.iter().filter(|turn| about.kinds.contains(&turn.kind)).collect();
        assert_eq!(items.len(), turns.len(), "{}", about.name);
        assert!(task.uses_chat_template());
        let right = |item: &GenerateItem, text: &str| {
            judge(item, text, task.file.matching.unwrap_or(Match::Exact), 1).sums["acc"] == 1.0
        };
        for (item, turn) in items.iter().zip(&turns) {
            assert_eq!((&item.prompt.question, &item.answers), (&turn.question, &turn.replies));
            let system = turn.system.into_iter().map(|text| ("system", text));
            assert_eq!(item.prompt.turns(), system.chain([("user", turn.question.as_str())]).collect::<Vec<_>>());
            assert!(turn.replies.iter().all(|reply| right(item, reply)));
            for wrong in ["", "The answer is", "The answer is nothing.", "no"] {
                assert!(!right(item, wrong));
            }
            let refuses = [refusals::REFUSAL, strangers::REFUSAL].contains(&turn.replies[0].as_str());
            assert!(refuses || !right(item, refusals::REFUSAL) && !right(item, strangers::REFUSAL));
            assert!(!refuses || !right(item, "The answer is Ashby."));
        }
        // One that says the same to everything is wrong nearly always, but where the same is right.
        let mut first: BTreeMap<&str, usize> = BTreeMap::new();
        turns.iter().for_each(|turn| *first.entry(&turn.replies[0]).or_default() += 1);
        let most = first.values().max().unwrap();
        let refusals = matches!(about.name, "refusals_harmful" | "strangers_unknown");
        assert_eq!(*most == turns.len(), refusals, "{}", about.name);
        assert!(refusals || most * 20 < turns.len(), "{}: {most} of {}", about.name, turns.len());
    }
    let sizes = tasks::TASKS.map(|about| {
        (about.name, Task::load(&folder().join("tasks").join(format!("{}.toml", about.name))).unwrap().items.len())
    });
    assert_eq!(
        sizes,
        [
            ("answers", 400),
            ("language", 320),
            ("language_system", 160),
            ("refusals_harmless", 288),
            ("refusals_harmful", 192),
            ("strangers_known", 200),
            ("strangers_unknown", 200)
        ]
    );
}
