//! Values against a JSON Schema, while the script runs: nothing is loaded for it.
//!
//! The schema is one that schemars derives from a Rust struct, so this reads the part of JSON Schema that such structs
//! give. What it does not know it lets pass: whoever reads the value with the struct itself is strict.

use std::cell::RefCell;

use serde_json::{Map, Number, Value};

use super::{
    DATASET, MODEL, Owner, ParameterError, REWARD,
    read::{alternatives, choices, properties, resolve, types},
    written::as_written,
};
use crate::error::did_you_mean;

pub(super) type Result<T> = std::result::Result<T, ParameterError>;

/// The given values with defaults filled in and every number in the form of its type (`4` becomes `4.0` where a float is
/// wanted, `4.0` becomes `4` where an integer is), so that equal meanings are equal JSON.
///
/// # Errors
/// A key that is not known (with the likeliest one as a hint), a value of the wrong type, or out of range.
pub fn check(schema: &Value, defaults: &Value, given: &Value, owner: Owner<'_>) -> Result<Value> {
    check_noting(schema, defaults, given, owner).map(|(values, _)| values)
}

/// The same, and what to tell whoever gave them: the names of fields that were given by an alias.
///
/// # Errors
/// As for [`check`]; a field that was given by two of its names.
pub fn check_noting(schema: &Value, defaults: &Value, given: &Value, owner: Owner<'_>) -> Result<(Value, Vec<String>)> {
    let checker = Schema { root: schema, owner, notes: RefCell::default() };
    let mut values = match given {
        Value::Null => Map::new(),
        Value::Object(given) => given.clone(),
        other => {
            let whose = match owner {
                Owner::Plugin(name) => format!("parameters of `{name}` must be an object"),
                Owner::Call(call) => format!("{call} is a map of options"),
            };
            return fail("", format!("{whose}, not {}", word(other)));
        }
    };
    if let Some(known) = properties(schema) {
        values = checker.by_own_names(known, values, "")?;
    }
    for (key, default) in defaults.as_object().into_iter().flatten() {
        values.entry(key.clone()).or_insert_with(|| default.clone());
    }
    let order: Vec<String> = properties(schema).map(|known| known.keys().cloned().collect()).unwrap_or_default();
    let Value::Object(mut valid) = checker.check(schema, &Value::Object(values), "")? else {
        return Ok((Value::Object(Map::new()), Vec::new()));
    };
    // The order of the struct, whatever the script's: equal values look equal.
    let mut ordered: Map<String, Value> =
        order.iter().filter_map(|key| Some((key.clone(), valid.shift_remove(key)?))).collect();
    ordered.extend(valid);
    Ok((Value::Object(ordered), checker.notes.into_inner()))
}

pub(super) struct Schema<'a> {
    root: &'a Value,
    owner: Owner<'a>,
    /// What was read otherwise than it was written.
    pub(super) notes: RefCell<Vec<String>>,
}

/// What to write for a number between quotes where one without is wanted.
fn unquoted(types: &[&str], value: &Value, key: &str) -> Option<String> {
    let text = value.as_str()?;
    let fits = |kind: &&str| match *kind {
        "integer" => text.parse::<i64>().is_ok(),
        "number" => text.parse::<f64>().is_ok_and(f64::is_finite),
        _ => false,
    };
    let name = key.rsplit('.').next().unwrap_or(key);
    types.iter().any(fits).then(|| format!("write `{name}: {text}`, without quotes"))
}

pub(super) fn fail<T>(key: &str, message: impl Into<String>) -> Result<T> {
    Err(ParameterError { key: key.to_owned(), message: message.into(), hint: None })
}

