//! Parameters against a plugin's JSON Schema, while the script runs: nothing is loaded for it.
//!
//! The schema is one that schemars derives from a Rust struct, so this reads the part of JSON Schema that such structs
//! give. What it does not know it lets pass: the plugin itself reads the parameters again, strictly.

mod aliases;

use std::cell::RefCell;
use std::fmt;

use serde_json::{Map, Number, Value};
use workbench_api::descriptor::Descriptor;

use self::aliases::aliases;
use crate::error::{Error, did_you_mean};

/// A parameter that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// Which one, with the path to it: `schedule.warmup`.
    pub key: String,
    /// What is wrong with it.
    pub message: String,
    /// What the user may have meant.
    pub hint: Option<String>,
}

impl fmt::Display for ParameterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ParameterError {}

impl From<ParameterError> for Error {
    fn from(error: ParameterError) -> Self {
        let needle = error.key.rsplit('.').next().unwrap_or(&error.key).to_owned();
        Self::usage(error.message).maybe_hint(error.hint).at(needle)
    }
}

type Result<T> = std::result::Result<T, ParameterError>;

/// The given parameters with the plugin's defaults filled in and every number in the form of its type (`4` becomes `4.0`
/// where the plugin wants a float, `4.0` becomes `4` where it wants an integer), so that equal meanings are equal JSON.
///
/// # Errors
/// A key that the plugin does not know (with the likeliest one as a hint), a value of the wrong type, or out of range.
pub fn validate(plugin: &Descriptor, given: &Value) -> Result<Value> {
    validate_noting(plugin, given).map(|(parameters, _)| parameters)
}

/// The same, and what to tell whoever gave them: the names by which the plugin calls parameters that were given by an alias.
///
/// # Errors
/// As for [`validate`]; a parameter that was given by two of its names.
pub fn validate_noting(plugin: &Descriptor, given: &Value) -> Result<(Value, Vec<String>)> {
    let schema = Schema { root: &plugin.schema, notes: RefCell::default() };
    let mut parameters = match given {
        Value::Null => Map::new(),
        Value::Object(given) => given.clone(),
        other => return fail("", format!("parameters of `{}` must be an object, not {}", plugin.name, word(other))),
    };
    if let Some(known) = properties(&plugin.schema) {
        parameters = schema.by_own_names(known, parameters, "")?;
    }
    for (key, default) in plugin.defaults.as_object().into_iter().flatten() {
        parameters.entry(key.clone()).or_insert_with(|| default.clone());
    }
    let order: Vec<String> =
        properties(&plugin.schema).map(|known| known.keys().cloned().collect()).unwrap_or_default();
    let Value::Object(mut valid) = schema.check(&plugin.schema, &Value::Object(parameters), "")? else {
        return Ok((Value::Object(Map::new()), Vec::new()));
    };
    // The order of the struct, whatever the script's: equal parameters look equal.
    let mut ordered: Map<String, Value> =
        order.iter().filter_map(|key| Some((key.clone(), valid.remove(key)?))).collect();
    ordered.extend(valid);
    Ok((Value::Object(ordered), schema.notes.into_inner()))
}

struct Schema<'a> {
    root: &'a Value,
    /// What was read otherwise than it was written.
    notes: RefCell<Vec<String>>,
}

fn properties(schema: &Value) -> Option<&Map<String, Value>> {
    schema.get("properties")?.as_object()
}

fn fail<T>(key: &str, message: impl Into<String>) -> Result<T> {
    Err(ParameterError { key: key.to_owned(), message: message.into(), hint: None })
}

