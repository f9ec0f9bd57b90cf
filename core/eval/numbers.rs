//! Numbers in written answers.
//!
//! [`last_number`] reads strictly: what can be read as two numbers is two, a dash between numbers or words is no sign, and digits
//! with dots that no notation has are no number. [`gsm8k`] reads as lm-eval's task of that name does.

use std::sync::LazyLock;

use regex::{Captures, Regex};

/// A number that is compared exactly, whatever its length and notation.
#[derive(Clone, Debug)]
pub(super) enum Number {
    /// Digits without zeros at their ends, times a power of ten.
    Decimal { negative: bool, digits: String, exponent: i64 },
    /// One whole number by another.
    Ratio { numerator: i64, denominator: i64 },
}

impl Number {
    fn decimal(negative: bool, whole: &str, part: &str, exponent: i64) -> Self {
        let all = format!("{whole}{part}");
        let digits = all.trim_start_matches('0').trim_end_matches('0').to_owned();
        if digits.is_empty() {
            return Self::Decimal { negative: false, digits, exponent: 0 };
        }
        let zeros = (all.len() - all.trim_end_matches('0').len()) as i64;
        Self::Decimal { negative, digits, exponent: exponent - part.len() as i64 + zeros }
    }

    /// The nearest f64.
    fn value(&self) -> f64 {
        match self {
            Self::Decimal { digits, .. } if digits.is_empty() => 0.0,
            Self::Decimal { negative, digits, exponent } => {
                let sign = if *negative { "-" } else { "" };
                format!("{sign}{digits}e{exponent}").parse().unwrap_or(f64::NAN)
            }
            Self::Ratio { numerator, denominator } => *numerator as f64 / *denominator as f64,
        }
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Decimal { negative: a, digits: b, exponent: c },
                Self::Decimal { negative: x, digits: y, exponent: z },
            ) => (a, b, c) == (x, y, z),
            _ => self.value() == other.value(),
        }
    }
}

/// A pattern of ours, compiled once.
macro_rules! pattern {
    ($name:ident, $source:expr) => {
        static $name: LazyLock<Regex> = LazyLock::new(|| Regex::new($source).expect("the pattern is one of ours"));
    };
}

pattern!(FRACTION, r"\\[dt]?frac\{(\d+)\}\{(\d+)\}");
// Digits with what may stand between them.
pattern!(RUN, r"\.?[0-9][0-9.,'’_\u{a0}\u{2009}\u{202f}]*");
pattern!(PLAIN, r"^([0-9]*)(?:\.([0-9]+))?$");
// Groups of three behind a first one, by any one separator.
pattern!(
    GROUPED,
    r"^([1-9][0-9]{0,2}(?:(?:,[0-9]{3})+|(?:['’][0-9]{3})+|(?:_[0-9]{3})+|(?:[\u{a0}\u{2009}\u{202f}][0-9]{3})+))(?:\.([0-9]+))?$"
);
// Dots between groups, where nothing else is left that they could be.
pattern!(DOTTED, r"^([1-9][0-9]{0,2}(?:\.[0-9]{3})+),([0-9]{1,2}|[0-9]{4,})$|^([1-9][0-9]{0,2}(?:\.[0-9]{3}){2,})$");
pattern!(
    POWER,
    r"^[eE]([+-]?[0-9]{1,4})(?:[^0-9A-Za-z]|$)|^\s*(?:×|x|\*|·|\\times|\\cdot)\s*10\^\{?([+-]?[0-9]{1,4})\}?"
);
pattern!(DIVISOR, r"^/([0-9]{1,15})(?:[^0-9/]|$)");

/// The last number of a text, or of the notation that a text ends in.
pub(super) fn last_number(text: &str) -> Option<Number> {
    let text = plain_signs(text);
    let mut found = None;
    let mut from = 0;
    while let Some(run) = RUN.find_at(&text, from) {
        // A dot behind a word, a number or another dot is no decimal point.
        let dot = run.as_str().starts_with('.');
        let glued = text[..run.start()].ends_with(|c: char| c.is_alphanumeric() || c == '.');
        let start = run.start() + usize::from(dot && glued);
        let digits = text[start..run.end()].trim_end_matches(|c: char| !c.is_ascii_digit());
        let end = start + digits.len();
        from = end;
        if let Some((number, length)) = number(digits, &text[..start], &text[end..]) {
            found = Some(number);
            from = end + length;
        }
    }
    found
}

