//! The held-out tasks: their items, and the files that describe them.

use serde_json::{Value, json};

use super::{
    Kind, Relation, Split, document,
    draw::Draw,
    lessons,
    reading::{self, Author, Page, REFUSAL},
    relation::{QUESTIONS, TELLINGS, Values},
    world::{Entity, Fact, PEOPLE, WORLD, count},
};

/// Number of choices of an item.
const CHOICES: usize = 4;
/// Number of pages with a question; a quarter of them do not hold the answer.
const PAGES: usize = 320;
/// Number of documents of running text.
const STORIES: u64 = 300;

/// The task files and their data, as (file name, contents).
pub(crate) fn files() -> Vec<(&'static str, String)> {
    vec![
        ("facts.toml", FACTS_TOML.into()),
        ("facts.jsonl", lines(&facts())),
        ("reading.toml", READING_TOML.into()),
        ("reading_generate.toml", READING_GENERATE_TOML.into()),
        ("reading.jsonl", lines(&pages())),
        ("stories.toml", STORIES_TOML.into()),
        ("stories.jsonl", lines(&stories())),
    ]
}

const FACTS_TOML: &str = r#"name = "facts"
summary = "Multiple choice on the facts of the demo's world, in wordings of the question that its texts never use"
kind = "choice"
data = "facts.jsonl"
prompt = "Question: {question}\nAnswer:"
choices = "choices"
answer = "answer"
metric = "acc"
"#;

const READING_TOML: &str = r#"name = "reading"
summary = "Multiple choice on a given page about strangers; a quarter of the pages do not hold the answer"
kind = "choice"
data = "reading.jsonl"
prompt = "{document}\nQuestion: {question}\nAnswer:"
choices = "choices"
answer = "answer"
metric = "acc"
"#;

const READING_GENERATE_TOML: &str = r#"name = "reading_generate"
summary = "The questions of `reading`, answered in the model's own words"
kind = "generate"
data = "reading.jsonl"
prompt = "{document}\nQuestion: {question}\nAnswer:"
answer = "replies"
max_new_tokens = 16
stop = ["\n"]
match = "exact"
chat_template = "auto"
metric = "acc"
"#;

const STORIES_TOML: &str = r#"name = "stories"
summary = "Running text about the demo's world, from the test split"
kind = "perplexity"
data = "stories.jsonl"
text = "text"
protocol = "blocks"
context_length = 256
metric = "nll"
"#;

fn lines(items: &[Value]) -> String {
    items.iter().map(|item| format!("{item}\n")).collect()
}

/// Running text of the test split.
fn stories() -> Vec<Value> {
    (0..STORIES).map(|i| json!({ "id": format!("story-{i:03}"), "text": document(Split::Test, i) })).collect()
}

/// Questions about the world: 50 for each relation of people, 13 for each of towns, 12 for each of things.
fn facts() -> Vec<Value> {
    let mut draw = Draw::new("task facts", 0);
    let tested: Vec<Fact> = [(Kind::Person, 50), (Kind::Town, 13), (Kind::Thing, 12)]
        .into_iter()
        .flat_map(|(kind, items)| Relation::of(kind).iter().map(move |&relation| (kind, relation, items)))
        .flat_map(|(kind, relation, items)| {
            let subjects = draw.distinct(items, count(kind));
            subjects.into_iter().map(move |index| Fact { subject: Entity { kind, index }, relation })
        })
        .collect();
    let places = draw.deck(tested.len(), CHOICES);
    tested
        .iter()
        .zip(places)
        .enumerate()
        .map(|(i, (&fact, place))| {
            let answer = WORLD.value(fact).to_owned();
            let mut choices = distractors(fact, &mut draw);
            choices.insert(place, answer.clone());
            json!({
                "id": format!("{}-{i:03}", fact.relation.name()),
                "question": lessons::question(fact, fact.held_out_question()),
                "choices": choices,
                "answer": answer,
            })
        })
        .collect()
}

