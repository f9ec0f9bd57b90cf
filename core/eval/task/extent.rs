//! How much there is to read in the longest request of a task, for estimates of memory before any tokenizer is at hand.

use super::{Items, Prompt, Task};

/// The most that a request of a task holds, and how many requests there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// Sequences that go through the model.
    pub requests: usize,
    /// Bytes of the longest, which has no more tokens whatever the vocabulary.
    pub bytes: usize,
    /// Tokens that it is by a usual vocabulary at most.
    pub tokens: usize,
    /// Tokens that the model writes behind it.
    pub answer: usize,
}

/// Entries from which on a vocabulary has pieces of words.
const USUAL: usize = 8192;

/// Tokens of a chat template around a turn.
const TURN: usize = 16;

impl Extent {
    /// The most tokens of a sequence with this vocabulary.
    pub fn longest(&self, vocabulary: usize) -> usize {
        (if vocabulary < USUAL { self.bytes } else { self.tokens }) + self.answer
    }
}

impl Task {
    /// The extent of its first `limit` items; none for running text, whose windows have a length of their own.
    pub fn extent(&self, limit: Option<usize>) -> Extent {
        let limit = limit.unwrap_or(usize::MAX);
        let mut found = Extent { answer: self.file.max_new_tokens.unwrap_or(0), ..Extent::default() };
        let mut add = |prompt: &Prompt, continuations: &[String]| {
            let text = prompt.text();
            let turns = if self.uses_chat_template() { TURN * prompt.turns().len() } else { 1 };
            let longest = |of: fn(&str) -> usize| continuations.iter().map(|text| of(text)).max().unwrap_or(0);
            found.requests += continuations.len().max(1);
            found.bytes = found.bytes.max(text.len() + longest(str::len) + turns);
            found.tokens = found.tokens.max(pieces(&text) + longest(pieces) + turns);
        };
        match &self.items {
            Items::Choice(items) => items.iter().take(limit).for_each(|item| {
                let continuations: Vec<String> =
                    (0..item.choices.len()).map(|choice| item.continuation(choice)).collect();
                add(&item.prompt, &continuations);
            }),
            Items::Generate(items) => items.iter().take(limit).for_each(|item| add(&item.prompt, &[])),
            Items::Text(_) => {}
        }
        found
    }
}

/// Tokens that a text is at most by a vocabulary with pieces of words: two letters are one at least, a space belongs to the word
/// behind it, what else there is stands alone, and letters of other scripts may be spelled in bytes.
fn pieces(text: &str) -> usize {
    let mut count = 0;
    let mut letters = 0_usize;
    let mut characters = text.chars().peekable();
    while let Some(c) = characters.next() {
        if c.is_ascii_alphabetic() {
            letters += 1;
            continue;
        }
        count += std::mem::take(&mut letters).div_ceil(2);
        count += match c {
            ' ' if characters.peek().is_some_and(char::is_ascii_alphabetic) => 0,
            c => c.len_utf8(),
        };
    }
    count + letters.div_ceil(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By the vocabulary of Llama 2 (32,000 entries) these are 10, 19, 6, 5 and 12 tokens.
    #[test]
    fn pieces_are_counted_from_above() {
        for (text, counted) in [
            ("The quick brown fox jumps over the dog", 19),
            ("12345 + 678 = 13023;", 20),
            ("Übergrößenträger", 15),
            ("你好世界", 12),
            ("if x[i] != None:\n    y()", 18),
        ] {
            assert_eq!(pieces(text), counted, "{text}");
        }
    }
}
