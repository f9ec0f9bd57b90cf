//! `SpinQuantModifier` as options of the plugin `rotate`.

use serde_json::{Map, Value, json};
use workbench_model::arch::{LM_HEAD, recipes};

use super::fields::Fields;
use crate::error::{Error, Result};

/// Reads the modifier. The head size that its `transform_config` was written for comes back, where there is one.
pub(super) fn spinquant(fields: &mut Fields<'_>, options: &mut Map<String, Value>) -> Result<Option<u64>> {
    // That package reads `r1` as R1.
    let rotations = fields.texts("rotations")?.map(|names| names.iter().map(|n| n.to_uppercase()).collect::<Vec<_>>());
    if let Some(rotations) = &rotations {
        options.insert("rotations".to_owned(), json!(rotations));
    }
    let given = fields.text("transform_type")?.unwrap_or_else(|| "hadamard".to_owned());
    let kind = match given.as_str() {
        "hadamard" => "hadamard",
        "random-hadamard" => "random-hadamard",
        "random-matrix" => "random-orthogonal",
        other => {
            return Err(fields.wrong(
                "transform_type",
                &other.into(),
                "one of hadamard, random-hadamard, random-matrix",
            ));
        }
    };
    options.insert("kind".to_owned(), kind.into());
    fields.pass("transform_block_size", options, "block_size");
    fields.pass("seed", options, "seed");
    fields.must_be("randomize", &false.into(), "every place has one rotation")?;
    fields.must_be("learnable", &false.into(), "name the plugin `rotate` with `learn` instead")?;
    for key in ["mappings", "norm_mappings"] {
        fields.must_be(key, &Value::Null, "the layers are those of the model's own architecture")?;
    }
    match fields.text("precision")?.as_deref() {
        None | Some("float64" | "torch.float64") => {}
        Some(other) => {
            return Err(fields.wrong("precision", &other.into(), "torch.float64: rotations are folded in that"));
        }
    }
    match fields.take("transform_config") {
        None => Ok(None),
        Some(config) => {
            let rotations = rotations.unwrap_or_else(|| vec!["R1".to_owned(), "R2".to_owned()]);
            let block_size = options.get("block_size").cloned().unwrap_or_default();
            written_by_it(&config, &rotations, &given, &block_size).map_err(|what| {
                Error::usage(format!("`transform_config` is another transform than the keys beside it: {what}"))
                    .at("transform_config")
                    .hint("leave it out: rotations, transform_type and transform_block_size say what is rotated")
            })
        }
    }
}

/// Whether a `transform_config` is the one that the modifier itself writes into a saved recipe; what differs where it is not.
fn written_by_it(config: &Value, rotations: &[String], kind: &str, block_size: &Value) -> Result<Option<u64>, String> {
    let groups = config["config_groups"].as_object().ok_or("it has no `config_groups`")?;
    let mut names: Vec<&String> = rotations.iter().collect();
    names.sort();
    names.dedup();
    let mut found: Vec<&String> = groups.keys().collect();
    found.sort();
    if names != found {
        return Err(format!("its groups are {found:?}, and `rotations` are {names:?}"));
    }
    let mut head = None;
    for (name, group) in groups {
        let expected = [("type", Value::from(kind)), ("randomize", false.into()), ("requires_grad", false.into())];
        if let Some((key, value)) = expected.iter().find(|(key, value)| !group[*key].is_null() && group[*key] != *value)
        {
            return Err(format!("`{key}` of {name} is {}, not {value}", group[*key]));
        }
        if !places(&group["apply"], name) {
            return Err(format!("{name} applies to other places than {name} does"));
        }
        match name.as_str() {
            "R2" | "R3" => head = group["head_dim"].as_u64().or(head),
            _ if group["head_dim"] != *block_size => {
                return Err(format!("`head_dim` of {name} is {}, not {block_size}", group["head_dim"]));
            }
            _ => {}
        }
    }
    Ok(head)
}

/// Whether a rotation applies where the modifier lets it apply in models of these architectures.
fn places(apply: &Value, rotation: &str) -> bool {
    let linear = |name: &str| if name == LM_HEAD { name.to_owned() } else { format!("re:.*{name}$") };
    let at = |targets: &[&str], location: &str, inverse: bool| {
        let targets: Vec<String> = targets.iter().map(|name| linear(name)).collect();
        json!({ "targets": targets, "location": location, "inverse": inverse, "ignore": [] })
    };
    let Some(places) = recipes::rotation(rotation) else { return false };
    let expected: Vec<Value> =
        places.iter().map(|(modules, location, inverse)| at(modules, location, *inverse)).collect();
    let complete = |given: &Value| {
        let mut whole = json!({ "targets": [], "location": null, "inverse": false, "ignore": [] });
        whole.as_object_mut().into_iter().for_each(|keys| keys.extend(given.as_object().cloned().unwrap_or_default()));
        whole
    };
    let given: Vec<Value> = apply.as_array().into_iter().flatten().map(complete).collect();
    given == expected
}
