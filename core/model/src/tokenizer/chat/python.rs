//! What templates take for granted from Python: `json.dumps`, formatting with `%`, methods of texts, the date.

use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Kwargs, Rest, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

pub(super) fn failed(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// `left % right`: a text is a format for a tuple, a mapping or one value; numbers are divided.
pub(super) fn percent(left: &Value, right: &Value) -> Result<Value, Error> {
    let Some(text) = left.as_str() else { return remainder(left, right) };
    let filled = match right.downcast_object_ref::<Tuple>() {
        Some(tuple) => format(FormatStyle::Printf, text, &tuple.clone().into_vec()),
        None => format(FormatStyle::Printf, text, std::slice::from_ref(right)),
    };
    filled.map(Value::from)
}

/// The remainder with the sign of the divisor.
fn remainder(left: &Value, right: &Value) -> Result<Value, Error> {
    let whole = |value: &Value| if value.is_integer() { value.as_i64() } else { None };
    let number = |value: &Value| f64::try_from(value.clone()).ok();
    match (whole(left), whole(right), number(left), number(right)) {
        (Some(a), Some(b), ..) if b != 0 => Ok(Value::from((a % b + b) % b)),
        (_, _, Some(a), Some(b)) if b != 0.0 && left.is_number() && right.is_number() => {
            let rest = a % b;
            Ok(Value::from(if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }))
        }
        _ => Err(failed(format!("{} % {} has no meaning", left.kind(), right.kind()))),
    }
}

/// The number of elements; of something undefined 0, as in Jinja2.
pub(super) fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { minijinja::filters::length(value) }
}

/// Whether a value can be called.
pub(super) fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain
}

/// What Python can count and index: texts and mappings too, and something undefined.
pub(super) fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
}

/// What a loop can go through: not `none`, which the engine lets pass as empty.
pub(super) fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// The words of a text.
pub(super) fn wordcount(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty()).count()
}

/// Methods of Python's values that the engine does not have by itself.
pub(super) fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let Some(text) = value.as_str() else { return unknown_method_callback(state, value, name, args) };
    let argument = |at: usize| args.get(at).and_then(Value::as_str);
    let cut = |(left, right): (&str, &str), separator: &str| {
        Value::from(Tuple::new([left, separator, right].map(Value::from).into()))
    };
    let found = match (name, args.len(), argument(0)) {
        ("removeprefix", 1, Some(prefix)) => text.strip_prefix(prefix).unwrap_or(text).into(),
        ("removesuffix", 1, Some(suffix)) => text.strip_suffix(suffix).unwrap_or(text).into(),
        ("partition", 1, Some(by)) if !by.is_empty() => match text.split_once(by) {
            Some(parts) => cut(parts, by),
            None => cut((text, ""), ""),
        },
        ("rpartition", 1, Some(by)) if !by.is_empty() => match text.rsplit_once(by) {
            Some(parts) => cut(parts, by),
            None => cut(("", text), ""),
        },
        ("rsplit", 1 | 2, Some(by)) if !by.is_empty() => {
            let most = args.get(1).and_then(Value::as_i64).and_then(|most| usize::try_from(most).ok());
            let mut parts: Vec<&str> = match most {
                Some(most) => text.rsplitn(most + 1, by).collect(),
                None => text.rsplit(by).collect(),
            };
            parts.reverse();
            parts.into_iter().map(Value::from).collect()
        }
        ("index", 1, Some(part)) => match text.find(part) {
            Some(at) => text[..at].chars().count().into(),
            None => return Err(failed("substring not found")),
        },
        ("zfill" | "ljust" | "rjust" | "center", 1 | 2, _) => {
            let width = args[0].as_usize().ok_or_else(|| failed(format!("`{name}` takes a width")))?;
            padded(name, text, width, argument(1).and_then(|fill| fill.chars().next()).unwrap_or(' ')).into()
        }
        ("swapcase", 0, _) => text.chars().flat_map(swapped).collect::<String>().into(),
        ("casefold", 0, _) => text.to_lowercase().replace('ß', "ss").into(),
        _ => return unknown_method_callback(state, value, name, args),
    };
    Ok(found)
}

fn swapped(c: char) -> Vec<char> {
    if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
}

fn padded(how: &str, text: &str, width: usize, fill: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let run = |count: usize| std::iter::repeat_n(fill, count).collect::<String>();
    match how {
        "ljust" => text.to_owned() + &run(missing),
        "rjust" => run(missing) + text,
        "center" => {
            // Python puts the odd blank on the left only where the width is odd.
            let left = missing / 2 + (missing & width & 1);
            run(left) + text + &run(missing - left)
        }
        _ => {
            let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
            let sign = &text[..text.len() - digits.len()];
            sign.to_owned() + &"0".repeat(missing) + digits
        }
    }
}

