//! YAML as JSON values.
//!
//! Stage files are read as PyYAML reads them, because that is what reads them elsewhere: `yes` and `off` are switches, `010` is
//! eight. Only numbers such as `1e-3` are numbers here and text there, of which the packages behind it make the same number. A file
//! that a script reads is YAML 1.2, where all of these words are text.

use std::borrow::Cow;

use saphyr::{MarkedYaml, Marker, Scalar, ScalarStyle, ScanError, Tag, YamlData, YamlLoader};
use saphyr_parser::{Event, Parser};
use serde_json::{Map, Number, Value};

/// Which plain words are numbers and switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    /// YAML 1.2.
    Core,
    /// YAML 1.1 as PyYAML has it.
    PyYaml,
}

/// What keeps a text from being read, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub line: usize,
    pub column: usize,
    pub message: String,
}

impl Fault {
    fn new(at: &Marker, message: impl Into<String>) -> Self {
        Self { line: at.line(), column: at.col() + 1, message: message.into() }
    }
}

/// Levels in which a text may nest; the parsers of JSON and TOML have such limits of their own.
const DEEPEST: usize = 128;

/// The one document of a text; nothing at all is an empty map.
pub(super) fn parse(text: &str, dialect: Dialect) -> Result<Value, Fault> {
    check_depth(text)?;
    let mut loader: YamlLoader<'_, MarkedYaml<'_>> = YamlLoader::default();
    loader.early_parse(false);
    let failed = |e: &ScanError| Fault::new(e.marker(), e.info());
    Parser::new_from_str(text).load(&mut loader, true).map_err(|e| failed(&e))?;
    if let Some(error) = loader.error() {
        return Err(failed(error));
    }
    match loader.into_documents().as_slice() {
        [] => Ok(Value::Object(Map::new())),
        [document] => value(document, dialect),
        several => {
            Err(Fault::new(&several[1].span.start, format!("it holds {} documents instead of one", several.len())))
        }
    }
}