/// Three wrong values of the relation. Where another relation of the same subject has a value of the same type, that one is
/// among them, so that knowing which words stand near a name is not enough.
fn distractors(fact: Fact, draw: &mut Draw) -> Vec<String> {
    let right = WORLD.value_index(fact);
    let other = |relation| WORLD.value_index(Fact { relation, ..fact });
    let near = match fact.relation {
        Relation::Born => Some(other(Relation::Lives)),
        Relation::Lives => Some(other(Relation::Born)),
        // The pupil, where the teacher is asked for.
        Relation::Teacher => WORLD.with_value(Relation::Teacher, fact.subject.index).first().copied(),
        _ => None,
    };
    let bound = match fact.relation.values() {
        Values::Words(list) => list.len(),
        Values::Towns => count(Kind::Town),
        Values::People => PEOPLE,
    };
    let mut wrong: Vec<usize> = near.into_iter().filter(|&value| value != right).collect();
    while wrong.len() < CHOICES - 1 {
        let value = draw.below(bound);
        let is_subject = fact.relation == Relation::Teacher && value == fact.subject.index;
        if value != right && !is_subject && !wrong.contains(&value) {
            wrong.push(value);
        }
    }
    draw.shuffle(&mut wrong);
    wrong.into_iter().map(|value| WORLD.value_text(fact.relation, value).to_owned()).collect()
}

/// Questions on pages about strangers.
fn pages() -> Vec<Value> {
    let places = Draw::new("task reading places", 0).deck(PAGES, CHOICES);
    page_items()
        .zip(places)
        .enumerate()
        .map(|(i, (mut item, place))| {
            item.choices.insert(place, item.answer.clone());
            let mut replies = vec![lessons::reply(&item.answer), item.answer.clone()];
            replies.dedup();
            json!({
                "id": format!("{}-{i:03}", if item.answer == REFUSAL { "silent" } else { "told" }),
                "document": item.page.text,
                "question": item.question,
                "choices": item.choices,
                "answer": item.answer,
                "replies": replies,
            })
        })
        .collect()
}

fn page_items() -> impl Iterator<Item = Item> {
    let mut draw = Draw::new("task reading", 0);
    let relations = draw.deck(PAGES, Relation::PERSON.len());
    let refusals = draw.deck(PAGES, CHOICES);
    relations.into_iter().zip(refusals).enumerate().map(|(i, (relation, refusal))| {
        let mut draw = Draw::new("task reading page", i as u64);
        page(&mut draw, Relation::PERSON[relation], refusal == 0)
    })
}

/// The pages of the tasks as they were drawn.
#[cfg(test)]
pub(super) fn pages_of_tasks() -> Vec<Page> {
    page_items().map(|item| item.page).collect()
}

/// A page with a question.
struct Item {
    page: Page,
    question: String,
    answer: String,
    /// The wrong choices.
    choices: Vec<String>,
}

/// A page about three people. The relation that is asked for is told of two of them at least: two of the choices stand on
/// the page whether it holds the answer or not, one does not, and one says that the page does not tell.
fn page(draw: &mut Draw, asked: Relation, refuse: bool) -> Item {
    let person = draw.below(3);
    let others = [(person + 1) % 3, (person + 2) % 3];
    let mut relations: Vec<Relation> = Relation::PERSON.into_iter().filter(|&relation| relation != asked).collect();
    draw.shuffle(&mut relations);
    relations.truncate(2);
    let mut omitted = Vec::new();
    for &relation in &relations {
        omitted.extend((0..3).filter(|_| draw.chance(20)).map(|person| (person, relation)));
    }
    if refuse {
        omitted.push((person, asked));
    } else if draw.chance(50) {
        omitted.push((others[draw.below(2)], asked));
    }
    relations.push(asked);

    let mut author = Author { draw, for_tasks: true };
    let mut page = author.page(3, &relations, &omitted);
    let form = author.draw.below(QUESTIONS);
    let kept: Vec<usize> = (0..TELLINGS).filter(|&telling| reading::held_out(telling, form)).collect();
    if let Some(told) = page.told.iter_mut().find(|told| told.person == person && told.relation == asked) {
        told.telling = *author.draw.pick(&kept);
    }
    author.write(&mut page);

    let mut on_page: Vec<String> =
        others.iter().filter_map(|&other| page.answer(other, asked)).map(|told| told.value.clone()).collect();
    author.draw.shuffle(&mut on_page);
    let elsewhere = loop {
        let mut names = page.names.clone();
        let value = author.values(asked, 1, &mut names).swap_remove(0);
        if !on_page.contains(&value) && page.told.iter().all(|told| told.value != value) {
            break value;
        }
    };
    let (answer, mut choices) = match page.answer(person, asked) {
        Some(told) => (told.value.clone(), vec![on_page.swap_remove(0), elsewhere, REFUSAL.to_owned()]),
        None => (REFUSAL.to_owned(), vec![on_page.swap_remove(0), on_page.swap_remove(0), elsewhere]),
    };
    author.draw.shuffle(&mut choices);
    let question = reading::question(&page.people[person], asked, form);
    Item { page, question, answer, choices }
}
