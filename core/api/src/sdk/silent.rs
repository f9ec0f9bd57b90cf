//! What calibration data said nothing about: channels that no token excited, experts that too few tokens reached.
//!
//! An input channel that is zero for every calibration token tells nothing about the weights that multiply it, and yet the
//! next text may excite it. A method must leave such weights as near to what they were as the grid allows, and say so: the
//! facts below reach the record, and the host writes them under every table that the model appears in.

use serde_json::{Value, json};

use crate::job::Facts;

/// The fact under which a report counts silent channels, at any depth: the keys on the way to it say where.
pub const SILENT_CHANNELS: &str = "silent_channels";

/// Channels that are named; the others are counted.
const NAMED: usize = 16;

/// Notes the channels, of `of` in all, that no calibration token excited, and what became of them: the end of a sentence that
/// begins with them, for example `were rounded to nearest`. Without any, nothing is noted.
pub fn note_silent(facts: &mut Facts, channels: &[usize], of: usize, what: &str) {
    if !channels.is_empty() {
        let first = &channels[..channels.len().min(NAMED)];
        let fact: Value = json!({ "count": channels.len(), "of": of, "first": first, "what": what });
        facts.insert(SILENT_CHANNELS.to_owned(), fact);
    }
}

/// The fact under which a report says why something was left as it was, at any depth: the keys on the way to it say what.
pub const LEFT_ALONE: &str = "left_alone";

/// Notes that a method left something as it was, and why: the end of a sentence after `because`. The host writes it under every table
/// that the model appears in.
pub fn note_left_alone(facts: &mut Facts, why: &str) {
    facts.insert(LEFT_ALONE.to_owned(), why.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_named_and_all_are_counted() {
        let mut facts = Facts::new();
        note_silent(&mut facts, &[], 64, "were left alone");
        assert!(facts.is_empty());
        let channels: Vec<usize> = (3..40).collect();
        note_silent(&mut facts, &channels, 64, "were left alone");
        let fact = &facts[SILENT_CHANNELS];
        assert_eq!((&fact["count"], &fact["of"], &fact["what"]), (&json!(37), &json!(64), &json!("were left alone")));
        assert_eq!(fact["first"].as_array().map(Vec::len), Some(NAMED));
        assert_eq!(fact["first"][0], 3);
    }
}