/// Looks at a text's events alone: what nests without end cannot even be thrown away again by functions that call themselves.
fn check_depth(text: &str) -> Result<(), Fault> {
    let mut depth = 0_usize;
    for event in Parser::new_from_str(text) {
        // What is malformed is so for the loader too, which says how.
        let Ok((event, span)) = event else { return Ok(()) };
        match event {
            Event::SequenceStart(..) | Event::MappingStart(..) => depth += 1,
            Event::SequenceEnd | Event::MappingEnd => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > DEEPEST {
            return Err(Fault::new(&span.start, format!("it nests deeper than {DEEPEST} levels")));
        }
    }
    Ok(())
}

fn value(node: &MarkedYaml<'_>, dialect: Dialect) -> Result<Value, Fault> {
    let at = &node.span.start;
    match &node.data {
        YamlData::Representation(text, style, tag) => {
            scalar(text, *style, tag.as_deref(), dialect).map_err(|message| Fault::new(at, message))
        }
        YamlData::Sequence(items) => {
            items.iter().map(|item| value(item, dialect)).collect::<Result<_, _>>().map(Value::Array)
        }
        YamlData::Mapping(pairs) => {
            let pairs: Vec<_> = pairs.iter().collect();
            mapping(&pairs, dialect).map(Value::Object)
        }
        YamlData::Tagged(tag, _) => Err(Fault::new(at, format!("the tag `{tag}` has no meaning here"))),
        YamlData::Value(_) | YamlData::Alias(_) | YamlData::BadValue => {
            Err(Fault::new(at, "it holds a value that is none"))
        }
    }
}

/// A map, with what `<<` merges into it: keys of its own go before those, and those of earlier maps before those of later ones.
fn mapping(pairs: &[(&MarkedYaml<'_>, &MarkedYaml<'_>)], dialect: Dialect) -> Result<Map<String, Value>, Fault> {
    let (mut merged, mut own) = (Map::new(), Map::new());
    for (key, found) in pairs {
        let at = &key.span.start;
        if is_merge(key) {
            for map in to_merge(value(found, dialect)?).map_err(|message| Fault::new(at, message))? {
                for (key, value) in map {
                    merged.entry(key).or_insert(value);
                }
            }
            continue;
        }
        let name = match value(key, dialect)? {
            Value::String(name) => name,
            other => return Err(Fault::new(at, format!("a key of it is not text but {other}: write it in quotes"))),
        };
        if own.contains_key(&name) {
            return Err(Fault::new(at, format!("the key `{name}` stands there twice")));
        }
        own.insert(name, value(found, dialect)?);
    }
    merged.extend(own);
    Ok(merged)
}

fn is_merge(key: &MarkedYaml<'_>) -> bool {
    matches!(&key.data, YamlData::Representation(text, ScalarStyle::Plain, None) if text == "<<")
}

fn to_merge(found: Value) -> Result<Vec<Map<String, Value>>, String> {
    let maps = match found {
        Value::Object(map) => Some(vec![map]),
        Value::Array(items) => {
            items.into_iter().map(|item| if let Value::Object(map) = item { Some(map) } else { None }).collect()
        }
        _ => None,
    };
    maps.ok_or_else(|| "`<<` merges a map, or a list of maps".to_owned())
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, dialect: Dialect) -> Result<Value, String> {
    match tag {
        Some(tag) if tag.is_yaml_core_schema() => tagged(text, &tag.suffix),
        Some(tag) => Err(format!("the tag `{tag}` has no meaning here")),
        None if style != ScalarStyle::Plain => Ok(text.into()),
        None if dialect == Dialect::Core => match Scalar::parse_from_cow(Cow::Borrowed(text)) {
            Scalar::Null => Ok(Value::Null),
            Scalar::Boolean(flag) => Ok(flag.into()),
            Scalar::Integer(number) => Ok(number.into()),
            Scalar::FloatingPoint(number) => finite(text, number.into_inner()),
            Scalar::String(_) if text.is_empty() => Ok(Value::Null),
            Scalar::String(_) => Ok(text.into()),
        },
        None => plain(text),
    }
}

/// A value whose type a tag names: `!!int "4"`.
fn tagged(text: &str, tag: &str) -> Result<Value, String> {
    let wrong = || format!("`{text}` is no `!!{tag}`");
    match tag {
        "str" => Ok(text.into()),
        "null" => Ok(Value::Null),
        "bool" => switch(text).map(Value::from).ok_or_else(wrong),
        "int" => integer(text).unwrap_or_else(|| Err(wrong())),
        "float" => match integer(text) {
            Some(whole) => whole.map(|whole| json_float(whole.as_f64())),
            None => float(text).map_or_else(|| Err(wrong()), |number| finite(text, number)),
        },
        _ => Err(format!("the tag `!!{tag}` has no meaning here")),
    }
}

fn json_float(number: Option<f64>) -> Value {
    number.and_then(Number::from_f64).map_or(Value::Null, Value::Number)
}

/// A plain word, as PyYAML resolves it.
fn plain(text: &str) -> Result<Value, String> {
    if matches!(text, "" | "~" | "null" | "Null" | "NULL") {
        return Ok(Value::Null);
    }
    if let Some(flag) = switch(text) {
        return Ok(flag.into());
    }
    if let Some(whole) = integer(text) {
        return whole;
    }
    float(text).map_or_else(|| Ok(text.into()), |number| finite(text, number))
}

fn switch(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A whole number of YAML 1.1: with underscores, in base 2, 8 (a leading 0) or 16. `None` for what is none.
fn integer(text: &str) -> Option<Result<Value, String>> {
    let (minus, digits) = match text.strip_prefix(['-', '+']) {
        Some(digits) => (text.starts_with('-'), digits),
        None => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x', ..] => (16, &digits[2..]),
        [b'0', b'b', ..] => (2, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    let of_base_60 = base == 10 && digits.contains(':') && digits.starts_with(|c: char| ('1'..='9').contains(&c));
    if of_base_60 && digits.split(':').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit())) {
        return Some(Err(format!("`{text}` is a number of base 60 in YAML 1.1: write it in quotes, or as a number")));
    }
    let plain: String = digits.chars().filter(|c| *c != '_').collect();
    if plain.is_empty() || digits.starts_with('_') && base == 10 || !plain.chars().all(|c| c.is_digit(base)) {
        return None;
    }
    let signed = format!("{}{plain}", if minus { "-" } else { "" });
    Some(i64::from_str_radix(&signed, base).map(Value::from).map_err(|_| format!("`{text}` is too large a number")))
}

/// A number with a point or an exponent, underscores or none.
fn float(text: &str) -> Option<f64> {
    match text.trim_start_matches(['-', '+']) {
        ".inf" | ".Inf" | ".INF" => return Some(f64::INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        _ => {}
    }
    let allowed = |c: char| c.is_ascii_digit() || "+-.eE_".contains(c);
    let begins = text.trim_start_matches(['-', '+', '.']).starts_with(|c: char| c.is_ascii_digit());
    if !begins || !text.chars().all(allowed) || !text.contains(['.', 'e', 'E']) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

fn finite(text: &str, number: f64) -> Result<Value, String> {
    Number::from_f64(number).map(Value::Number).ok_or_else(|| format!("`{text}` is not a finite number"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What `yaml.safe_load` of PyYAML 6.0.4 makes of each of these, but for numbers without a point and with an exponent, which it
    /// leaves to whoever wants a number.
    #[test]
    fn scalars_as_pyyaml_reads_them() {
        for (text, expected) in [
            ("yes", json!(true)),
            ("Off", json!(false)),
            ("y", json!("y")),
            ("True", json!(true)),
            ("010", json!(8)),
            ("0o10", json!("0o10")),
            ("08", json!("08")),
            ("0x1F", json!(31)),
            ("0b101", json!(5)),
            ("1_000", json!(1000)),
            ("+12", json!(12)),
            ("-0", json!(0)),
            (".5", json!(0.5)),
            ("1.", json!(1.0)),
            ("1.5e+3", json!(1500.0)),
            ("1e-3", json!(1e-3)),
            ("5E-1", json!(0.5)),
            ("1_0.5", json!(10.5)),
            ("!!float 3", json!(3.0)),
            ("!!int \"4\"", json!(4)),
            ("!!str 4", json!("4")),
            ("!!bool yes", json!(true)),
            ("!!null ''", json!(null)),
            ("!!python/tuple [1, a]", json!([1, "a"])),
            ("\"no\"", json!("no")),
            ("W4A16", json!("W4A16")),
            ("e5", json!("e5")),
            ("1.2.3", json!("1.2.3")),
            ("~", json!(null)),
            ("", json!(null)),
        ] {
            assert_eq!(parse(&format!("a: {text}\n"), Dialect::PyYaml).unwrap()["a"], expected, "{text}");
        }
        let core = parse("a: no\nb: 010\nc: 1e-3\n", Dialect::Core).unwrap();
        assert_eq!(core, json!({ "a": "no", "b": 10, "c": 1e-3 }));
    }

    #[test]
    fn anchors_are_repeated_and_merged() {
        let text = "w: &w {num_bits: 4, type: int}\nx: &x {type: float, s: 1}\na: {<<: *w, num_bits: 8}\nb:\n  <<: [*w, *x]\nc: *w\n";
        for dialect in [Dialect::Core, Dialect::PyYaml] {
            let found = parse(text, dialect).unwrap();
            assert_eq!(found["a"], json!({ "num_bits": 8, "type": "int" }));
            assert_eq!(found["b"], json!({ "num_bits": 4, "type": "int", "s": 1 }));
            assert_eq!(found["c"], found["w"]);
        }
        // A quoted key is a name like any.
        assert_eq!(parse("'<<': 1\n", Dialect::PyYaml).unwrap(), json!({ "<<": 1 }));
    }

    #[test]
    fn what_cannot_be_read_has_its_place() {
        for (text, line, message) in [
            ("a: 1\nb: !thing 2\n", 2, "the tag `!thing`"),
            ("a:\n  - .nan\n", 2, "not a finite number"),
            ("a: 1\non: 2\n", 2, "write it in quotes"),
            ("a: 1\n'a': 2\n", 2, "twice"),
            ("a: 1:30\n", 1, "base 60"),
            ("a: !!int x\n", 1, "no `!!int`"),
            ("a: !!timestamp 2001-01-01\n", 1, "the tag `!!timestamp`"),
            ("a: 1\nb:\n  <<: 3\n", 3, "merges a map"),
            ("a: 1\n---\nb: 2\n", 3, "2 documents"),
            ("a: 99999999999999999999\n", 1, "too large"),
        ] {
            let fault = parse(text, Dialect::PyYaml).unwrap_err();
            assert!(fault.message.contains(message), "{text}: {fault:?}");
            assert_eq!(fault.line, line, "{text}: {fault:?}");
        }
    }
}
