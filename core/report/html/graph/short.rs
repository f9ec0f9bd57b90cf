//! Labels cut to the width of a node so that those which differ still do.

use std::collections::{BTreeMap, BTreeSet};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// A text of at most `columns` columns, with an ellipsis where something was left out.
pub(super) fn shorten(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    head(text, columns.saturating_sub(1)) + "…"
}

/// Each of the labels in at most `columns` columns, different where the labels are.
pub(super) fn distinct(labels: &[&str], columns: usize) -> Vec<String> {
    let mut short: Vec<String> = labels.iter().map(|label| shorten(label, columns)).collect();
    let mut same: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    short.iter().enumerate().for_each(|(index, text)| same.entry(text.clone()).or_default().push(index));
    for group in same.into_values() {
        let mut known: Vec<&str> = group.iter().map(|index| labels[*index]).collect();
        known.sort_unstable();
        known.dedup();
        if known.len() < 2 {
            continue;
        }
        // What they have in common at their beginnings shrinks to a few letters, so that what differs is seen.
        let common = known[1..].iter().fold(known[0].len(), |common, label| common.min(shared(known[0], label)));
        let from = known[0][..common].rfind(' ').map_or(0, |space| space + 1);
        let kept = columns / 3;
        for index in group {
            let label = labels[index];
            short[index] = match label[..from].width() > kept {
                true => format!("{}…{}", head(label, kept), middle(&label[from..], columns - 1 - kept)),
                false => middle(label, columns),
            };
        }
    }
    number(labels, &mut short, columns);
    short
}

/// Numbers what still looks alike.
fn number(labels: &[&str], short: &mut [String], columns: usize) {
    let mut meant: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (label, text) in labels.iter().zip(short.iter()) {
        meant.entry(text.clone()).or_default().insert(label);
    }
    for (label, text) in labels.iter().zip(short.iter_mut()) {
        let twins = &meant[text.as_str()];
        if let Some(place) = twins.iter().position(|twin| twin == label).filter(|_| twins.len() > 1) {
            let number = format!("… #{}", place + 1);
            *text = format!("{}{number}", head(label, columns.saturating_sub(number.width())));
        }
    }
}

/// Bytes that two texts have in common at their beginning.
fn shared(one: &str, other: &str) -> usize {
    let mut pairs = one.char_indices().zip(other.chars());
    pairs.find(|((_, a), b)| a != b).map_or(one.len().min(other.len()), |((at, _), _)| at)
}

/// The first characters that fit.
fn head(text: &str, columns: usize) -> String {
    let mut taken = 0;
    let fits = |c: &char| {
        taken += c.width().unwrap_or(0);
        taken <= columns
    };
    text.chars().take_while(fits).collect()
}

/// The beginning and the end of a text, as much as fits.
fn middle(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let end: String = text.chars().rev().collect();
    let end: String = head(&end, (columns - 1) / 2).chars().rev().collect();
    format!("{}…{end}", head(text, columns - 1 - end.width()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_that_differ_are_cut_so_that_they_still_do() {
        let labels = [
            "perplexity of gptq W3A16 (dampening_fraction 0.01, num_calibration_samples 4)",
            "perplexity of gptq W3A16 (dampening_fraction 0.01, num_calibration_samples 6)",
            "perplexity of gptq W3A16 (dampening_fraction 0.5, num_calibration_samples 4)",
            "perplexity of demo",
            "perplexity of demo",
        ];
        let short = distinct(&labels, 23);
        assert!(short.iter().all(|text| text.width() <= 23), "{short:?}");
        let mut first: Vec<&String> = short[..3].iter().collect();
        first.sort();
        first.dedup();
        assert_eq!(first.len(), 3, "{short:?}");
        assert_eq!(short[3..], ["perplexity of demo", "perplexity of demo"]);
        let long = |middle: char| format!("{}{middle}{}", "a".repeat(40), "b".repeat(40));
        let (x, y) = (long('x'), long('y'));
        let short = distinct(&[&x, &y], 10);
        assert!(short[0] != short[1] && short.iter().all(|text| text.width() <= 10), "{short:?}");
    }
}
