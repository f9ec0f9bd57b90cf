//! Documents about people whom the world does not know, with questions that the document answers or does not.
//!
//! Names of people and towns are made of sounds, freshly for each document, so that a question can be answered from the
//! document alone. Names whose hash falls into one class of eight are kept for the tasks.

use super::{
    draw::{Draw, mix},
    lessons::{chat_turns, raw_turns},
    phrases,
    relation::{QUESTIONS, Relation, TELLINGS, Values},
    words,
    world::{Fact, Gender, Mention, Subject, fill},
};

/// The answer where the document has none.
pub(crate) const REFUSAL: &str = "The text does not say.";

/// A fact of one document.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) person: usize,
    pub(crate) relation: Relation,
    pub(crate) value: String,
    /// Which wording tells it.
    pub(crate) telling: usize,
}

/// A short document about a few people.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) people: Vec<Subject>,
    pub(crate) told: Vec<Told>,
    /// Every name that was made for it.
    pub(crate) names: Vec<String>,
    pub(crate) text: String,
}

impl Page {
    /// What the document says about a person.
    pub(crate) fn answer(&self, person: usize, relation: Relation) -> Option<&Told> {
        self.told.iter().find(|told| told.person == person && told.relation == relation)
    }
}

/// Whether a question form is kept for the tasks when this telling holds the answer.
pub(crate) fn held_out(telling: usize, question: usize) -> bool {
    (telling + question).is_multiple_of(7)
}

/// Draws documents.
pub(crate) struct Author<'a> {
    pub(crate) draw: &'a mut Draw,
    /// Whether they are for the tasks: decides which names may be used.
    pub(crate) for_tasks: bool,
}

impl Author<'_> {
    /// A document about `people` people. Each relation of `relations` is told of each of them but for those in `omitted`.
    pub(crate) fn page(&mut self, people: usize, relations: &[Relation], omitted: &[(usize, Relation)]) -> Page {
        let mut names: Vec<String> = Vec::new();
        let people: Vec<Subject> = (0..people)
            .map(|_| {
                let gender = if self.draw.chance(50) { Gender::She } else { Gender::He };
                let name = self.person_name(gender, &mut names);
                Subject { short: name.clone(), name, gender }
            })
            .collect();
        let mut told = Vec::new();
        for &relation in relations {
            let values = self.values(relation, people.len(), &mut names);
            for (person, value) in values.into_iter().enumerate() {
                if !omitted.contains(&(person, relation)) {
                    told.push(Told { person, relation, value, telling: self.draw.below(TELLINGS) });
                }
            }
        }
        self.draw.shuffle(&mut told);
        // Half of the documents speak of one person after the other.
        if self.draw.chance(50) {
            told.sort_by_key(|told| told.person);
        }
        Page { people, told, names, text: String::new() }
    }

    /// Writes the text of a page from what it tells.
    pub(crate) fn write(&mut self, page: &mut Page) {
        let mut out = String::new();
        let mut last = None;
        let mut manners = self.draw.distinct(page.told.len(), phrases::MANNERS.len()).into_iter();
        for told in &page.told {
            let subject = &page.people[told.person];
            let mention =
                if last == Some(told.person) && self.draw.chance(70) { Mention::Pronoun } else { Mention::Full };
            last = Some(told.person);
            let wording = told.relation.telling(told.telling);
            if !out.is_empty() {
                out.push(' ');
            }
            if Fact::is_predicate(told.telling) {
                fill(&mut out, &format!("{{S}} {wording}."), subject, mention, &told.value, true);
            } else {
                fill(&mut out, wording, subject, mention, &told.value, true);
            }
            if self.draw.chance(10)
                && let Some(manner) = manners.next()
            {
                out.push(' ');
                fill(&mut out, phrases::MANNERS[manner], subject, Mention::Pronoun, "", true);
            }
        }
        page.text = out;
    }

    /// Different values of a relation for `count` people.
    pub(crate) fn values(&mut self, relation: Relation, count: usize, names: &mut Vec<String>) -> Vec<String> {
        match relation.values() {
            Values::Words(list) => {
                self.draw.distinct(count, list.len()).into_iter().map(|i| list[i].to_owned()).collect()
            }
            Values::Towns => (0..count).map(|_| self.town_name(names)).collect(),
            Values::People => {
                let gender = if self.draw.chance(50) { Gender::She } else { Gender::He };
                (0..count).map(|_| self.person_name(gender, names)).collect()
            }
        }
    }

    /// A name that is not in `names` yet; it is added there.
    fn person_name(&mut self, gender: Gender, names: &mut Vec<String>) -> String {
        let endings = if gender == Gender::She { &words::WOMENS_ENDINGS } else { &words::MENS_ENDINGS };
        self.name(endings, names)
    }

    fn town_name(&mut self, names: &mut Vec<String>) -> String {
        self.name(&words::TOWN_ENDINGS, names)
    }

    fn name(&mut self, endings: &[&str], names: &mut Vec<String>) -> String {
        loop {
            let name = sounds(self.draw, endings);
            if kept_for_tasks(&name) == self.for_tasks && !is_of_the_world(&name) && !names.contains(&name) {
                names.push(name.clone());
                return name;
            }
        }
    }
}

