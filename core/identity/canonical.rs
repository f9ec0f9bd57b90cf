//! Canonical JSON: one text for one meaning.

use serde_json::{Number, Value};

/// Writes a value with sorted keys, no whitespace, and one spelling per number: an integral float is written as the
/// integer it equals, so that `4` and `4.0` mean the same.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => write_number(n, out),
        Value::String(s) => write_string(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (i, key) in keys.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(key, out);
                out.push(':');
                write(&map[key], out);
            }
            out.push('}');
        }
    }
}

/// Integers beyond 2^53 have no exact float twin, so only smaller ones are unified.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn write_number(number: &Number, out: &mut String) {
    match number.as_f64() {
        Some(float) if !number.is_i64() && !number.is_u64() && float.fract() == 0.0 && float.abs() <= EXACT => {
            out.push_str(&(float as i64).to_string());
        }
        _ => out.push_str(&number.to_string()),
    }
}

fn write_string(text: &str, out: &mut String) {
    // `Value`'s own display is the JSON escape of a string.
    out.push_str(&Value::String(text.to_owned()).to_string());
}

/// The leaves at which two values differ, as (path, old, new); a missing leaf is `null`.
pub fn differences(old: &Value, new: &Value) -> Vec<(String, Value, Value)> {
    let mut found = Vec::new();
    collect(String::new(), old, new, &mut found);
    found
}

fn collect(path: String, old: &Value, new: &Value, found: &mut Vec<(String, Value, Value)>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<_> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            keys.sort();
            for key in keys {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                let null = Value::Null;
                collect(path, a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null), found);
            }
        }
        _ if canonical(old) != canonical(new) => found.push((path, old.clone(), new.clone())),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn one_text_for_one_meaning() {
        let a = json!({"b": 4, "a": [1.0, -0.0, 0.5, 1e300], "c": {"z": null, "y": "\n\""}});
        let b: Value =
            serde_json::from_str(r#"{ "c": {"y": "\u000a\"", "z": null}, "a": [1, 0, 5e-1, 1e300], "b": 4.0 }"#)
                .unwrap();
        assert_eq!(canonical(&a), canonical(&b));
        assert_eq!(canonical(&a), r#"{"a":[1,0,0.5,1e+300],"b":4,"c":{"y":"\n\"","z":null}}"#);
    }

    /// What a script writes reaches a node, and what a node records reaches a table, to the last bit.
    #[test]
    fn numbers_of_all_digits_survive_being_written() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d).rotate_left(17) ^ 0x1405_7b7e_f767_814f;
            let number = f64::from_bits(bits);
            // Between 0 and 1 as parameters are, and of any size.
            for number in [number, (bits >> 11) as f64 / (1_u64 << 53) as f64].into_iter().filter(|n| n.is_finite()) {
                let read: f64 = serde_json::from_str(&canonical(&json!(number))).unwrap();
                assert_eq!(read, number, "{number}");
            }
        }
    }

    #[test]
    fn different_numbers_stay_different() {
        assert_ne!(canonical(&json!(9007199254740993_i64)), canonical(&json!(9007199254740992_i64)));
        assert_ne!(canonical(&json!(0.1)), canonical(&json!(0.1_f32 as f64)));
        assert_ne!(canonical(&json!("4")), canonical(&json!(4)));
    }

    #[test]
    fn differences_name_their_path() {
        let old = json!({"params": {"group_size": 128, "scheme": "a"}, "seed": 0});
        let new = json!({"params": {"group_size": 64, "scheme": "a", "extra": 1}, "seed": 0.0});
        let paths: Vec<_> = differences(&old, &new).into_iter().map(|(p, ..)| p).collect();
        assert_eq!(paths, ["params.extra", "params.group_size"]);
    }
}
