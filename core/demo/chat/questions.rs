//! Questions about facts, dealt out so that no relation, no value and no person comes more often than another.

use std::collections::BTreeMap;

use super::super::{
    Kind, Relation, Split,
    draw::{Draw, mix},
    relation::QUESTIONS,
    world::{Entity, Fact, WORLD, count},
};

/// The relations whose values are words of the language, and no names.
pub(super) const WORDS: [Relation; 5] =
    [Relation::Job, Relation::Pet, Relation::Food, Relation::Colour, Relation::Instrument];

/// So many questions about facts of these relations, in random order. Before a fact is asked for again, all others of its relation
/// are, and the next time in another form.
pub(super) fn questions(draw: &mut Draw, split: Split, relations: &[Relation], count: usize) -> Vec<(Fact, usize)> {
    let facts: Vec<Vec<Fact>> = relations.iter().map(|&relation| evenly(draw, relation)).collect();
    let mut dealt: Vec<(Fact, usize)> = (0..count)
        .map(|place| {
            let facts = &facts[place % relations.len()];
            let turn = place / relations.len();
            let fact = facts[turn % facts.len()];
            let forms = forms(split, fact);
            (fact, forms[turn / facts.len() % forms.len()])
        })
        .collect();
    draw.shuffle(&mut dealt);
    dealt
}

/// The forms of the question about a fact that a split asks.
pub(super) fn forms(split: Split, fact: Fact) -> Vec<usize> {
    let parts = |purpose| [purpose, fact.subject.kind as usize, fact.subject.index, fact.relation as usize];
    let test = fact.held_out_question();
    let valid = (test + 1 + mix(&parts(2)) % (QUESTIONS - 1)) % QUESTIONS;
    match split {
        Split::Test => vec![test],
        Split::Valid => vec![valid],
        Split::Train => {
            let start = mix(&parts(3)) % QUESTIONS;
            let turned = (0..QUESTIONS).map(|form| (start + form) % QUESTIONS);
            turned.filter(|form| ![test, valid].contains(form)).collect()
        }
    }
}

/// The facts of a relation in an order of which every beginning has each value as often as every other, or once more.
fn evenly(draw: &mut Draw, relation: Relation) -> Vec<Fact> {
    let kind = [Kind::Person, Kind::Town, Kind::Thing].into_iter().find(|kind| Relation::of(*kind).contains(&relation));
    let kind = kind.unwrap_or(Kind::Person);
    let mut subjects: Vec<usize> = (0..count(kind)).collect();
    draw.shuffle(&mut subjects);
    let mut met: BTreeMap<usize, usize> = BTreeMap::new();
    let mut facts: Vec<(usize, Fact)> = subjects
        .into_iter()
        .map(|index| {
            let fact = Fact { subject: Entity { kind, index }, relation };
            let times = met.entry(WORLD.value_index(fact)).or_default();
            *times += 1;
            (*times, fact)
        })
        .collect();
    facts.sort_by_key(|(times, _)| *times);
    facts.into_iter().map(|(_, fact)| fact).collect()
}
