//! Padding, wrapping and aligning text by the columns it takes on a screen.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

pub(super) fn pad_right(text: &str, width: usize) -> String {
    format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
}

pub(super) fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", " ".repeat(width.saturating_sub(text.width())))
}

/// Breaks a text into lines of at most `width` columns: after spaces and separators where there are any, inside a word
/// where there are none. Control characters become spaces. At least one line.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(2);
    let mut lines = Vec::new();
    let mut line = String::new();
    for piece in pieces(text) {
        if line.width() + piece.trim_end().width() > width && !line.is_empty() {
            lines.push(line.trim_end().to_owned());
            line = String::new();
        }
        for character in piece.chars() {
            if line.width() + character.width().unwrap_or(0) > width && character != ' ' {
                lines.push(std::mem::take(&mut line).trim_end().to_owned());
            }
            line.push(character);
        }
    }
    if !line.trim_end().is_empty() || lines.is_empty() {
        lines.push(line.trim_end().to_owned());
    }
    lines
}

/// Pieces between which a line may break; each keeps its separator at its end.
fn pieces(text: &str) -> Vec<String> {
    let mut pieces = vec![String::new()];
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if let Some(last) = pieces.last_mut() {
            last.push(character);
        }
        if matches!(character, ' ' | ',' | '/' | '_' | '-' | ';') {
            pieces.push(String::new());
        }
    }
    pieces
}

/// Aligns a column of numbers at their decimal points, and what follows ` ±` likewise. Texts that are no numbers are
/// left as they are, to be padded by the caller.
pub(super) fn align_numbers(texts: &[String]) -> Vec<String> {
    let split: Vec<Option<Parts>> = texts.iter().map(|text| Parts::of(text)).collect();
    let widest = |part: fn(&Parts) -> &str| split.iter().flatten().map(|p| part(p).width()).max().unwrap_or(0);
    let (whole, fraction) = (widest(|p| &p.whole), widest(|p| &p.fraction));
    let (error_whole, error_fraction) = (widest(|p| &p.error_whole), widest(|p| &p.error_fraction));
    let suffix = widest(|p| &p.suffix);
    let has_error = error_whole + error_fraction > 0;
    let one = |(text, parts): (&String, &Option<Parts>)| match parts {
        None => text.clone(),
        Some(p) => {
            let mut line = pad_left(&p.whole, whole);
            line += &pad_right(&p.fraction, fraction);
            if has_error {
                line += if p.error_whole.is_empty() { "  " } else { " ±" };
                line += &pad_left(&p.error_whole, error_whole);
                line += &pad_right(&p.error_fraction, error_fraction);
            }
            line + pad_right(&p.suffix, suffix).as_str()
        }
    };
    texts.iter().zip(&split).map(one).collect()
}

/// `12.5 ±0.3 (5)` = whole `12`, fraction `.5`, error `0` and `.3`, suffix ` (5)`.
struct Parts {
    whole: String,
    fraction: String,
    error_whole: String,
    error_fraction: String,
    suffix: String,
}

impl Parts {
    fn of(text: &str) -> Option<Self> {
        let number = text.trim_start_matches(['+', '-', '<', '≤']);
        if !number.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (value, rest) = split_number(text);
        let (error, suffix) = rest.strip_prefix(" ±").map_or(("", rest), split_number);
        let halves = |number: &str| {
            let point = number.find('.').unwrap_or(number.len());
            (number[..point].to_owned(), number[point..].to_owned())
        };
        let ((whole, fraction), (error_whole, error_fraction)) = (halves(value), halves(error));
        Some(Self { whole, fraction, error_whole, error_fraction, suffix: suffix.to_owned() })
    }
}

/// The number at the start of a text, and the rest of it.
fn split_number(text: &str) -> (&str, &str) {
    let part = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '<' | '≤' | '.' | ',' | 'e');
    text.split_at(text.find(|c| !part(c)).unwrap_or(text.len()))
}
