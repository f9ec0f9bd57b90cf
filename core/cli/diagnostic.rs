//! One error, as a person or a program wants to read it.

use std::fmt;

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde_json::json;

use super::style;
use crate::{
    error::{Error, Location},
    printable,
};

/// Prints an error to standard error: drawn for people, or as one JSON object.
pub(super) fn print(error: &Error, as_json: bool) {
    match as_json {
        true => style::note_json(&to_json(error).to_string()),
        false => style::note_styled(&draw(error, style::color(&std::io::stderr()))),
    }
}

/// The error as an object.
pub(super) fn to_json(error: &Error) -> serde_json::Value {
    let place = error.location.as_ref().map(|l| json!({ "file": l.file, "line": l.line, "column": l.column }));
    json!({ "error": error.message, "kind": error.kind.name(), "place": place, "causes": error.causes, "hints": error.hints })
}

/// The error with its line of the script, its causes and hints.
pub(super) fn draw(error: &Error, color: bool) -> String {
    let theme = if color { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let mut text = String::new();
    let shown = Shown::new(error);
    if GraphicalReportHandler::new_themed(theme)
        .with_width(100)
        .with_links(false)
        .render_report(&mut text, &shown)
        .is_err()
    {
        text = printable::lines(&error.to_string()).into_owned();
    }
    for hint in &error.hints {
        text.push_str(&format!("  hint: {}\n", printable::lines(hint)));
    }
    format!("error: {}", text.trim_start().trim_start_matches(['×', ' ']).trim_end())
}

#[derive(Debug)]
struct Shown {
    message: String,
    source: Option<NamedSource<String>>,
    span: Option<(usize, usize)>,
    cause: Option<Box<Cause>>,
}

#[derive(Debug)]
struct Cause {
    message: String,
    next: Option<Box<Cause>>,
}

impl Shown {
    /// Everything as it may be printed: names, messages and the script's own line come from anywhere.
    fn new(error: &Error) -> Self {
        let text = |text: &str| printable::lines(text).into_owned();
        let chain = |next, message: &String| Some(Box::new(Cause { message: text(message), next }));
        let place = error.location.as_deref().filter(|l| !l.source.is_empty());
        let printed_span = |place: &Location| {
            let (start, length) = span(place);
            let end = start + length;
            let printed = |part: &str| printable::lines(part).len();
            (printed(&place.source[..start]), printed(&place.source[start..end]))
        };
        Self {
            message: text(&error.message),
            source: place.map(|l| NamedSource::new(printable::one_line(&l.file), text(&l.source))),
            span: place.map(printed_span),
            cause: error.causes.iter().rev().fold(None, chain),
        }
    }
}

/// Offset and length in bytes of what to underline: the text at fault if it stands behind the position, else the word there.
fn span(place: &Location) -> (usize, usize) {
    let line_start: usize = place.source.split_inclusive('\n').take(place.line.saturating_sub(1)).map(str::len).sum();
    let line = &place.source[line_start..];
    let column: usize = line.chars().take(place.column.saturating_sub(1)).map(char::len_utf8).sum();
    let start = (line_start + column).min(place.source.len());
    let rest = &place.source[start..];
    if let Some(needle) = place.needle.as_deref().filter(|n| !n.is_empty())
        && let Some(found) = rest.find(needle)
    {
        return (start + found, needle.len());
    }
    let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    // Where no word stands, the one character that does: it may be longer than a byte.
    let length = if word > 0 { word } else { rest.chars().next().map_or(0, char::len_utf8) };
    (start, length)
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Shown {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.as_deref().map(|c| c as _)
    }
}

impl std::error::Error for Cause {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.next.as_deref().map(|c| c as _)
    }
}

impl miette::Diagnostic for Shown {
    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.source.as_ref().map(|s| s as _)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.span?;
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_at_fault_is_underlined() {
        let source = "let a = 1;\nq(m, #{ ignore: [\"*.donw_proj\"] });\n".to_owned();
        let place = Location { file: "x.rhai".into(), source, line: 2, column: 1, needle: Some("*.donw_proj".into()) };
        let (start, length) = span(&place);
        assert_eq!(&place.source[start..start + length], "*.donw_proj");
        let place = Location { needle: None, ..place };
        let (start, length) = span(&place);
        assert_eq!(&place.source[start..start + length], "q");
        let past = Location { line: 99, column: 99, ..place };
        assert!(span(&past).0 <= past.source.len());
    }

    #[test]
    fn nothing_is_printed_that_a_terminal_obeys() {
        let evil = "\u{1b}]0;x\u{7}";
        let mut error = Error::usage(format!("no `{evil}`")).cause(evil).hint(evil);
        error.location = Some(Box::new(Location {
            file: format!("{evil}.rhai"),
            source: format!("let a = \"{evil}\"; f(b);"),
            line: 1,
            column: 1,
            needle: Some("f(b)".into()),
        }));
        let text = draw(&error, false);
        assert!(!text.contains(['\u{1b}', '\u{7}']), "{text}");
        assert_eq!(text.matches(r"\x1b]0;x\x07").count(), 5, "{text}");
        let line = text.lines().position(|l| l.contains("f(b)")).unwrap();
        let below = text.lines().nth(line + 1).unwrap();
        let column = |l: &str, what: &str| l.chars().position(|c| what.contains(c)).unwrap();
        let code = text.lines().nth(line).unwrap();
        assert_eq!(column(below, "─┬"), code[..code.find("f(b)").unwrap()].chars().count(), "{text}");
    }

    /// Quotes as word processors write them, a space that does not break, a mark of the byte order, an emoji.
    #[test]
    fn characters_of_several_bytes_are_underlined_whole() {
        for found in ["“", "\u{a0}", "\u{feff}", "→", "🚀", "é"] {
            let source = format!("a = {found}x");
            let place = Location { file: "x.rhai".into(), source, line: 1, column: 5, needle: None };
            let mut error = Error::usage("unexpected");
            let (start, length) = span(&place);
            assert!(place.source[start..start + length].starts_with(found));
            error.location = Some(Box::new(place));
            assert!(draw(&error, false).contains("x.rhai:1:5"), "{found}");
        }
    }

    #[test]
    fn message_place_causes_and_hints_are_all_there() {
        let mut error = Error::usage("no layer matches `*.x`").cause("because").cause("of that").hint("try `*.y`");
        error.location = Some(Box::new(Location {
            file: "a.rhai".into(),
            source: "f(\"*.x\")".into(),
            line: 1,
            column: 1,
            needle: Some("*.x".into()),
        }));
        let text = draw(&error, false);
        for part in ["error: no layer matches `*.x`", "a.rhai:1:", "because", "of that", "hint: try `*.y`"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