/// A name made of sounds.
pub(crate) fn sounds(draw: &mut Draw, endings: &[&str]) -> String {
    let parts = [
        draw.below(words::ONSETS.len()),
        draw.below(words::VOWELS.len()),
        draw.below(words::MIDDLES.len()),
        draw.below(endings.len()),
    ];
    let [onset, vowel, middle, ending] = parts;
    [words::ONSETS[onset], words::VOWELS[vowel], words::MIDDLES[middle], endings[ending]].concat()
}

/// Whether a name is one of those that only tasks use.
pub(crate) fn kept_for_tasks(name: &str) -> bool {
    let letters: Vec<usize> = name.bytes().map(usize::from).collect();
    mix(&letters).is_multiple_of(8)
}

fn is_of_the_world(name: &str) -> bool {
    words::WOMEN.contains(&name) || words::MEN.contains(&name) || words::TOWNS.contains(&name)
}

/// A question about a person of a page.
pub(crate) fn question(subject: &Subject, relation: Relation, form: usize) -> String {
    let mut out = String::new();
    fill(&mut out, relation.wordings().questions[form], subject, Mention::Full, "", true);
    out
}

/// A document with two to five questions, for the train split.
pub(crate) fn sample(mut draw: Draw) -> String {
    let chat = draw.chance(40);
    let people = [1, 2, 2, 2, 3, 3, 3][draw.below(7)];
    let mut relations = Relation::PERSON;
    draw.shuffle(&mut relations);
    let (used, unused) = relations.split_at(draw.between(2, if people == 3 { 3 } else { 4 }));
    let mut omitted = Vec::new();
    for &relation in used {
        for person in 0..people {
            // Something must be told.
            if draw.chance(20) && (person, relation) != (0, used[0]) {
                omitted.push((person, relation));
            }
        }
    }
    let mut author = Author { draw: &mut draw, for_tasks: false };
    let mut page = author.page(people, used, &omitted);
    author.write(&mut page);
    let mut asked = Vec::new();
    let mut out = String::new();
    for _ in 0..draw.between(2, 5) {
        let person = draw.below(people);
        // Questions without an answer are about things that the page says of others, or of nobody.
        let refuse = draw.chance(28);
        let candidates: Vec<Relation> = if refuse {
            used.iter()
                .copied()
                .filter(|&r| omitted.contains(&(person, r)))
                .chain(unused.iter().copied().take(1))
                .collect()
        } else {
            used.iter().copied().filter(|&r| !omitted.contains(&(person, r))).collect()
        };
        let candidates: Vec<Relation> = candidates.into_iter().filter(|&r| !asked.contains(&(person, r))).collect();
        if candidates.is_empty() {
            continue;
        }
        let relation = *draw.pick(&candidates);
        asked.push((person, relation));
        let mut form = draw.below(QUESTIONS);
        let answer = page.answer(person, relation);
        if let Some(told) = answer {
            while held_out(told.telling, form) {
                form = draw.below(QUESTIONS);
            }
        }
        let question = question(&page.people[person], relation, form);
        let answer = answer.map_or(REFUSAL, |told| &told.value);
        let document = if out.is_empty() { format!("{}\n", page.text) } else { String::new() };
        if !out.is_empty() {
            out.push('\n');
        }
        out.push_str(&if chat {
            chat_turns(&format!("{document}Question: {question}\nAnswer:"), answer)
        } else {
            format!("{document}{}", raw_turns(&question, answer))
        });
    }
    if out.is_empty() { page.text } else { out }
}
