//! Words and spellings of schemas that schemars gives for structs as authors write them.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::*;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Shape {
    /// Straight.
    Linear,
    /// Half a wave.
    Cosine,
}

/// Nested.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    /// Steps to take.
    #[schemars(range(min = 1))]
    steps: u32,
    betas: [f32; 2],
}

impl Default for Inner {
    fn default() -> Self {
        Self { steps: 10, betas: [0.9, 0.95] }
    }
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Options {
    /// Share of each
    /// row that is kept.
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0, "aliases" = ["ratio"]))]
    clip: f32,
    /// How long.
    #[schemars(range(min = 2), extend("unit" = "tokens"))]
    length: Option<usize>,
    shape: Shape,
    second: Option<Shape>,
    #[schemars(length(min = 1))]
    names: Vec<Shape>,
    inner: Inner,
    learn: Option<Inner>,
    exact: f64,
}

impl Default for Options {
    fn default() -> Self {
        let inner = Inner::default();
        Self {
            clip: 0.7,
            length: None,
            shape: Shape::Cosine,
            second: None,
            names: vec![Shape::Linear],
            inner,
            learn: None,
            exact: 0.1 + 0.2,
        }
    }
}

fn by_name() -> BTreeMap<String, Field> {
    fields(&of::<Options>(), &Value::Null).into_iter().map(|field| (field.name.clone(), field)).collect()
}

#[test]
fn fields_say_default_range_choices_and_unit() {
    let all = by_name();
    let row = |name: &str| (all[name].default_word(), all[name].values());
    let owned = |default: &str, values: &str| (default.to_owned(), values.to_owned());
    assert_eq!(row("clip"), owned("0.7", "number, above 0, at most 1"));
    assert_eq!(all["clip"].about, "Share of each row that is kept.");
    assert_eq!(all["clip"].aliases, ["ratio"]);
    assert_eq!(row("length"), owned("not given", "integer, at least 2, tokens"));
    assert_eq!(row("shape"), owned("\"cosine\"", "\"linear\", \"cosine\""));
    assert_eq!(all["shape"].choices[0].about, "Straight.");
    assert_eq!(row("second"), owned("not given", "\"linear\", \"cosine\""));
    assert_eq!(row("names"), owned("[\"linear\"]", "list of: \"linear\", \"cosine\", at least 1 of them"));
    assert_eq!(row("inner.steps"), owned("10", "integer, at least 1"));
    // What a type says of itself counts where the field is left out by default.
    assert_eq!(row("learn.betas"), owned("[0.9,0.95]", "list of number, 2 of them"));
    assert_eq!(all["learn.steps"].about, "Steps to take.");
}

#[test]
fn numbers_of_single_precision_are_spelled_as_they_were_written() {
    let schema = of::<Options>();
    let checked =
        check(&schema, &serde_json::to_value(Options::default()).unwrap(), &json!({}), Owner::Plugin("p")).unwrap();
    let text = checked.to_string();
    assert!(text.contains("\"clip\":0.7,") && text.contains("\"betas\":[0.9,0.95]"), "{text}");
    // A double stays what it is.
    assert!(text.contains("\"exact\":0.30000000000000004"), "{text}");
    assert!(!schema.to_string().contains("0.69999") && !schema.to_string().contains("0.8999"), "{schema}");
    // What is used does not change: every bit of a single comes back from its spelling, and a spelling of more digits stays.
    for bits in (0..=u32::MAX).step_by(65_537).map(f32::from_bits).filter(|value| value.is_finite()) {
        let number = serde_json::Number::from_f64(f64::from(bits)).unwrap();
        let short = written::as_written(&json!({ "type": "number", "format": "float" }), &number);
        assert_eq!((short.as_f64().unwrap() as f32).to_bits(), bits.to_bits());
    }
    let given = check(&schema, &Value::Null, &json!({ "clip": 0.123456789012 }), Owner::Plugin("p")).unwrap();
    assert_eq!(given["clip"], json!(0.123456789012));
}

#[test]
fn what_a_type_cannot_hold_is_refused() {
    let message =
        |given: Value| check(&of::<Options>(), &Value::Null, &given, Owner::Call("`call`")).unwrap_err().message;
    assert_eq!(
        message(json!({ "inner": { "steps": 4_294_967_296_u64 } })),
        "`inner.steps` of `call` must be from 0 to 4294967295, not 4294967296"
    );
    assert!(
        message(json!({ "inner": { "betas": [0.5, 1e300] } }))
            .starts_with("`inner.betas[1]` of `call` must be from -34")
    );
    assert_eq!(message(json!({ "lenght": 3 })), "`call` has no option `lenght`");
}
