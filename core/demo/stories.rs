//! Running text about the world: short documents of several kinds, each a few sentences that tell facts among others
//! that tell none.

use super::{
    Split,
    draw::Draw,
    phrases,
    relation::{Kind, PREDICATES, Relation, TELLINGS},
    world::{Entity, Fact, Gender, Mention, PEOPLE, Subject, THINGS, WORLD, World, count, fill},
};

/// Writes documents of one split.
pub(crate) struct Teller<'a> {
    pub(crate) world: &'a World,
    pub(crate) draw: Draw,
    split: Split,
    pub(crate) out: String,
    /// Sentences without a fact that the document already has.
    used: Vec<&'static str>,
}

impl<'a> Teller<'a> {
    pub(crate) fn new(split: Split, draw: Draw) -> Self {
        Self::of(&WORLD, split, draw)
    }

    /// One who knows that world.
    pub(crate) fn of(world: &'a World, split: Split, draw: Draw) -> Self {
        Self { world, draw, split, out: String::with_capacity(1024), used: Vec::new() }
    }

    /// A document of running text.
    pub(crate) fn story(mut self) -> String {
        match self.draw.below(100) {
            0..28 => self.portrait(),
            28..48 => self.meeting(),
            48..58 => self.town(),
            58..69 => self.workshop(),
            69..77 => self.lineage(),
            77..87 => self.letter(),
            87..94 => self.comparison(),
            _ => self.journey(),
        }
        self.out
    }

    /// One person: most of the facts, in any order.
    fn portrait(&mut self) {
        let person = self.person();
        let mut mention = Mention::Full;
        if self.draw.chance(25) {
            let opening = *self.draw.pick(&phrases::PORTRAITS);
            self.phrase(opening, person, mention, "");
            mention = Mention::Pronoun;
        }
        let mut facts = self.facts_of(person);
        let told = self.draw.between(4, facts.len());
        facts.truncate(told);
        self.tell_all(&facts, mention);
    }

    /// Two people meet somewhere and talk.
    fn meeting(&mut self) {
        let [a, b] = self.two_people();
        let opening = self.fresh(&phrases::OPENINGS);
        let errand = self.fresh(&phrases::ERRANDS);
        let place = *self.draw.pick(self.world.names.towns);
        self.phrase(&format!("{opening}, {{S}} {errand}."), a, Mention::Full, place);
        let mut of_a = self.facts_of(a);
        let mut of_b = self.facts_of(b);
        let told = self.draw.below(3);
        self.tell_all(&of_a.split_off(of_a.len() - told), Mention::Pronoun);
        let introduction = self.introduction(of_b.swap_remove(0));
        let encounter = self.fresh(&phrases::ENCOUNTERS);
        self.phrase(encounter, a, Mention::Pronoun, &introduction);
        if self.draw.chance(60)
            && let Some(fact) = of_b.pop()
        {
            self.tell(fact, Mention::Short);
        }
        for _ in 0..self.draw.between(1, 2) {
            match self.draw.below(4) {
                0 | 1 => self.exchange(a, b),
                2 => self.exchange(b, a),
                _ => self.gossip(a, b),
            }
        }
        let name = self.world.subject(b).short.clone();
        for list in [&phrases::EVENTS[..], &phrases::CLOSINGS[..]] {
            if self.draw.chance(60) {
                let event = self.fresh(list);
                self.phrase(event, a, Mention::Short, &name);
            }
        }
    }

    /// A town, somebody who lives there, and what is kept there.
    fn town(&mut self) {
        let town = Entity { kind: Kind::Town, index: self.draw.below(count(Kind::Town)) };
        let mut facts = self.facts_of(town);
        let told = self.draw.between(2, facts.len());
        facts.truncate(told);
        self.tell_all(&facts, Mention::Full);
        let citizens = self.world.with_value(Relation::Lives, town.index);
        for _ in 0..self.draw.between(1, 2) {
            let citizen = Entity { kind: Kind::Person, index: *self.draw.pick(&citizens) };
            let mut facts = self.facts_of(citizen);
            facts.retain(|fact| fact.relation != Relation::Lives);
            let introduction = self.introduction(facts.swap_remove(0));
            let phrase = self.fresh(&phrases::CITIZENS);
            self.phrase(phrase, town, Mention::Pronoun, &introduction);
            let more = self.draw.below(3);
            self.tell_all(&facts.split_off(facts.len() - more), Mention::Pronoun);
        }
        let kept = self.world.with_value(Relation::Place, town.index);
        if self.draw.chance(60) && !kept.is_empty() {
            let thing = Entity { kind: Kind::Thing, index: *self.draw.pick(&kept) };
            let mut facts = self.facts_of(thing);
            facts.retain(|fact| fact.relation != Relation::Place);
            self.tell(Fact { subject: thing, relation: Relation::Place }, Mention::Full);
            let more = self.draw.between(1, 2);
            self.tell_all(&facts.split_off(facts.len() - more), Mention::Pronoun);
        }
    }

