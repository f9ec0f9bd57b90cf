//! What a schema says, in words for a person.

use serde::Serialize;
use serde_json::Value;

use super::read::{alternatives, choices, properties, resolve, types};

/// One of the values that a field can have.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Choice {
    pub value: Value,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub about: String,
}

/// A field of a type.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Field {
    /// With the path to it: `learn.steps`.
    pub name: String,
    /// What it is: `integer`, `list of text`.
    pub kind: String,
    /// Its value where none is given; `null` where that means that there is none.
    pub default: Value,
    /// Whether it has to be given.
    pub required: bool,
    /// `at least 1`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub range: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Names that others give it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    pub about: String,
}

impl Field {
    /// What can be given, in one phrase: `integer, at least 1, tokens`, or the choices.
    pub fn values(&self) -> String {
        let listed = |all: &[Choice]| all.iter().map(|one| one.value.to_string()).collect::<Vec<_>>().join(", ");
        let mut words = match self.choices.as_slice() {
            [] => vec![self.kind.clone()],
            all if self.kind.is_empty() => vec![listed(all)],
            all => vec![format!("{}: {}", self.kind, listed(all))],
        };
        words.extend(self.range.clone());
        words.extend(self.unit.clone());
        words.join(", ")
    }

    /// What it is where nothing is given: `required`, `not given`, or a value.
    pub fn default_word(&self) -> String {
        match &self.default {
            _ if self.required => "required".to_owned(),
            Value::Null => "not given".to_owned(),
            value => value.to_string(),
        }
    }
}

/// The fields of a type in the order of the type, those of nested types behind the field that holds them. `defaults` go before
/// the schema's own.
pub fn fields(schema: &Value, defaults: &Value) -> Vec<Field> {
    let mut found = Vec::new();
    collect(schema, schema, defaults, "", 0, &mut found);
    found
}

/// Types nested deeper than this have a page of their own.
const DEPTH: usize = 3;

fn collect(root: &Value, schema: &Value, defaults: &Value, path: &str, depth: usize, found: &mut Vec<Field>) {
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, own) in properties(schema).into_iter().flatten() {
        let name_here = format!("{path}{name}");
        let default = defaults
            .get(name)
            .or_else(|| own.get("default"))
            .or_else(|| own.get("implied"))
            .cloned()
            .unwrap_or_default();
        let nature = nature(root, own);
        let text = |key: &str| own.get(key).and_then(Value::as_str).map(|text| text.replace('\n', " "));
        found.push(Field {
            kind: nature.kind,
            required: required.contains(&name.as_str()) && default.is_null(),
            default,
            range: range(own).or(nature.range),
            choices: nature.choices,
            unit: text("unit"),
            aliases: own
                .get("aliases")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect(),
            about: text("description")
                .or_else(|| Some(resolve(root, own).get("description")?.as_str()?.replace('\n', " ")))
                .unwrap_or_default(),
            name: name_here.clone(),
        });
        if let Some((inner, many)) = nature.inner.filter(|_| depth < DEPTH) {
            collect(
                root,
                inner,
                &Value::Null,
                &format!("{name_here}{}.", if many { "[]" } else { "" }),
                depth + 1,
                found,
            );
        }
    }
}

/// What a field holds.
#[derive(Default)]
struct Nature<'a> {
    kind: String,
    choices: Vec<Choice>,
    range: Option<String>,
    /// The type of the maps that it holds, and whether it is a list of them.
    inner: Option<(&'a Value, bool)>,
}

