//! The relations of the world.

use super::{wordings::TABLE, words};

/// Something that can be told of a subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Relation {
    Born,
    Lives,
    Job,
    Pet,
    Food,
    Colour,
    Instrument,
    Teacher,
    River,
    Goods,
    Bridge,
    Market,
    Material,
    Price,
    Place,
    Maker,
}

/// What a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Person,
    Town,
    Thing,
}

/// Where the values of a relation come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// A list of words.
    Words(&'static [&'static str]),
    /// The towns of the world.
    Towns,
    /// The people of the world.
    People,
}

/// How a relation is told and asked.
pub(crate) struct Wordings {
    /// What follows a subject: `works as {a}`.
    pub(crate) predicates: [&'static str; 6],
    /// Whole sentences.
    pub(crate) sentences: [&'static str; 4],
    /// Questions about `{N}`, which the value alone answers.
    pub(crate) questions: [&'static str; 6],
}

/// Number of ways to tell a fact: the predicates first, then the sentences.
pub(crate) const TELLINGS: usize = 10;
/// Number of predicates among them.
pub(crate) const PREDICATES: usize = 6;
/// Number of ways to ask for a fact.
pub(crate) const QUESTIONS: usize = 6;

impl Relation {
    pub(crate) const PERSON: [Self; 8] =
        [Self::Born, Self::Lives, Self::Job, Self::Pet, Self::Food, Self::Colour, Self::Instrument, Self::Teacher];
    pub(crate) const TOWN: [Self; 4] = [Self::River, Self::Goods, Self::Bridge, Self::Market];
    pub(crate) const THING: [Self; 4] = [Self::Material, Self::Price, Self::Place, Self::Maker];

    /// The relations of a kind of subject.
    pub(crate) fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Person => &Self::PERSON,
            Kind::Town => &Self::TOWN,
            Kind::Thing => &Self::THING,
        }
    }

    /// Its name in the identities of items.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Born => "born",
            Self::Lives => "lives",
            Self::Job => "job",
            Self::Pet => "pet",
            Self::Food => "food",
            Self::Colour => "colour",
            Self::Instrument => "instrument",
            Self::Teacher => "teacher",
            Self::River => "river",
            Self::Goods => "goods",
            Self::Bridge => "bridge",
            Self::Market => "market",
            Self::Material => "material",
            Self::Price => "price",
            Self::Place => "place",
            Self::Maker => "maker",
        }
    }

    /// Where its values come from.
    pub(crate) fn values(self) -> Values {
        match self {
            Self::Born | Self::Lives | Self::Place => Values::Towns,
            Self::Teacher | Self::Maker => Values::People,
            Self::Job => Values::Words(&words::JOBS),
            Self::Pet => Values::Words(&words::ANIMALS),
            Self::Food => Values::Words(&words::FOODS),
            Self::Colour => Values::Words(&words::COLOURS),
            Self::Instrument => Values::Words(&words::INSTRUMENTS),
            Self::River => Values::Words(&words::RIVERS),
            Self::Goods => Values::Words(&words::GOODS),
            Self::Bridge => Values::Words(&words::STONES),
            Self::Market => Values::Words(&words::DAYS),
            Self::Material => Values::Words(&words::METALS),
            Self::Price => Values::Words(&words::NUMBERS),
        }
    }

    /// Telling number `index`: a predicate or a whole sentence.
    pub(crate) fn telling(self, index: usize) -> &'static str {
        let wordings = self.wordings();
        if index < PREDICATES { wordings.predicates[index] } else { wordings.sentences[index - PREDICATES] }
    }

    /// What two people who share a value have in common, for the relations that can be shared.
    pub(crate) fn shared(self) -> Option<&'static str> {
        Some(match self {
            Self::Born => "were both born in {v}",
            Self::Lives => "both live in {v}",
            Self::Job => "both work as {a}",
            Self::Pet => "both keep {a}",
            Self::Food => "both love to eat {v}",
            Self::Colour => "both like the colour {v} best",
            Self::Instrument => "both play the {v}",
            _ => return None,
        })
    }

    /// A question to somebody and the answers, for conversations.
    pub(crate) fn conversation(self) -> Option<(&'static str, [&'static str; 3])> {
        Some(match self {
            Self::Born => {
                ("Where were you born?", ["I was born in {v}", "My birthplace is {v}", "I came into the world in {v}"])
            }
            Self::Lives => {
                ("Where do you live?", ["I live in {v}", "My house is in {v}", "I have made my home in {v}"])
            }
            Self::Job => ("What is your work?", ["I work as {a}", "I am {a}", "I earn my bread as {a}"]),
            Self::Pet => {
                ("Do you keep an animal?", ["I keep {a}", "Yes, I have {a}", "My {v} is waiting for me at home"])
            }
            Self::Food => (
                "What do you like to eat?",
                ["I am fond of {v}", "I could eat {v} every day", "I love {v} more than anything"],
            ),
            Self::Colour => {
                ("Which colour do you like?", ["I like {v} best", "My favourite colour is {v}", "I always choose {v}"])
            }
            Self::Instrument => {
                ("Do you play music?", ["I play the {v}", "Yes, I practise the {v}", "My instrument is the {v}"])
            }
            Self::Teacher => {
                ("Who taught you?", ["I was taught by {v}", "My teacher was {v}", "I learned everything from {v}"])
            }
            _ => return None,
        })
    }

    /// All the words of a relation.
    pub(crate) fn wordings(self) -> &'static Wordings {
        &TABLE[self as usize]
    }
}