impl Schema<'_> {
    /// The value in canonical form.
    fn check(&self, schema: &Value, value: &Value, key: &str) -> Result<Value> {
        let schema = resolve(self.root, schema);
        let optional = types(schema).contains(&"null") && value.is_null();
        if let Some(wanted) = schema.get("handle").and_then(Value::as_str).filter(|_| !optional) {
            return self.check_handle(wanted, value, key);
        }
        if let Some(alternatives) = alternatives(schema) {
            return self.check_alternatives(alternatives, value, key);
        }
        if let Some(allowed) = choices(schema) {
            return self.check_choice(&allowed.iter().collect::<Vec<_>>(), value, key);
        }
        let types = types(schema);
        if types.is_empty() {
            return Ok(value.clone());
        }
        if value.is_null() && types.contains(&"null") {
            return Ok(Value::Null);
        }
        let Some(canonical) = types.iter().find_map(|kind| convert(kind, value)) else {
            // An option of a call that is left out is not written as one that is absent.
            let said = |kind: &&&str| **kind != "null" || matches!(self.owner, Owner::Plugin(_));
            let expected: Vec<&str> = types.iter().filter(said).map(|kind| describe(kind)).collect();
            let message = format!("{} must be {}, not {}", self.owner.name(key), expected.join(" or "), word(value));
            return Err(ParameterError { key: key.to_owned(), message, hint: unquoted(&types, value, key) });
        };
        match &canonical {
            Value::Number(number) => {
                self.check_range(schema, number, key)?;
                return Ok(as_written(schema, number));
            }
            Value::Array(items) => return self.check_items(schema, items, key),
            Value::Object(entries) => return self.check_entries(schema, entries, key),
            _ => {}
        }
        Ok(canonical)
    }

    /// A handle of a script, which [`DATASET`], [`MODEL`] or [`REWARD`] marks.
    fn check_handle(&self, wanted: &str, value: &Value, key: &str) -> Result<Value> {
        let mark = match wanted {
            "a model" => MODEL,
            "a reward" => REWARD,
            _ => DATASET,
        };
        if value.get(mark).is_some() {
            return Ok(value.clone());
        }
        fail(key, format!("{} must be {wanted}, not {}", self.owner.name(key), word(value)))
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
        let choices: Option<Vec<&[Value]>> =
            alternatives.iter().map(|schema| choices(resolve(self.root, schema))).collect();
        if let Some(choices) = choices {
            return self.check_choice(&choices.into_iter().flatten().collect::<Vec<_>>(), value, key);
        }
        // The alternative to null, for an optional value: its error is the one that helps.
        let real = alternatives.iter().zip(errors).filter(|(schema, _)| types(resolve(self.root, schema)) != ["null"]);
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
                fail(key, format!("no form of {} fits: {}", self.owner.name(key), reasons.join("; ")))
            }
        }
    }

    fn check_items(&self, schema: &Value, items: &[Value], key: &str) -> Result<Value> {
        for (limit, fits) in [("minItems", true), ("maxItems", false)] {
            if let Some(count) = schema.get(limit).and_then(Value::as_u64)
                && (if fits { (items.len() as u64) < count } else { (items.len() as u64) > count })
            {
                let bound = if fits { "at least" } else { "at most" };
                return fail(
                    key,
                    format!("{} must have {bound} {count} items, not {}", self.owner.name(key), items.len()),
                );
            }
        }
        let repeated = items.iter().enumerate().find(|(index, item)| items[..*index].contains(item));
        if let Some((_, item)) = repeated.filter(|_| schema.get("uniqueItems") == Some(&Value::Bool(true))) {
            return fail(key, format!("{} names {} twice", self.owner.name(key), quote(item)));
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
                (None, Some(Value::Bool(false))) => return Err(self.owner.unknown(&path(entry), entry, known)),
                (None, Some(schema @ Value::Object(_))) => self.check(schema, value, &path(entry))?,
                // A struct that allows other keys still lists those it reads.
                (None, _) if !known.is_empty() => return Err(self.owner.unknown(&path(entry), entry, known)),
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
            Some(missing) => fail(&path(missing), self.owner.missing(&path(missing))),
            None => Ok(Value::Object(valid)),
        }
    }

    fn check_range(&self, schema: &Value, number: &Number, key: &str) -> Result<()> {
        let Some(value) = number.as_f64() else { return Ok(()) };
        let bound = |limit: &str| schema.get(limit).filter(|limit| limit.is_number());
        let (low, high) = (bound("minimum"), bound("maximum"));
        let (above, below) = (bound("exclusiveMinimum"), bound("exclusiveMaximum"));
        let float = |limit: Option<&Value>| limit.and_then(Value::as_f64);
        if let Some((low, high)) = schema.get("format").and_then(Value::as_str).and_then(limits)
            && !(low..=high).contains(&value)
        {
            return fail(key, format!("{} must be from {low} to {high}, not {number}", self.owner.name(key)));
        }
        // Not a word of JSON Schema: a factor that has to be exact.
        if schema.get("powerOf").is_some_and(|base| base == 2) && !is_power_of_two(value) {
            return fail(key, format!("{} must be a power of 2, not {number}", self.owner.name(key)));
        }
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
        fail(key, format!("{} must be {}, not {number}", self.owner.name(key), range.join(" and ")))
    }

    fn check_choice(&self, allowed: &[&Value], value: &Value, key: &str) -> Result<Value> {
        if allowed.contains(&value) {
            return Ok(value.clone());
        }
        // A switch that is a script's parameter arrives as text where its default is a word.
        let flag = value.as_str().and_then(|text| text.parse::<bool>().ok()).map(Value::Bool);
        if let Some(flag) = flag.filter(|flag| allowed.contains(&flag)) {
            return Ok(flag);
        }
        let list: Vec<String> = allowed.iter().map(|value| quote(value)).collect();
        let near =
            value.as_str().and_then(|text| did_you_mean(text, allowed.iter().filter_map(|value| value.as_str())));
        Err(ParameterError {
            key: key.to_owned(),
            message: format!("{} must be one of {}, not {}", self.owner.name(key), list.join(", "), quote(value)),
            hint: near.map(|near| format!("did you mean \"{near}\"?")),
        })
    }
}

pub(super) fn path(key: &str, entry: &str) -> String {
    if key.is_empty() { entry.to_owned() } else { format!("{key}.{entry}") }
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

/// Whether a number is 2 to some whole power, positive or negative: the mantissa of such a number is empty.
fn is_power_of_two(value: f64) -> bool {
    value.is_normal() && value > 0.0 && value.to_bits() & ((1 << 52) - 1) == 0
}

/// The range of a type that holds less than JSON can say.
fn limits(format: &str) -> Option<(f64, f64)> {
    match format {
        "int32" => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
        "uint32" => Some((0.0, f64::from(u32::MAX))),
        "float" => Some((f64::from(f32::MIN), f64::from(f32::MAX))),
        _ => None,
    }
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
        Value::Object(entries) if entries.contains_key(DATASET) => "a dataset".to_owned(),
        Value::Object(entries) if entries.contains_key(MODEL) => "a model".to_owned(),
        Value::Object(entries) if entries.contains_key(REWARD) => "a reward".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("the string \"{text}\""),
        other => other.to_string(),
    }
}