    /// A thing and its maker.
    fn workshop(&mut self) {
        let thing = Entity { kind: Kind::Thing, index: self.draw.below(THINGS) };
        let mut facts = self.facts_of(thing);
        facts.retain(|fact| fact.relation != Relation::Maker);
        let told = self.draw.between(2, facts.len());
        facts.truncate(told);
        self.tell_all(&facts, Mention::Full);
        if self.draw.chance(80) {
            let made = Fact { subject: thing, relation: Relation::Maker };
            self.tell(made, Mention::Full);
            let maker = Entity { kind: Kind::Person, index: self.world.value_index(made) };
            let mut facts = self.facts_of(maker);
            let told = self.draw.between(1, 3);
            facts.truncate(told);
            self.tell_all(&facts, Mention::Short);
        }
    }

    /// Who taught whom.
    fn lineage(&mut self) {
        let mut person = self.person();
        let mut mention = Mention::Full;
        for _ in 0..3 {
            let taught = Fact { subject: person, relation: Relation::Teacher };
            let mut facts = self.facts_of(person);
            facts.retain(|&fact| fact != taught);
            let told = self.draw.between(1, 2);
            facts.truncate(told);
            facts.push(taught);
            self.tell_all(&facts, mention);
            person = Entity { kind: Kind::Person, index: self.world.value_index(taught) };
            mention = Mention::Short;
        }
    }

    /// Somebody writes about himself and about others.
    fn letter(&mut self) {
        let [a, b] = self.two_people();
        self.out.push_str(&format!("Dear {}, ", self.world.subject(b).short));
        self.push(phrases::GREETINGS.as_slice());
        let facts = self.facts_of(a);
        for &fact in facts.iter().take(self.draw.between(2, 4)) {
            let Some((_, answers)) = fact.relation.conversation() else { continue };
            let answer = self.draw.pick(&answers).trim_start_matches("Yes, ");
            self.phrase(&format!("{answer}."), a, Mention::Full, self.world.value(fact));
        }
        let other = self.anything();
        let name = self.world.subject(other).name.clone();
        let news = self.fresh(&phrases::NEWS);
        self.phrase(news, a, Mention::Full, &name);
        let mut facts = self.facts_of(other);
        let told = self.draw.between(1, 3);
        facts.truncate(told);
        self.tell_all(&facts, Mention::Pronoun);
        self.push(phrases::FAREWELLS.as_slice());
        let name = &self.world.subject(a).name;
        self.out.push_str(&format!(" Yours, {name}"));
    }

    /// Two people with something in common, and what sets them apart.
    fn comparison(&mut self) {
        let a = self.person();
        let relations = &Relation::PERSON[..7];
        let relation = *self.draw.pick(relations);
        let value = self.world.value_index(Fact { subject: a, relation });
        let mut others = self.world.with_value(relation, value);
        others.retain(|&index| index != a.index);
        let (Some(shared), false) = (relation.shared(), others.is_empty()) else { return self.portrait() };
        let b = Entity { kind: Kind::Person, index: *self.draw.pick(&others) };
        let name = self.world.subject(b).name.clone();
        self.phrase(&format!("{{S}} and {name} {shared}."), a, Mention::Full, self.world.value_text(relation, value));
        let mut rest: Vec<Relation> = Relation::PERSON.into_iter().filter(|&other| other != relation).collect();
        self.draw.shuffle(&mut rest);
        for &relation in rest.iter().take(self.draw.between(1, 3)) {
            let (first, second) = (Fact { subject: a, relation }, Fact { subject: b, relation });
            let join = *self.draw.pick(&["; ", ", while ", ", but "]);
            let left = self.predicate(first);
            let right = self.predicate(second);
            let (a, b) = (&self.world.subject(a).short, &self.world.subject(b).short);
            let sentence = format!("{a} {left}{join}{b} {right}.");
            self.space();
            self.out.push_str(&sentence);
        }
        if self.draw.chance(30) {
            let closing = self.fresh(&phrases::CLOSINGS);
            let name = self.world.subject(b).short.clone();
            self.phrase(closing, a, Mention::Short, &name);
        }
    }

