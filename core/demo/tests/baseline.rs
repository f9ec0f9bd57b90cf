//! Word n-grams with back-off, the cheapest model that has read the train split. It must fail the tasks, or they would
//! measure no more than which words are frequent.

use std::collections::HashMap;

use rayon::prelude::*;

use super::super::{Split, document};
use crate::eval::task::ChoiceItem;

pub(super) struct Baseline {
    counts: HashMap<Vec<String>, f64>,
    total: f64,
}

impl Baseline {
    /// Counts the n-grams up to three words of the first documents.
    pub(super) fn train(documents: u64) -> Self {
        let count = |mut counts: HashMap<Vec<String>, f64>, index| {
            let words = words(&document(Split::Train, index));
            for length in 1..=3 {
                for window in words.windows(length) {
                    match counts.get_mut(window) {
                        Some(count) => *count += 1.0,
                        None => drop(counts.insert(window.to_vec(), 1.0)),
                    }
                }
            }
            counts
        };
        let merge = |mut left: HashMap<Vec<String>, f64>, right: HashMap<Vec<String>, f64>| {
            for (words, count) in right {
                *left.entry(words).or_default() += count;
            }
            left
        };
        let counts = (0..documents).into_par_iter().fold(HashMap::new, count).reduce(HashMap::new, merge);
        let total = counts.iter().filter(|(words, _)| words.len() == 1).map(|(_, count)| count).sum();
        Self { counts, total }
    }

    /// The likeliest choice with `order - 1` words of context (stupid back-off, factor 0.4). Per word, since choices have
    /// different lengths.
    pub(super) fn answer(&self, item: &ChoiceItem, order: usize) -> usize {
        let context = words(&item.prompt.text());
        let scores: Vec<f64> = item
            .choices
            .iter()
            .map(|choice| {
                let mut text = context.clone();
                let choice = words(choice);
                let length = choice.len() as f64;
                let mut score = 0.0;
                for word in choice {
                    text.push(word);
                    score += self.score(&text[text.len().saturating_sub(order)..]);
                }
                score / length
            })
            .collect();
        (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best })
    }

    fn score(&self, words: &[String]) -> f64 {
        let count = |words: &[String]| self.counts.get(words).copied().unwrap_or(0.0);
        if words.len() == 1 {
            return ((count(words) + 0.1) / self.total).ln();
        }
        match count(words) {
            0.0 => self.score(&words[1..]) + 0.4_f64.ln(),
            seen => (seen / count(&words[..words.len() - 1])).ln(),
        }
    }
}

/// Words and punctuation marks.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    for c in text.chars() {
        if c.is_alphabetic() {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            words.push(std::mem::take(&mut word));
        }
        if !c.is_whitespace() {
            words.push(c.to_string());
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}