/// Signs, digits and separators of other alphabets and of LaTeX as those of ASCII.
fn plain_signs(text: &str) -> String {
    let text = text.replace("{,}", ",").replace("\\!", "").replace("\\,", "\u{2009}");
    let text = FRACTION.replace_all(&text, |c: &Captures<'_>| format!("{}/{}", &c[1], &c[2]));
    let plain = |c: char| match c {
        '\u{2010}'..='\u{2013}' | '\u{2212}' | '\u{fe63}' | '\u{ff0d}' => '-',
        '\u{ff10}'..='\u{ff19}' => char::from(b'0' + (c as u32 - 0xff10) as u8),
        '\u{ff0e}' => '.',
        '\u{ff0c}' => ',',
        other => other,
    };
    text.chars().map(plain).collect()
}

/// What a run of digits says, and how much of the text behind it belongs to it.
fn number(digits: &str, before: &str, behind: &str) -> Option<(Number, usize)> {
    let negative = is_negative(before);
    let without = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let (whole, part) = if let Some(found) = PLAIN.captures(digits).or_else(|| GROUPED.captures(digits)) {
        (without(&found[1]), found.get(2).map_or("", |m| m.as_str()).to_owned())
    } else if let Some(found) = DOTTED.captures(digits) {
        let whole = found.get(1).or(found.get(3)).map_or("", |m| m.as_str());
        (without(whole), found.get(2).map_or("", |m| m.as_str()).to_owned())
    } else {
        // A list, of which the last counts.
        let last = digits.rsplit(|c: char| !c.is_ascii_digit() && c != '.').next()?;
        let listed = last.len() < digits.len();
        return listed.then(|| number(last, "", behind)).flatten();
    };
    if let Some(divisor) = DIVISOR.captures(behind).filter(|_| part.is_empty() && !before.ends_with('/')) {
        let (top, denominator) = (whole.parse::<i64>().ok()?, divisor[1].parse::<i64>().ok()?);
        let numerator = if negative { -top } else { top };
        return (denominator != 0).then_some((Number::Ratio { numerator, denominator }, 1 + divisor[1].len()));
    }
    let power = POWER.captures(behind).and_then(|found| found.get(1).or(found.get(2)));
    let exponent = power.and_then(|power| power.as_str().parse().ok()).unwrap_or(0);
    Some((Number::decimal(negative, &whole, &part, exponent), power.map_or(0, |power| power.end())))
}

/// Whether the sign of what follows is a minus: a dash behind a number, a word or a closing bracket is none, nor is one that a
/// space parts from the number, unless it follows an equals sign or an opening bracket.
fn is_negative(before: &str) -> bool {
    let symbols = ['$', '£', '€', '¥', '₹', '\\'];
    let near = before.trim_end_matches(symbols);
    let spaced = near.trim_end_matches(' ');
    let Some(rest) = spaced.strip_suffix('-') else { return false };
    if spaced.len() < near.len() {
        return rest.trim_end_matches(' ').ends_with(['=', '(', '≈', '<', '>']);
    }
    !rest.ends_with(|c: char| c.is_alphanumeric() || matches!(c, ')' | ']' | '}' | '%' | '°' | '-' | '.'))
}

/// What lm-eval's `gsm8k` takes from an answer: behind `#### ` by its `strict-match`, the last by its `flexible-extract`.
pub(super) fn gsm8k(text: &str, strict: bool) -> Option<String> {
    pattern!(STRICT, r"#### (-?[0-9.,]+)");
    pattern!(FLEXIBLE, r"(-?[$0-9.,]{2,})|(-?[0-9]+)");
    let found = if strict {
        STRICT.captures(text).map(|found| found[1].to_owned())
    } else {
        FLEXIBLE.find_iter(text).last().map(|found| found.as_str().to_owned())
    };
    found.map(|found| found.trim().to_owned())
}

/// A text as lm-eval's `exact_match` compares it for that task.
pub(super) fn gsm8k_plain(text: &str) -> String {
    pattern!(SOLUTION, r"(?s).*#### ");
    let text = text.replace([',', '$'], "");
    let text = SOLUTION.replace_all(&text, "");
    text.strip_suffix('.').unwrap_or(&text).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Inputs and readings.
    #[test]
    fn numbers_are_read_as_they_are_written() {
        let readings = [
            ("it is 1,234.50.", "1234.5"),
            ("3 then -7", "-7"),
            ("$12", "12"),
            (".5", ".5"),
            ("$.50", ".5"),
            ("-.5", "-.5"),
            ("No.5", "5"),
            ("so it is...5", "5"),
            ("\u{2212}7", "-7"),
            ("x = - 7", "-7"),
            ("- 7 apples", "7"),
            ("-$7", "-7"),
            ("$-7", "-7"),
            ("(\u{2212}£.50)", "-.5"),
            ("+7", "7"),
            ("-0", "0"),
            ("1e3", "1000"),
            ("2.5E-2 m", ".025"),
            ("3e", "3"),
            ("6.02 × 10^23", "602000000000000000000000"),
            ("1.5 \\times 10^{-3}", ".0015"),
            ("10-12", "12"),
            ("10\u{2013}12", "12"),
            ("10 - 12", "12"),
            ("f(x)-3", "3"),
            ("covid-19", "19"),
            ("1,2,3", "3"),
            ("1, 2, 3", "3"),
            ("12,34,567", "567"),
            ("1,234,5", "5"),
            ("3,5", "5"),
            ("0,123", "123"),
            ("1,234,567", "1234567"),
            ("1'234", "1234"),
            ("1\u{2019}234\u{2019}567.5", "1234567.5"),
            ("1_000_000", "1000000"),
            ("1\u{202f}234", "1234"),
            ("1\u{a0}234\u{a0}567", "1234567"),
            ("1 234", "234"),
            ("1.234", "1.234"),
            ("1.234.567", "1234567"),
            ("1.234,56", "1234.56"),
            ("1.234,567", "567"),
            ("1{,}234", "1234"),
            ("1,\\!234", "1234"),
            ("\\boxed{42}", "42"),
            ("3/4", ".75"),
            ("\\frac{3}{4}", ".75"),
            ("3/4/2024", "2024"),
            ("50%", "50"),
            ("007", "7"),
            ("\u{ff11}\u{ff12}", "12"),
            ("v1.2.3 and 4", "4"),
            ("5. 6.", "6"),
        ];
        for (text, number) in readings {
            assert_eq!(last_number(text), last_number(number), "{text}");
        }
        for text in ["none", "", "1.2.3", "-"] {
            assert_eq!(last_number(text), None, "{text}");
        }
        let seven = |negative| Number::Decimal { negative, digits: "7".into(), exponent: 0 };
        assert_eq!((last_number("7"), last_number("-7")), (Some(seven(false)), Some(seven(true))));
        // All digits count.
        assert_ne!(last_number("12345678901234567890"), last_number("12345678901234567891"));
        assert_ne!(last_number("3/4"), last_number("5/4"));
    }
}