    /// Through several towns.
    fn journey(&mut self) {
        let person = self.person();
        let mut facts = self.facts_of(person);
        facts.truncate(1);
        self.tell_all(&facts, Mention::Full);
        let departure = self.fresh(&phrases::DEPARTURES);
        self.phrase(departure, person, Mention::Pronoun, "");
        let stops = self.draw.between(2, 3);
        for index in self.draw.distinct(stops, count(Kind::Town)) {
            let town = Entity { kind: Kind::Town, index };
            let facts = self.facts_of(town);
            let introduction = self.introduction(facts[0]);
            let station = self.fresh(&phrases::STATIONS);
            self.phrase(station, person, Mention::Pronoun, &introduction);
            let kept = self.world.with_value(Relation::Place, index);
            if self.draw.chance(50) && !kept.is_empty() {
                let thing = Entity { kind: Kind::Thing, index: *self.draw.pick(&kept) };
                let mut facts = self.facts_of(thing);
                facts.retain(|fact| fact.relation != Relation::Place);
                let seen = format!("There {{s}} saw {}.", self.introduction(facts[0]));
                self.phrase(&seen, person, Mention::Pronoun, "");
            }
        }
    }

    /// `"Where do you live?" asked Ada. "I live in Ashby," said Otto.`
    fn exchange(&mut self, asking: Entity, answering: Entity) {
        let relation = *self.draw.pick(&Relation::PERSON);
        let Some((question, answers)) = relation.conversation() else { return };
        let answer = *self.draw.pick(&answers);
        let said = *self.draw.pick(&phrases::SAID);
        let value = self.world.value(Fact { subject: answering, relation });
        let other = &self.world.subject(answering).short;
        let sentence = format!("\"{question}\" asked {{S}}. \"{answer},\" {said} {other}.");
        self.phrase(&sentence, asking, Mention::Short, value);
    }

    /// Two people talk about somebody or something else.
    fn gossip(&mut self, asking: Entity, answering: Entity) {
        let topic = self.anything();
        let fact = self.facts_of(topic)[0];
        let name = &self.world.subject(topic).name;
        let question = self.fresh(&phrases::GOSSIP).replace("{v}", name);
        let comma = if question.ends_with('?') { "" } else { "," };
        let said = *self.draw.pick(&phrases::SAID);
        let mut answer = String::new();
        fill(&mut answer, "{S} ", self.world.subject(topic), Mention::Pronoun, "", true);
        answer.push_str(&self.predicate(fact));
        let other = &self.world.subject(answering).short;
        let sentence = format!("\"{question}{comma}\" asked {{S}}. \"{answer},\" {said} {other}.");
        self.phrase(&sentence, asking, Mention::Short, "");
    }

    /// Tells facts of one subject one after another, now and then two in a sentence, with a sentence between that tells none.
    fn tell_all(&mut self, facts: &[Fact], first: Mention) {
        let mut mention = first;
        let mut rest = facts;
        while let Some((&fact, tail)) = rest.split_first() {
            rest = tail;
            match tail.split_first() {
                Some((&second, tail)) if self.draw.chance(30) => {
                    self.tell_two(fact, second, mention);
                    rest = tail;
                }
                _ => self.tell(fact, mention),
            }
            mention = if self.draw.chance(75) { Mention::Pronoun } else { Mention::Short };
            if self.draw.chance(18) {
                let phrase = match fact.subject.kind {
                    Kind::Person => self.fresh(&phrases::MANNERS),
                    Kind::Town => self.fresh(&phrases::SIGHTS),
                    Kind::Thing => self.fresh(&phrases::RUMOURS),
                };
                self.phrase(phrase, fact.subject, mention, "");
            }
        }
    }

