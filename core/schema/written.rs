//! Numbers in the digits that their author wrote.
//!
//! A field of single precision holds a number near .7, which in double precision is .699999988079071. JSON has double
//! precision alone, so what came from such a field is spelled by the fewest digits that single precision reads back.

use serde_json::{Number, Value};

use super::read::{alternatives, properties, resolve, types};

/// A number of a field: where that is of single precision and holds the number exactly, its shortest spelling.
pub(super) fn as_written(schema: &Value, number: &Number) -> Value {
    let single = schema.get("format").is_some_and(|format| format == "float");
    let short = number.as_f64().filter(|_| single).and_then(|value| {
        let narrow = value as f32;
        let short: f64 = narrow.to_string().parse().ok()?;
        // A number that single precision does not hold is spelled as its author did.
        (f64::from(narrow) == value && short as f32 == narrow).then_some(short)
    });
    short.and_then(Number::from_f64).map_or_else(|| Value::Number(number.clone()), Value::Number)
}

/// A schema whose defaults are spelled as their author wrote them.
pub fn written(schema: Value) -> Value {
    let root = schema.clone();
    spelled(&root, schema)
}

fn spelled(root: &Value, schema: Value) -> Value {
    match schema {
        Value::Object(entries) => {
            let default =
                entries.get("default").map(|value| value_written(root, &Value::Object(entries.clone()), value));
            let spelled = entries.into_iter().map(|(key, value)| match (key.as_str(), &default) {
                ("default", Some(default)) => (key, default.clone()),
                _ => (key, spelled(root, value)),
            });
            Value::Object(spelled.collect())
        }
        Value::Array(items) => items.into_iter().map(|item| spelled(root, item)).collect(),
        other => other,
    }
}

/// A value of a schema, its numbers spelled as their author wrote them.
pub fn value_written(root: &Value, schema: &Value, value: &Value) -> Value {
    let schema = resolve(root, schema);
    if let Some(several) = alternatives(schema) {
        let real = several.iter().find(|one| types(resolve(root, one)) != ["null"]);
        return real.map_or_else(|| value.clone(), |one| value_written(root, one, value));
    }
    match value {
        Value::Number(number) => as_written(schema, number),
        Value::Array(items) => {
            let fixed = schema.get("prefixItems").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let of = |index: usize| fixed.get(index).or_else(|| schema.get("items"));
            let each = |(index, item)| of(index).map_or_else(|| Value::clone(item), |of| value_written(root, of, item));
            items.iter().enumerate().map(each).collect()
        }
        Value::Object(entries) => {
            let of = |key: &str| properties(schema).and_then(|known| known.get(key));
            let each = |(key, value): (&String, &Value)| {
                (key.clone(), of(key).map_or_else(|| value.clone(), |of| value_written(root, of, value)))
            };
            Value::Object(entries.iter().map(each).collect())
        }
        other => other.clone(),
    }
}
