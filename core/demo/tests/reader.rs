//! A reader that takes facts out of sentences again, with patterns made from the wordings: an independent way to the answer
//! of every question.

use regex::{Regex, RegexSet};

use super::super::{Kind, Relation, relation::TELLINGS, world::Fact};

pub(super) struct Reader {
    tellings: Vec<(Relation, Regex)>,
    /// The same patterns, to find at once which of them match.
    any: RegexSet,
    questions: Vec<(Relation, Regex)>,
}

/// A name of the world or of a page, of a person, a town or a thing.
const NAME: &str = r"(?P<name>[A-Z][a-z]+(?: [A-Z][a-z]+)?|[Tt]he [A-Z][a-z]+ [A-Z][a-z]+)";

fn pattern(wording: &str) -> String {
    let subject = format!("(?:[Ss]he|[Hh]e|[Ii]t|her|him|{NAME})");
    let possessive = format!("(?:{NAME}'s|[Hh]er|[Hh]is|[Ii]ts)");
    regex::escape(wording)
        .replace(r"\{S\}", &subject)
        .replace(r"\{O\}", &subject)
        .replace(r"\{N\}", NAME)
        .replace(r"\{P\}", &possessive)
        .replace(r"\{s\}", r"\w+")
        .replace(r"\{o\}", r"\w+")
        .replace(r"\{p\}", r"\w+")
        .replace(r"\{a\}", r"an? (?P<value>[a-z]+)")
        .replace(r"\{v\}", r"(?P<value>[A-Z][a-z]+(?: [A-Z][a-z]+)?|[a-z]+)")
}

impl Reader {
    pub(super) fn new() -> Self {
        let all =
            [Kind::Person, Kind::Town, Kind::Thing].into_iter().flat_map(|kind| Relation::of(kind).iter().copied());
        let whole = |pattern: String| Regex::new(&format!("^{pattern}$")).unwrap();
        let tellings = all
            .clone()
            .flat_map(|relation| (0..TELLINGS).map(move |telling| (relation, telling)))
            .map(|(relation, telling)| {
                let wording = relation.telling(telling);
                let sentence =
                    if Fact::is_predicate(telling) { format!("{{S}} {wording}.") } else { wording.to_owned() };
                (relation, whole(pattern(&sentence)))
            })
            .collect::<Vec<_>>();
        let any = RegexSet::new(tellings.iter().map(|(_, pattern)| pattern.as_str())).unwrap();
        let questions = all
            .flat_map(|relation| relation.wordings().questions.map(|question| (relation, whole(pattern(question)))))
            .collect();
        Self { tellings, any, questions }
    }

    /// What a sentence tells: the name, if it has one, the relation and the value.
    fn sentence(&self, sentence: &str) -> Option<(Option<String>, Relation, String)> {
        let mut found = self.any.matches(sentence).into_iter().filter_map(|index| {
            let (relation, pattern) = &self.tellings[index];
            let captures = pattern.captures(sentence)?;
            let name = captures.name("name").map(|name| {
                let name = name.as_str();
                name.strip_prefix("The ").map_or(name.to_owned(), |rest| format!("the {rest}"))
            });
            Some((name, *relation, captures["value"].to_owned()))
        });
        let first = found.next()?;
        assert!(found.all(|other| other == first), "two meanings: {sentence}");
        Some(first)
    }

    /// The facts that a story tells with a whole name in a sentence of their own.
    pub(super) fn named_facts(&self, story: &str) -> Vec<(String, Relation, String)> {
        let facts = sentences(story).filter_map(|sentence| self.sentence(&sentence));
        facts.filter_map(|(name, relation, value)| Some((name?, relation, value))).collect()
    }

    /// All facts of a page, pronouns given to the last person that was named.
    pub(super) fn page_facts(&self, page: &str) -> Vec<(String, Relation, String)> {
        let mut last = None;
        let mut facts = Vec::new();
        for sentence in sentences(page) {
            let Some((name, relation, value)) = self.sentence(&sentence) else { continue };
            last = name.or(last);
            facts.push((last.clone().unwrap(), relation, value));
        }
        facts
    }

    /// What a prompt asks for.
    pub(super) fn question(&self, prompt: &str) -> (String, Relation) {
        let question = prompt.trim_start_matches("Question: ").trim_end_matches("\nAnswer:");
        let mut found = self.questions.iter().filter_map(|(relation, pattern)| {
            let captures = pattern.captures(question)?;
            Some((captures["name"].to_owned(), *relation))
        });
        let first = found.next().unwrap_or_else(|| panic!("no meaning: {question}"));
        assert!(found.all(|other| other == first), "two meanings: {question}");
        first
    }
}

fn sentences(text: &str) -> impl Iterator<Item = String> {
    text.split_inclusive(". ").map(|sentence| sentence.trim().to_owned())
}