impl Schema<'_> {
    /// The value in canonical form.
    fn check(&self, schema: &Value, value: &Value, key: &str) -> Result<Value> {
        let schema = self.resolve(schema);
        if let Some(alternatives) = alternatives(schema) {
            return self.check_alternatives(alternatives, value, key);
        }
        if let Some(allowed) = choices(schema) {
            return check_choice(&allowed.iter().collect::<Vec<_>>(), value, key);
        }
        let types = types(schema);
        if types.is_empty() {
            return Ok(value.clone());
        }
        if value.is_null() && types.contains(&"null") {
            return Ok(Value::Null);
        }
        let Some(canonical) = types.iter().find_map(|kind| convert(kind, value)) else {
            let expected: Vec<&str> = types.iter().map(|kind| describe(kind)).collect();
            return fail(key, wrong(key, &expected.join(" or "), value));
        };
        match &canonical {
            Value::Number(number) => check_range(schema, number, key)?,
            Value::Array(items) => return self.check_items(schema, items, key),
            Value::Object(entries) => return self.check_entries(schema, entries, key),
            _ => {}
        }
        Ok(canonical)
    }

    /// Follows `$ref` into `$defs`; keeps the schema itself where the reference leads nowhere.
    fn resolve<'s>(&'s self, mut schema: &'s Value) -> &'s Value {
        // A chain of references longer than this is a circle.
        for _ in 0..16 {
            let target = schema.get("$ref").and_then(Value::as_str).and_then(|path| path.strip_prefix('#'));
            match target.and_then(|path| self.root.pointer(path)) {
                Some(target) => schema = target,
                None => break,
            }
        }
        schema
    }

    fn check_alternatives(&self, alternatives: &[Value], value: &Value, key: &str) -> Result<Value> {
        let mut errors = Vec::new();
        for alternative in alternatives {
            let notes = self.notes.borrow().len();
            match self.check(alternative, value, key) {
                Ok(valid) => return Ok(valid),
                Err(error) => errors.push(error),
            }
            self.notes.borrow_mut().truncate(notes);
        }
        // An enum some of whose values are documented is several alternatives, each of one or more values.
        let choices: Option<Vec<&[Value]>> = alternatives.iter().map(|schema| choices(self.resolve(schema))).collect();
        if let Some(choices) = choices {
            return check_choice(&choices.into_iter().flatten().collect::<Vec<_>>(), value, key);
        }
        // The alternative to null, for an optional value: its error is the one that helps.
        let real = alternatives.iter().zip(errors).filter(|(schema, _)| types(self.resolve(schema)) != ["null"]);
        let mut errors: Vec<ParameterError> = real.map(|(_, error)| error).collect();
        if errors.len() == 1 {
            return errors.pop().map_or_else(|| fail(key, "no alternative fits"), Err);
        }
        // Of several alternatives, one that got further than the value's type knows more.
        let deeper = errors.iter().position(|error| error.key.len() > key.len());
        match deeper {
            Some(index) => Err(errors.swap_remove(index)),
            None => {
                let reasons: Vec<String> = errors.into_iter().map(|error| error.message).collect();
                fail(key, format!("no form of {} fits: {}", name(key), reasons.join("; ")))
            }
        }
    }

    fn check_items(&self, schema: &Value, items: &[Value], key: &str) -> Result<Value> {
        for (limit, fits) in [("minItems", true), ("maxItems", false)] {
            if let Some(count) = schema.get(limit).and_then(Value::as_u64)
                && (if fits { (items.len() as u64) < count } else { (items.len() as u64) > count })
            {
                let bound = if fits { "at least" } else { "at most" };
                return fail(key, format!("{} must have {bound} {count} items, not {}", name(key), items.len()));
            }
        }
        let fixed = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let rest = schema.get("items").filter(|rest| rest.is_object());
        let valid = items.iter().enumerate().map(|(index, item)| match fixed.get(index).or(rest) {
            Some(schema) => self.check(schema, item, &format!("{key}[{index}]")),
            None => Ok(item.clone()),
        });
        Ok(Value::Array(valid.collect::<Result<_>>()?))
    }

    fn check_entries(&self, schema: &Value, entries: &Map<String, Value>, key: &str) -> Result<Value> {
        let none = Map::new();
        let known = properties(schema).unwrap_or(&none);
        let path = |entry: &str| path(key, entry);
        let entries = self.by_own_names(known, entries.clone(), key)?;
        let mut valid = Map::new();
        for (entry, value) in &entries {
            let value = match (known.get(entry), schema.get("additionalProperties")) {
                (Some(schema), _) => self.check(schema, value, &path(entry))?,
                (None, Some(Value::Bool(false))) => return Err(unknown(&path(entry), entry, known)),
                (None, Some(schema @ Value::Object(_))) => self.check(schema, value, &path(entry))?,
                // A struct that allows other keys still lists those it reads.
                (None, _) if !known.is_empty() => return Err(unknown(&path(entry), entry, known)),
                (None, _) => value.clone(),
            };
            valid.insert(entry.clone(), value);
        }
        for (entry, schema) in known.iter().filter(|(entry, _)| !entries.contains_key(*entry)) {
            if let Some(default) = schema.get("default") {
                valid.insert(entry.clone(), self.check(schema, default, &path(entry))?);
            }
        }
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        match required.into_iter().find(|entry| !valid.contains_key(*entry)) {
            Some(missing) => fail(&path(missing), format!("parameter `{}` is missing", path(missing))),
            None => Ok(Value::Object(valid)),
        }
    }
}