    /// One fact in one sentence.
    fn tell(&mut self, fact: Fact, mention: Mention) {
        let telling = self.telling(fact, TELLINGS);
        let value = self.world.value(fact);
        let wording = fact.relation.telling(telling);
        if !Fact::is_predicate(telling) {
            return self.phrase(wording, fact.subject, mention, value);
        }
        let hearsay = if self.draw.chance(12) { self.fresh(&phrases::HEARSAY) } else { "" };
        self.phrase(&format!("{hearsay}{{S}} {wording}."), fact.subject, mention, value);
    }

    /// Two facts of one subject in one sentence.
    fn tell_two(&mut self, first: Fact, second: Fact, mention: Mention) {
        let left = self.predicate(first);
        let right = self.predicate(second);
        let who = who(self.world.subject(first.subject));
        let comma = if left.contains(',') { "," } else { "" };
        let sentence = match self.draw.below(3) {
            0 if mention != Mention::Pronoun => format!("{{S}}, {who} {left}, {right}."),
            1 => format!("{{S}} {left}, and {{s}} {right}."),
            _ => format!("{{S}} {left}{comma} and {right}."),
        };
        self.phrase(&sentence, first.subject, mention, "");
    }

    /// A name with a fact: `Ada Barlow, who works as a baker`.
    fn introduction(&mut self, fact: Fact) -> String {
        let predicate = self.predicate(fact);
        let subject = self.world.subject(fact.subject);
        format!("{}, {} {predicate}", subject.name, who(subject))
    }

    /// The predicate of a fact in words, with pronouns.
    fn predicate(&mut self, fact: Fact) -> String {
        let telling = self.telling(fact, PREDICATES);
        let subject = self.world.subject(fact.subject);
        let mut out = String::new();
        fill(&mut out, fact.relation.telling(telling), subject, Mention::Pronoun, self.world.value(fact), false);
        out
    }

    /// Chooses one of the first `bound` tellings of a fact. The train split never takes the one that is held out; the others
    /// take it often.
    fn telling(&mut self, fact: Fact, bound: usize) -> usize {
        let held_out = fact.held_out_telling();
        if self.split != Split::Train && held_out < bound && self.draw.chance(40) {
            return held_out;
        }
        let telling = self.draw.below(bound);
        if self.split == Split::Train && telling == held_out { (telling + 1) % bound } else { telling }
    }

    /// The facts of an entity, shuffled.
    fn facts_of(&mut self, subject: Entity) -> Vec<Fact> {
        let mut facts: Vec<Fact> =
            Relation::of(subject.kind).iter().map(|&relation| Fact { subject, relation }).collect();
        self.draw.shuffle(&mut facts);
        facts
    }

    fn person(&mut self) -> Entity {
        Entity { kind: Kind::Person, index: self.draw.below(PEOPLE) }
    }

    fn two_people(&mut self) -> [Entity; 2] {
        let indices = self.draw.distinct(2, PEOPLE);
        [indices[0], indices[1]].map(|index| Entity { kind: Kind::Person, index })
    }

    /// A person, a town or a thing.
    fn anything(&mut self) -> Entity {
        let kind = *self.draw.pick(&[Kind::Person, Kind::Person, Kind::Town, Kind::Thing]);
        Entity { kind, index: self.draw.below(count(kind)) }
    }

    /// Appends a sentence.
    fn phrase(&mut self, wording: &str, subject: Entity, mention: Mention, value: &str) {
        self.space();
        fill(&mut self.out, wording, self.world.subject(subject), mention, value, true);
    }

    /// Appends one of the sentences of a list.
    fn push(&mut self, list: &[&str]) {
        self.space();
        let sentence = *self.draw.pick(list);
        self.out.push_str(sentence);
    }

    /// One of a list's sentences that the document does not have yet.
    fn fresh(&mut self, list: &[&'static str]) -> &'static str {
        loop {
            let phrase = *self.draw.pick(list);
            if !self.used.contains(&phrase) {
                self.used.push(phrase);
                return phrase;
            }
        }
    }

    fn space(&mut self) {
        if !self.out.is_empty() && !self.out.ends_with(' ') {
            self.out.push(' ');
        }
    }
}

/// The relative pronoun of a subject.
fn who(subject: &Subject) -> &'static str {
    if subject.gender == Gender::It { "which" } else { "who" }
}
