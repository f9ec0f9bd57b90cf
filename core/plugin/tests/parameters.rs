//! Parameters against schemas that schemars gives for structs as plugin authors write them.

use schemars::{JsonSchema, schema_for};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use workbench_api::schemars;

use super::super::{Descriptor, Kind, Scope, validate, validate_noting};
use super::{descriptor, object};
use crate::schema::ParameterError;

#[derive(Serialize, Deserialize, JsonSchema, PartialEq, Debug)]
#[serde(rename_all = "snake_case")]
enum Schedule {
    /// Falls as a cosine.
    Cosine,
    Linear,
    Constant,
}

#[derive(Serialize, Deserialize, JsonSchema, PartialEq, Debug)]
#[serde(default, deny_unknown_fields)]
struct Inner {
    #[schemars(extend("aliases" = ["rounds"]))]
    steps: u32,
    betas: [f32; 2],
}

impl Default for Inner {
    fn default() -> Self {
        Self { steps: 10, betas: [0.9, 0.95] }
    }
}

#[derive(Serialize, Deserialize, JsonSchema, PartialEq, Debug)]
#[serde(default, deny_unknown_fields)]
struct Parameters {
    #[schemars(range(min = 0.0, max = 1.0), extend("aliases" = ["percdamp", "damp"]))]
    dampening_frac: f64,
    #[schemars(range(min = 1, max = 256))]
    block_size: u32,
    offset: i32,
    schedule: Schedule,
    second: Option<Schedule>,
    limit: Option<u32>,
    inner: Inner,
    layers: Vec<String>,
    fast: bool,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            dampening_frac: 0.01,
            block_size: 128,
            offset: -1,
            schedule: Schedule::Cosine,
            second: None,
            limit: None,
            inner: Inner::default(),
            layers: Vec::new(),
            fast: false,
        }
    }
}

fn plugin() -> Descriptor {
    Descriptor {
        name: "p".to_owned(),
        kind: Kind::Quantizer,
        scope: Scope::Linear,
        version: "1.0.0".to_owned(),
        summary: String::new(),
        paper: None,
        grid_version: 0,
        source_digest: None,
        schema: schema_for!(Parameters).to_value(),
        defaults: serde_json::to_value(Parameters::default()).unwrap(),
        needs: Default::default(),
        accepts: Default::default(),
        takes_experts: false,
        quantizes: false,
        starts_from: Default::default(),
        scheme_optional: false,
        examples: Vec::new(),
    }
}

fn valid(given: Value) -> Value {
    validate(&plugin(), &given).unwrap_or_else(|error| panic!("{given}: {error}"))
}

fn invalid(given: Value) -> ParameterError {
    match validate(&plugin(), &given) {
        Err(error) => error,
        Ok(valid) => panic!("{given} passed as {valid}"),
    }
}

#[test]
fn defaults_are_filled_in_the_structs_order() {
    let all = valid(json!({ "fast": true, "block_size": 64 }));
    let read: Parameters = serde_json::from_value(all.clone()).unwrap();
    assert_eq!(read, Parameters { fast: true, block_size: 64, ..Default::default() });
    // Single precision, in the digits of its author.
    assert_eq!(all["inner"]["betas"].to_string(), "[0.9,0.95]");
    let keys: Vec<&String> = all.as_object().unwrap().keys().collect();
    assert_eq!(keys[..3], ["dampening_frac", "block_size", "offset"]);
    assert_eq!(valid(Value::Null), valid(json!({})));
}

#[test]
fn equal_meanings_are_equal_text() {
    let text = |given| valid(given).to_string();
    assert_eq!(
        text(json!({ "dampening_frac": 1, "block_size": 64.0 })),
        text(json!({ "block_size": 64, "dampening_frac": 1.0 }))
    );
    assert_eq!(valid(json!({ "dampening_frac": 1 }))["dampening_frac"], json!(1.0));
    assert_eq!(valid(json!({ "offset": -4.0 }))["offset"], json!(-4));
    assert_eq!(valid(json!({ "inner": { "betas": [1, 0] } }))["inner"], json!({ "betas": [1.0, 0.0], "steps": 10 }));
    assert_eq!(valid(json!({ "limit": 3.0 }))["limit"], json!(3));
}

#[test]
fn whatever_passes_is_read_by_the_plugin() {
    for given in [
        json!({}),
        json!({ "second": "linear", "limit": null, "layers": ["a", "b"] }),
        json!({ "inner": { "steps": 3 }, "schedule": "constant" }),
    ] {
        let read: Parameters = serde_json::from_value(valid(given.clone())).unwrap();
        let directly: Parameters = serde_json::from_value(given).unwrap();
        assert_eq!(read, directly);
    }
}

