//! The second world: fixed, whole, and with nothing that the first one names.

use std::collections::{BTreeMap, BTreeSet};

use rayon::prelude::*;

use super::{
    super::{
        Relation, Split, Text, document,
        foreign::{self, FOREIGN, NAMES},
        relation::Values,
        words,
        world::{Fact, WORLD},
    },
    all_facts, digest,
    reader::Reader,
};

#[test]
fn the_second_world_never_changes_under_its_version() {
    assert_eq!(Text::Foreign(Split::Train).version(), "demo-foreign-1");
    let found = [(Split::Train, 3000), (Split::Valid, 400), (Split::Test, 400)]
        .map(|(split, count)| digest((0..count).map(|index| foreign::document(split, index))));
    assert_eq!(found, ["adb05c927ccbb4cc", "f8775b5bb2a76bee", "c1935a79187f46d4"]);
}

/// The words of names that the second world calls its own, of things both.
pub(super) fn own_names() -> impl Iterator<Item = &'static str> {
    let lists: [&[&str]; 7] =
        [NAMES.women, NAMES.men, NAMES.families, NAMES.towns, NAMES.rivers, NAMES.epithets, NAMES.nouns];
    lists.into_iter().flatten().copied()
}

#[test]
fn no_name_is_of_both_worlds() {
    let names: BTreeSet<&str> = own_names().collect();
    assert_eq!((names.len(), own_names().count()), (388, 388));
    let first: BTreeSet<&str> = [
        &words::WOMEN[..],
        &words::MEN,
        &words::FAMILIES,
        &words::TOWNS,
        &words::RIVERS,
        &words::EPITHETS,
        &words::NOUNS,
    ]
    .into_iter()
    .flatten()
    .copied()
    .collect();
    assert!(names.is_disjoint(&first));
    for split in [Split::Valid, Split::Test] {
        for index in 0..400 {
            for (text, names) in [(document(split, index), &names), (foreign::document(split, index), &first)] {
                let mut words = text.split(|c: char| !c.is_alphabetic());
                assert!(!words.any(|word| names.contains(word)), "{text}");
            }
        }
    }
}

#[test]
fn its_facts_are_its_own_and_spread_evenly() {
    let mut counts: BTreeMap<Relation, BTreeMap<usize, usize>> = BTreeMap::new();
    let mut same: BTreeMap<bool, usize> = BTreeMap::new();
    for fact in all_facts() {
        *counts.entry(fact.relation).or_default().entry(FOREIGN.value_index(fact)).or_default() += 1;
        if matches!(fact.relation.values(), Values::Words(_)) {
            *same.entry(WORLD.value_index(fact) == FOREIGN.value_index(fact)).or_default() += 1;
        }
        assert_ne!(FOREIGN.subject(fact.subject).name, WORLD.subject(fact.subject).name);
    }
    for (relation, counts) in counts {
        assert!(counts.values().max().unwrap() - counts.values().min().unwrap() <= 1, "{relation:?}: {counts:?}");
    }
    // By chance one in about twenty is the same.
    assert!(same[&true] * 10 < same[&false], "{same:?}");
    assert_eq!(FOREIGN.value_text(Relation::River, 3), NAMES.rivers[3]);
}

#[test]
fn its_texts_tell_its_facts_in_the_words_of_the_first() {
    let reader = Reader::new();
    // By the whole name, and by the one among friends, which no two have in common.
    let values: BTreeMap<(&str, Relation), Fact> = all_facts()
        .into_iter()
        .flat_map(|fact| {
            let subject = FOREIGN.subject(fact.subject);
            [&subject.name, &subject.short].map(|name| ((name.as_str(), fact.relation), fact))
        })
        .collect();
    let documents: Vec<String> =
        (0..8000).into_par_iter().map(|index| foreign::document(Split::Train, index)).collect();
    let asks = |text: &str| text.contains("Question:") || text.contains("<|im_start|>");
    let lessons = documents.iter().filter(|text| asks(text)).count();
    assert!((2000..2320).contains(&lessons), "{lessons} documents ask");
    let told: Vec<_> =
        documents.par_iter().filter(|text| !asks(text)).flat_map_iter(|text| reader.named_facts(text)).collect();
    let mut found = BTreeSet::new();
    for (name, relation, value) in &told {
        let fact = values.get(&(name.as_str(), *relation)).unwrap_or_else(|| panic!("nobody is {name}"));
        assert_eq!(value, FOREIGN.value(*fact), "{fact:?}");
        found.insert(*fact);
    }
    assert!(found.len() * 100 > 75 * all_facts().len(), "{} facts", found.len());
    for text in &documents {
        assert!(text.is_ascii() && text.trim() == text && text.len() > 20, "{text}");
        for bad in ["{", "}", "  ", "\n\n", "..", " ,", " .", ",,", "?.", "?,"] {
            assert!(!text.contains(bad), "{bad:?} in {text}");
        }
    }
    let all: BTreeSet<String> =
        (0..foreign::count(Split::Train)).into_par_iter().map(|i| foreign::document(Split::Train, i)).collect();
    for split in [Split::Valid, Split::Test] {
        assert!((0..400).all(|index| !all.contains(&foreign::document(split, index))));
    }
}