fn path(key: &str, entry: &str) -> String {
    if key.is_empty() { entry.to_owned() } else { format!("{key}.{entry}") }
}

fn alternatives(schema: &Value) -> Option<&[Value]> {
    let found = schema.get("anyOf").or_else(|| schema.get("oneOf"))?;
    found.as_array().map(Vec::as_slice)
}

/// The values of a schema that lists them.
fn choices(schema: &Value) -> Option<&[Value]> {
    match schema.get("const") {
        Some(only) => Some(std::slice::from_ref(only)),
        None => schema.get("enum")?.as_array().map(Vec::as_slice),
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The value as the given type, if it is one.
fn convert(kind: &str, value: &Value) -> Option<Value> {
    match (kind, value) {
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("array", Value::Array(_)) => Some(value.clone()),
        ("object", Value::Object(_)) => Some(value.clone()),
        ("number", Value::Number(number)) => Number::from_f64(number.as_f64()?).map(Value::Number),
        ("integer", Value::Number(number)) if number.is_f64() => {
            let float = number.as_f64()?;
            // Beyond 2^53 a float no longer says which integer is meant.
            (float == float.trunc() && float.abs() <= 9_007_199_254_740_992.0).then(|| Value::from(float as i64))
        }
        ("integer", Value::Number(_)) => Some(value.clone()),
        _ => None,
    }
}

fn check_range(schema: &Value, number: &Number, key: &str) -> Result<()> {
    let Some(value) = number.as_f64() else { return Ok(()) };
    let bound = |limit: &str| schema.get(limit).filter(|limit| limit.is_number());
    let (low, high) = (bound("minimum"), bound("maximum"));
    let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
    let float = |limit: Option<&Value>| limit.and_then(Value::as_f64);
    let outside = float(low).is_some_and(|limit| value < limit)
        || float(high).is_some_and(|limit| value > limit)
        || float(above).is_some_and(|limit| value <= limit)
        || float(below).is_some_and(|limit| value >= limit);
    if !outside {
        return Ok(());
    }
    let mut range = Vec::new();
    for (limit, words) in [(low, "at least"), (above, "above"), (high, "at most"), (below, "below")] {
        range.extend(limit.map(|limit| format!("{words} {limit}")));
    }
    fail(key, format!("{} must be {}, not {number}", name(key), range.join(" and ")))
}

fn check_choice(allowed: &[&Value], value: &Value, key: &str) -> Result<Value> {
    if allowed.contains(&value) {
        return Ok(value.clone());
    }
    let list: Vec<String> = allowed.iter().map(|value| quote(value)).collect();
    let near = value.as_str().and_then(|text| did_you_mean(text, allowed.iter().filter_map(|value| value.as_str())));
    Err(ParameterError {
        key: key.to_owned(),
        message: format!("{} must be one of {}, not {}", name(key), list.join(", "), quote(value)),
        hint: near.map(|near| format!("did you mean \"{near}\"?")),
    })
}

/// A key that the plugin does not know. The hint is the name spelled most alike, aliases among them.
fn unknown(path: &str, entry: &str, known: &Map<String, Value>) -> ParameterError {
    let names = known.iter().flat_map(|(name, schema)| std::iter::once(name.as_str()).chain(aliases(schema)));
    let near = did_you_mean(entry, names);
    let hint = match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => "there are no parameters here".to_owned(),
        None => format!("known here: {}", known.keys().cloned().collect::<Vec<_>>().join(", ")),
    };
    ParameterError { key: path.to_owned(), message: format!("unknown parameter `{path}`"), hint: Some(hint) }
}

fn wrong(key: &str, expected: &str, value: &Value) -> String {
    format!("{} must be {expected}, not {}", name(key), word(value))
}

fn name(key: &str) -> String {
    if key.is_empty() { "the parameters".to_owned() } else { format!("parameter `{key}`") }
}

fn quote(value: &Value) -> String {
    value.to_string()
}

fn describe(kind: &str) -> &str {
    match kind {
        "string" => "a string",
        "boolean" => "true or false",
        "array" => "an array",
        "object" => "an object",
        "number" => "a number",
        "integer" => "an integer",
        "null" => "absent",
        other => other,
    }
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(_) => "an array".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the string \"{text}\""),
        other => other.to_string(),
    }
}
