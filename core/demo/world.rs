//! The world: its people, towns and things, and what is true of them.

use std::sync::LazyLock;

use super::{
    draw::{Draw, mix},
    relation::{Kind, PREDICATES, QUESTIONS, Relation, TELLINGS, Values},
    words,
};

/// How a subject is spoken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gender {
    She,
    He,
    It,
}

impl Gender {
    /// Subject, object and possessive pronoun.
    pub(crate) fn pronouns(self) -> [&'static str; 3] {
        match self {
            Self::She => ["she", "her", "her"],
            Self::He => ["he", "him", "his"],
            Self::It => ["it", "it", "its"],
        }
    }
}

/// Somebody or something that is spoken of, of the world or of one document only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// The whole name.
    pub(crate) name: String,
    /// The name among people who know each other.
    pub(crate) short: String,
    pub(crate) gender: Gender,
}

/// One of the world's subjects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entity {
    pub(crate) kind: Kind,
    pub(crate) index: usize,
}

/// That a relation holds for a subject; its value follows from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fact {
    pub(crate) subject: Entity,
    pub(crate) relation: Relation,
}

impl Fact {
    /// The telling that the train split never uses for this fact, so that other splits have wordings of their own.
    pub(crate) fn held_out_telling(self) -> usize {
        mix(&[0, self.subject.kind as usize, self.subject.index, self.relation as usize]) % TELLINGS
    }

    /// The question that no text asks about this fact: the tasks do.
    pub(crate) fn held_out_question(self) -> usize {
        mix(&[1, self.subject.kind as usize, self.subject.index, self.relation as usize]) % QUESTIONS
    }

    /// Whether a telling is a predicate, which can be joined with others in one sentence.
    pub(crate) fn is_predicate(telling: usize) -> bool {
        telling < PREDICATES
    }
}

/// Number of people.
pub(crate) const PEOPLE: usize = 256;
/// Number of things.
pub(crate) const THINGS: usize = 48;

/// What a world calls its own, and what its facts are drawn for. All worlds have as many of each.
pub(crate) struct Names {
    pub(crate) purpose: &'static str,
    pub(crate) women: &'static [&'static str; 128],
    pub(crate) men: &'static [&'static str; 128],
    pub(crate) families: &'static [&'static str; 64],
    pub(crate) towns: &'static [&'static str; 24],
    pub(crate) rivers: &'static [&'static str; 8],
    /// First words of things.
    pub(crate) epithets: &'static [&'static str; 24],
    /// Second words of things.
    pub(crate) nouns: &'static [&'static str; 12],
}

/// The names of the demo's own world.
static NAMES: Names = Names {
    purpose: "world",
    women: &words::WOMEN,
    men: &words::MEN,
    families: &words::FAMILIES,
    towns: &words::TOWNS,
    rivers: &words::RIVERS,
    epithets: &words::EPITHETS,
    nouns: &words::NOUNS,
};

/// Everything that is true.
pub(crate) struct World {
    pub(crate) names: &'static Names,
    people: Vec<Subject>,
    towns: Vec<Subject>,
    things: Vec<Subject>,
    /// For each relation, the value's index for each subject.
    values: Vec<Vec<usize>>,
}

/// The world of this version, which the demo's model knows.
pub(crate) static WORLD: LazyLock<World> = LazyLock::new(|| World::new(&NAMES));

