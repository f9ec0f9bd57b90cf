//! Places of a text at which its tokens fall into two parts that know nothing of each other.

use std::collections::HashSet;

use tokenizers::{Encoding, ModelWrapper};

/// How to tell, for a tokenizer.
///
/// A border between two words, as the tokenizer's pre-tokenizer sets them, is a seam: what a word becomes depends on the word
/// alone, and words are found from left to right. A tokenizer without words (SentencePiece as BPE) encodes a text as a single
/// one. Its merges yield tokens of its vocabulary and nothing else: between two characters that stand side by side in none of
/// them there is never a merge, and what happens on either side is no matter of the other.
#[derive(Debug)]
pub(super) struct Seams {
    /// Characters that stand side by side in some token of the vocabulary, where that decides.
    neighbours: Option<HashSet<(char, char)>>,
}

impl Seams {
    pub(super) fn of(tokenizer: &tokenizers::Tokenizer) -> Self {
        let ModelWrapper::BPE(model) = tokenizer.get_model() else { return Self { neighbours: None } };
        // With marks for parts of words, a union is spelled otherwise than its parts.
        if model.continuing_subword_prefix.is_some() || model.end_of_word_suffix.is_some() {
            return Self { neighbours: None };
        }
        let vocabulary = model.get_vocab();
        let pairs = vocabulary.keys().flat_map(|token| token.chars().zip(token.chars().skip(1)));
        Self { neighbours: Some(pairs.collect()) }
    }

    /// Whether the text may be taken apart before this token.
    pub(super) fn is_seam(&self, encoding: &Encoding, index: usize) -> bool {
        let Some(before) = index.checked_sub(1) else { return false };
        let words = encoding.get_word_ids();
        // Tokens of one character share its place: nothing may part them.
        let places = encoding.get_offsets();
        if places[before].1 > places[index].0 || places[before].0 == places[index].0 {
            return false;
        }
        if words[before] != words[index] {
            return true;
        }
        let tokens = encoding.get_tokens();
        let ends = (tokens[before].chars().next_back(), tokens[index].chars().next());
        match (&self.neighbours, ends) {
            (Some(neighbours), (Some(left), Some(right))) => !neighbours.contains(&(left, right)),
            _ => false,
        }
    }
}