/// The moment that `strftime_now` names: midnight of the day that Llama 3's template falls back to. The real date would make
/// a prompt, and every result that rests on it, differ from one day to the next.
const NOW: [(&str, &str); 22] = [
    ("d", "26"),
    ("-d", "26"),
    ("e", "26"),
    ("m", "07"),
    ("-m", "7"),
    ("B", "July"),
    ("b", "Jul"),
    ("h", "Jul"),
    ("Y", "2024"),
    ("y", "24"),
    ("A", "Friday"),
    ("a", "Fri"),
    ("j", "208"),
    ("H", "00"),
    ("I", "12"),
    ("M", "00"),
    ("S", "00"),
    ("p", "AM"),
    ("F", "2024-07-26"),
    ("T", "00:00:00"),
    ("D", "07/26/24"),
    ("%", "%"),
];

/// `datetime.now().strftime(format)` at [`NOW`].
pub(super) fn strftime(format: &str) -> Result<String, Error> {
    let mut text = String::new();
    let mut rest = format;
    while let Some((before, code)) = rest.split_once('%') {
        text.push_str(before);
        let known = NOW.iter().find(|(known, _)| code.starts_with(known));
        let (known, value) = known.ok_or_else(|| failed(format!("`strftime_now` does not know `%{code}`")))?;
        text.push_str(value);
        rest = &code[known.len()..];
    }
    Ok(text + rest)
}

/// How `json.dumps` is asked to write.
struct Style {
    ascii: bool,
    sorted: bool,
    /// What a level is indented by; `None` for one line.
    indent: Option<String>,
    between: String,
    colon: String,
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, as transformers sets the filter up.
pub(super) fn to_json(value: &Value, given: Rest<Value>, options: Kwargs) -> Result<String, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let take = |at: usize| -> Result<Option<Value>, Error> {
        let named: Option<Value> = options.get(names[at])?;
        Ok(named.or(given.get(at).cloned()).filter(|value| !value.is_none()))
    };
    let (ascii, indent, separators, sorted) = (take(0)?, take(1)?, take(2)?, take(3)?);
    options.assert_all_used()?;
    let indent = match &indent {
        None => None,
        Some(indent) => Some(match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) => text.to_owned(),
            (None, Some(width)) => " ".repeat(width),
            (None, None) => return Err(failed("`indent` of `tojson` is a number or a text")),
        }),
    };
    let (between, colon) = match separators {
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(pair) => {
            let pair: Vec<Value> = pair.try_iter()?.collect();
            match (pair.first().and_then(Value::as_str), pair.get(1).and_then(Value::as_str), pair.len()) {
                (Some(between), Some(colon), 2) => (between.to_owned(), colon.to_owned()),
                _ => return Err(failed("`separators` of `tojson` are two texts")),
            }
        }
    };
    if value.is_undefined() {
        return Err(failed("something undefined is not writable as JSON"));
    }
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let style = Style { ascii: is_set(ascii), sorted: is_set(sorted), indent, between, colon };
    let value = serde_json::to_value(value).map_err(|error| failed(format!("not writable as JSON: {error}")))?;
    let mut text = String::new();
    style.write(&value, 0, &mut text);
    Ok(text)
}

impl Style {
    fn write(&self, value: &serde_json::Value, depth: usize, text: &mut String) {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                text.push('[');
                for (index, item) in items.iter().enumerate() {
                    self.separate(index, depth + 1, text);
                    self.write(item, depth + 1, text);
                }
                self.line(depth, text);
                text.push(']');
            }
            serde_json::Value::Object(entries) if !entries.is_empty() => {
                text.push('{');
                let mut entries: Vec<_> = entries.iter().collect();
                if self.sorted {
                    entries.sort_by_key(|(key, _)| *key);
                }
                for (index, (key, item)) in entries.into_iter().enumerate() {
                    self.separate(index, depth + 1, text);
                    self.string(key, text);
                    text.push_str(&self.colon);
                    self.write(item, depth + 1, text);
                }
                self.line(depth, text);
                text.push('}');
            }
            serde_json::Value::String(string) => self.string(string, text),
            serde_json::Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
                Some(number) => text.push_str(&float(number)),
                None => text.push_str(&number.to_string()),
            },
            scalar => text.push_str(&scalar.to_string()),
        }
    }

    fn separate(&self, index: usize, depth: usize, text: &mut String) {
        if index > 0 {
            text.push_str(&self.between);
        }
        self.line(depth, text);
    }

    fn line(&self, depth: usize, text: &mut String) {
        if let Some(indent) = &self.indent {
            text.push('\n');
            text.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn string(&self, string: &str, text: &mut String) {
        let quoted = serde_json::Value::from(string).to_string();
        for c in quoted.chars() {
            if self.ascii && (c as u32 > 0x7e) {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| text.push_str(&format!("\\u{unit:04x}")));
            } else {
                text.push(c);
            }
        }
    }
}

/// A float as Python's `repr` writes it: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return number.to_string() };
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.abs())
        }
        _ => format!("{number:?}"),
    }
}