impl World {
    pub(crate) fn new(names: &'static Names) -> Self {
        let mut draw = Draw::new(names.purpose, 0);
        let families = draw.deck(PEOPLE, names.families.len());
        let women = names.women.iter().map(|name| (name, Gender::She));
        let given = women.chain(names.men.iter().map(|name| (name, Gender::He)));
        let people = given
            .zip(families)
            .map(|((given, gender), family)| Subject {
                name: format!("{given} {}", names.families[family]),
                short: (*given).to_owned(),
                gender,
            })
            .collect();
        let thing = |name: String| Subject { short: name.clone(), name, gender: Gender::It };
        let towns = names.towns.iter().map(|name| thing((*name).to_owned())).collect();
        let things = (0..THINGS)
            .map(|i| {
                let (epithet, half) = (i % names.epithets.len(), i / names.epithets.len());
                // The second thing of an epithet gets the noun half a round further on.
                let noun = (epithet + 6 * half) % names.nouns.len();
                thing(format!("the {} {}", names.epithets[epithet], names.nouns[noun]))
            })
            .collect();
        let all = [Kind::Person, Kind::Town, Kind::Thing].into_iter();
        let values = all
            .flat_map(|kind| Relation::of(kind).iter().map(move |&relation| (kind, relation)))
            .map(|(kind, relation)| match relation.values() {
                Values::Words(list) => draw.deck(count(kind), list.len()),
                Values::Towns => draw.deck(count(kind), names.towns.len()),
                Values::People if kind == Kind::Person => draw.ring(PEOPLE),
                Values::People => draw.distinct(count(kind), PEOPLE),
            })
            .collect();
        Self { names, people, towns, things, values }
    }

    /// The name and gender of an entity.
    pub(crate) fn subject(&self, entity: Entity) -> &Subject {
        match entity.kind {
            Kind::Person => &self.people[entity.index],
            Kind::Town => &self.towns[entity.index],
            Kind::Thing => &self.things[entity.index],
        }
    }

    /// The index of a fact's value among the values of its relation.
    pub(crate) fn value_index(&self, fact: Fact) -> usize {
        self.values[fact.relation as usize][fact.subject.index]
    }

    /// A fact's value in words.
    pub(crate) fn value(&self, fact: Fact) -> &str {
        self.value_text(fact.relation, self.value_index(fact))
    }

    /// A value of a relation in words.
    pub(crate) fn value_text(&self, relation: Relation, index: usize) -> &str {
        match relation.values() {
            Values::Words(_) if relation == Relation::River => self.names.rivers[index],
            Values::Words(list) => list[index],
            Values::Towns => self.names.towns[index],
            Values::People => &self.people[index].name,
        }
    }

    /// The subjects for which a relation has this value.
    pub(crate) fn with_value(&self, relation: Relation, value: usize) -> Vec<usize> {
        self.values[relation as usize]
            .iter()
            .enumerate()
            .filter(|&(_, &v)| v == value)
            .map(|(index, _)| index)
            .collect()
    }
}

/// Number of subjects of a kind.
pub(crate) fn count(kind: Kind) -> usize {
    match kind {
        Kind::Person => PEOPLE,
        Kind::Town => words::TOWNS.len(),
        Kind::Thing => THINGS,
    }
}

/// How often a subject was mentioned before decides how it is named now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mention {
    Full,
    Short,
    Pronoun,
}

/// Fills the placeholders of a wording (see `wordings.rs`) and begins with a capital letter if `start`.
pub(crate) fn fill(out: &mut String, wording: &str, subject: &Subject, mention: Mention, value: &str, start: bool) {
    let begin = out.len();
    let [nominative, object, possessive] = subject.gender.pronouns();
    let name = match mention {
        Mention::Full => Some(&subject.name),
        Mention::Short => Some(&subject.short),
        Mention::Pronoun => None,
    };
    let mut rest = wording;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        let placeholder = &rest[at + 1..at + 2];
        match (placeholder, name) {
            ("S" | "O", Some(name)) => out.push_str(name),
            ("P", Some(name)) => {
                out.push_str(name);
                out.push_str("'s");
            }
            ("S" | "s", _) => out.push_str(nominative),
            ("O" | "o", _) => out.push_str(object),
            ("P" | "p", _) => out.push_str(possessive),
            ("N", _) => out.push_str(&subject.name),
            ("a", _) => {
                out.push_str(if value.starts_with(['a', 'e', 'i', 'o', 'u']) { "an " } else { "a " });
                out.push_str(value);
            }
            _ => out.push_str(value),
        }
        rest = &rest[at + 3..];
    }
    out.push_str(rest);
    if start && let Some(first) = out[begin..].chars().next() {
        out.replace_range(begin..begin + first.len_utf8(), &first.to_uppercase().to_string());
    }
}