#[test]
fn unknown_keys_get_the_likeliest_name() {
    let hint = |given: Value| invalid(given).hint.unwrap();
    assert_eq!(hint(json!({ "blok_size": 1 })), "did you mean `block_size`?");
    assert_eq!(hint(json!({ "percdam": 0.1 })), "did you mean `percdamp`?");
    assert!(hint(json!({ "zzz": 0 })).starts_with("known here: dampening_frac, block_size"));
    let nested = invalid(json!({ "inner": { "step": 3 } }));
    assert_eq!((nested.key.as_str(), nested.message.as_str()), ("inner.step", "unknown parameter `inner.step`"));
    assert_eq!(nested.hint.unwrap(), "did you mean `steps`?");
}

#[test]
fn aliases_are_the_parameters_that_they_name() {
    for alias in ["percdamp", "damp"] {
        let (found, notes) = validate_noting(&plugin(), &json!({ alias: 1, "inner": { "rounds": 3 } })).unwrap();
        assert_eq!(
            found,
            valid(json!({ "dampening_frac": 1.0, "inner": { "steps": 3 } })),
            "the same text, the same key"
        );
        assert_eq!(found.to_string(), valid(json!({ "inner": { "steps": 3 }, "dampening_frac": 1 })).to_string());
        let told = [
            format!("`{alias}` is called `dampening_frac` here"),
            "`inner.rounds` is called `inner.steps` here".into(),
        ];
        assert_eq!(notes, told);
    }
    assert_eq!(
        invalid(json!({ "damp": 2 })).message,
        "parameter `dampening_frac` must be at least 0.0 and at most 1.0, not 2.0"
    );
    for twice in [json!({ "damp": 0.1, "dampening_frac": 0.1 }), json!({ "damp": 0.1, "percdamp": 0.2 })] {
        let error = invalid(twice);
        assert!(error.message.ends_with("are names of one parameter, and both are given"), "{}", error.message);
    }
    let (_, notes) = validate_noting(&plugin(), &json!({ "dampening_frac": 0.1 })).unwrap();
    assert!(notes.is_empty(), "{notes:?}");
}

#[test]
fn wrong_types_and_ranges_say_what_is_right() {
    let message = |given: Value| invalid(given).message;
    assert_eq!(
        message(json!({ "block_size": "64" })),
        "parameter `block_size` must be an integer, not the string \"64\""
    );
    assert_eq!(message(json!({ "block_size": 2.5 })), "parameter `block_size` must be an integer, not 2.5");
    assert_eq!(message(json!({ "fast": 1 })), "parameter `fast` must be true or false, not 1");
    assert_eq!(message(json!({ "block_size": 0 })), "parameter `block_size` must be at least 1 and at most 256, not 0");
    assert_eq!(
        message(json!({ "dampening_frac": 1.5 })),
        "parameter `dampening_frac` must be at least 0.0 and at most 1.0, not 1.5"
    );
    assert_eq!(
        message(json!({ "limit": "no" })),
        "parameter `limit` must be an integer or absent, not the string \"no\""
    );
    assert_eq!(
        message(json!({ "inner": { "betas": [1] } })),
        "parameter `inner.betas` must have at least 2 items, not 1"
    );
    assert_eq!(message(json!({ "layers": [1] })), "parameter `layers[0]` must be a string, not 1");
    assert_eq!(message(json!([1])), "parameters of `p` must be an object, not an array");
}

#[test]
fn choices_are_listed() {
    let error = invalid(json!({ "schedule": "cosin" }));
    assert_eq!(
        error.message,
        "parameter `schedule` must be one of \"linear\", \"constant\", \"cosine\", not \"cosin\""
    );
    assert_eq!(error.hint.unwrap(), "did you mean \"cosine\"?");
    assert!(invalid(json!({ "second": "x" })).message.contains("\"linear\""));
}

#[test]
fn descriptors_of_real_plugins_validate() {
    let plugin = descriptor("sign_linear");
    assert_eq!(object(validate(&plugin, &json!({ "dampening_frac": 0 })).unwrap())["dampening_frac"], json!(0.0));
    let (parameters, notes) = validate_noting(&plugin, &json!({ "percdamp": 0.5 })).unwrap();
    assert_eq!(parameters, validate(&plugin, &json!({ "dampening_frac": 0.5 })).unwrap());
    assert_eq!(notes, ["`percdamp` is called `dampening_frac` here"]);
    assert!(validate(&descriptor("misbehave"), &json!({ "fault": "nan_scale" })).is_ok());
}
