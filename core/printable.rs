//! Text that says what it is: names and messages come from files, models and plugins, and may hold what a terminal obeys.

use std::borrow::Cow;

/// The text in one line: control characters, line breaks among them, and marks that turn the direction of writing appear as
/// escapes, such as `\x1b` and `\u{202e}`.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_obeyed)
}

/// The same, except that tabs and line breaks remain.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_obeyed(c) && c != '\n' && c != '\t')
}

/// JSON text in which nothing is left for a terminal to obey. A serializer escapes only what JSON forbids in a string.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| is_obeyed(c) && c != '\n';
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| if obeyed(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    Cow::Owned(text.chars().map(escaped).collect())
}

fn escape(text: &str, obeyed: impl Fn(char) -> bool + Copy) -> Cow<'_, str> {
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let escaped = |c: char| match c {
        c if !obeyed(c) => c.to_string(),
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        c if c.is_ascii() => format!("\\x{:02x}", u32::from(c)),
        c => c.escape_unicode().to_string(),
    };
    Cow::Owned(text.chars().map(escaped).collect())
}

/// Controls of ISO 6429, line separators that some programs take for line breaks, and the bidirectional controls of Unicode,
/// which make a text look like another one.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_that_a_terminal_obeys() {
        let text = "a\u{1b}[31mb\rc\nd\te\u{7f}\u{9b}0m\u{202e}ä𝄞\0";
        assert_eq!(one_line(text), r"a\x1b[31mb\rc\nd\te\x7f\u{9b}0m\u{202e}ä𝄞\x00");
        assert_eq!(lines(text), "a\\x1b[31mb\\rc\nd\te\\x7f\\u{9b}0m\\u{202e}ä𝄞\\x00");
        assert!(matches!(one_line("plain, ä"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_meaning() {
        let value = serde_json::json!({ "a\u{9b}": ["\u{1b}\u{7f}\u{202e}\n"] });
        let text = serde_json::to_string_pretty(&value).unwrap();
        let safe = json(&text);
        assert!(!safe.contains(|c: char| c.is_control() && c != '\n'), "{safe}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