fn nature<'a>(root: &'a Value, schema: &'a Value) -> Nature<'a> {
    let schema = resolve(root, schema);
    if let Some(kind) = schema.get("handle").and_then(Value::as_str) {
        return Nature { kind: kind.trim_start_matches("a ").to_owned(), ..Nature::default() };
    }
    if let Some(several) = alternatives(schema) {
        return one_of(several.iter().map(|one| nature(root, one)).collect(), several, root);
    }
    if let Some(values) = choices(schema) {
        let about = schema.get("description").and_then(Value::as_str).filter(|_| values.len() == 1).unwrap_or_default();
        let choice = |value: &Value| Choice { value: value.clone(), about: about.replace('\n', " ") };
        return Nature { choices: values.iter().filter(|v| !v.is_null()).map(choice).collect(), ..Nature::default() };
    }
    let mut all: Vec<Nature<'_>> =
        types(schema).into_iter().filter(|kind| *kind != "null").map(|kind| plain(root, schema, kind)).collect();
    match all.len() {
        0 => Nature { kind: "any value".to_owned(), ..Nature::default() },
        1 => all.remove(0),
        _ => Nature {
            kind: all.iter().map(|one| one.kind.as_str()).collect::<Vec<_>>().join(" or "),
            range: range(schema),
            ..Nature::default()
        },
    }
}

fn plain<'a>(root: &'a Value, schema: &'a Value, kind: &str) -> Nature<'a> {
    let named = |kind: &str| Nature { kind: kind.to_owned(), range: range(schema), ..Nature::default() };
    match kind {
        "string" => named("text"),
        "boolean" => named("true or false"),
        "object" => {
            Nature { inner: properties(schema).filter(|p| !p.is_empty()).map(|_| (schema, false)), ..named("map") }
        }
        "array" => {
            let item = schema
                .get("items")
                .filter(|items| items.is_object())
                .map(|items| nature(root, items))
                .unwrap_or_default();
            let of = if item.choices.is_empty() { item.kind } else { "of".to_owned() };
            let kind = match of.as_str() {
                "" => "list".to_owned(),
                "of" => "list of".to_owned(),
                of => format!("list of {of}"),
            };
            let each = item.range.map(|range| format!("each {range}"));
            let range = match (range(schema), each) {
                (Some(range), Some(each)) => Some(format!("{range}, {each}")),
                (range, each) => range.or(each),
            };
            Nature { choices: item.choices, inner: item.inner.map(|(inner, _)| (inner, true)), range, ..named(&kind) }
        }
        other => named(other),
    }
}

/// Several forms as one: choices side by side, other forms joined by "or".
fn one_of<'a>(all: Vec<Nature<'a>>, schemas: &[Value], root: &Value) -> Nature<'a> {
    let real = all.into_iter().zip(schemas).filter(|(_, schema)| types(resolve(root, schema)) != ["null"]);
    let mut joined = Nature::default();
    let mut kinds: Vec<String> = Vec::new();
    for (one, _) in real {
        joined.choices.extend(one.choices);
        joined.inner = joined.inner.or(one.inner);
        joined.range = joined.range.or(one.range);
        if !one.kind.is_empty() && !kinds.contains(&one.kind) {
            kinds.push(one.kind);
        }
    }
    joined.kind = kinds.join(" or ");
    joined
}

/// `at least 1, at most 8`
fn range(schema: &Value) -> Option<String> {
    let limit = |key: &str| schema.get(key).filter(|limit| limit.is_number());
    let word = |words: &str, key: &str| limit(key).map(|limit| format!("{words} {limit}"));
    let items = |words: &str, key: &str| limit(key).map(|limit| format!("{words} {limit} of them"));
    let length = match (limit("minItems"), limit("maxItems")) {
        (Some(low), Some(high)) if low == high => vec![format!("{low} of them")],
        _ => [items("at least", "minItems"), items("at most", "maxItems")].into_iter().flatten().collect(),
    };
    let all = [
        word("at least", "minimum"),
        word("above", "exclusiveMinimum"),
        word("at most", "maximum"),
        word("below", "exclusiveMaximum"),
    ];
    let unique = (schema.get("uniqueItems") == Some(&Value::Bool(true))).then(|| "each once".to_owned());
    let power = limit("powerOf").map(|base| format!("a power of {base}"));
    let words: Vec<String> = all.into_iter().flatten().chain(length).chain(unique).chain(power).collect();
    (!words.is_empty()).then(|| words.join(", "))
}
