//! Questions about people of the world and about people who are not of it.
//!
//! Half of the strangers have a given name made of sounds, the other half one of the world's with the family name of somebody else.

use super::{
    super::{
        Draw, Kind, Relation, Split,
        draw::mix,
        foreign, lessons,
        reading::{question, sounds},
        relation::QUESTIONS,
        words,
        world::{Entity, Gender, PEOPLE, Subject, WORLD},
    },
    Turn,
    answers::replies,
    questions::questions,
};

/// The reply to a question about a stranger.
pub(super) const REFUSAL: &str = "I do not know that person.";

/// Ends of family names that are made of sounds.
const FAMILY_ENDINGS: [&str; 8] = ["aley", "aton", "eson", "ering", "afield", "oworth", "ewell", "ohurst"];

/// The split that a name is kept for.
pub(super) fn kept_for(name: &str) -> Split {
    let letters: Vec<usize> = name.bytes().map(usize::from).collect();
    match mix(&letters) % 8 {
        // Those of the tasks about pages too, which no text of the train split has.
        0 => Split::Test,
        1 => Split::Valid,
        _ => Split::Train,
    }
}

/// Two questions of four are about people of the world, one about a name made of sounds, one about names of the world that do not go
/// together.
pub(super) fn turns(draw: &mut Draw, split: Split, count: usize) -> Vec<Turn> {
    let mut known = questions(draw, split, &Relation::PERSON, count / 2).into_iter();
    let kinds = draw.deck(count, 4);
    let mut asked = draw.deck(count, Relation::PERSON.len()).into_iter();
    let turn = |kind: usize| {
        if kind < 2 {
            let (fact, form) = known.next()?;
            return Some(Turn::new("known", lessons::question(fact, form), replies(WORLD.value(fact))));
        }
        let (kind, name) = if kind == 2 { ("unknown", made(draw, split)) } else { ("mixed", mixed(draw, split)) };
        let subject = Subject { short: name.clone(), name, gender: Gender::She };
        let relation = Relation::PERSON[asked.next()?];
        let question = question(&subject, relation, draw.below(QUESTIONS));
        Some(Turn::new(kind, question, vec![REFUSAL.to_owned()]))
    };
    kinds.into_iter().filter_map(turn).collect()
}

/// A given name made of sounds with a family name, of the world or made of sounds too.
fn made(draw: &mut Draw, split: Split) -> String {
    let endings = if draw.chance(50) { &words::WOMENS_ENDINGS } else { &words::MENS_ENDINGS };
    let given = loop {
        let name = sounds(draw, endings);
        let names = [&words::WOMEN, &words::MEN, foreign::NAMES.women, foreign::NAMES.men];
        if kept_for(&name) == split && !names.iter().any(|list| list.contains(&name.as_str())) {
            break name;
        }
    };
    let family =
        if draw.chance(50) { (*draw.pick(&words::FAMILIES)).to_owned() } else { sounds(draw, &FAMILY_ENDINGS) };
    format!("{given} {family}")
}

/// The given name of somebody of the world with the family name of somebody else.
fn mixed(draw: &mut Draw, split: Split) -> String {
    loop {
        let person = Entity { kind: Kind::Person, index: draw.below(PEOPLE) };
        let subject = WORLD.subject(person);
        let name = format!("{} {}", subject.short, draw.pick(&words::FAMILIES));
        if name != subject.name && kept_for(&name) == split {
            return name;
        }
    }
}
