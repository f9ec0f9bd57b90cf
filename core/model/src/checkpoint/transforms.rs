//! `transform_config` of compressed-tensors: rotations that the forward pass carries out.
//!
//! An entry of `config_groups` has a type and a list of applications, each at a location of some modules. Locations of weights
//! are history: the stored weights are rotated already. Of the others two are carried out: the input of every `down_proj` (R4),
//! and queries and keys of every attention (R3). `head_dim` is the size of the rotation, by default the whole row. Rotations
//! are `hadamard`: y = x Hᵀ / √n with the matrices of workbench-rotation, which for powers of two are those of
//! compressed-tensors, and which it lacks for other sizes.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};
use workbench_rotation::Hadamard;

use super::quantization::Target;
use crate::arch::{LM_HEAD, ModuleName, Role, attention_name};
use crate::config::OnlineRotations;
use crate::{ModelConfig, ModelError};

/// The rotations that a `config.json` asks for. `config` is what is known of the model otherwise.
pub(crate) fn online_rotations(
    config_json: &Value,
    config: &ModelConfig,
    file: &Path,
) -> Result<OnlineRotations, ModelError> {
    let mut online = OnlineRotations::default();
    let groups = match &stored_transforms(config_json)["config_groups"] {
        Value::Null => return Ok(online),
        Value::Object(groups) => groups.clone(),
        other => return Err(ModelError::config(file, format!("`transform_config.config_groups` is {other}"), "")),
    };
    for (name, group) in &groups {
        let group = Group { name, group, config, file };
        let [mut queries, mut keys] = [None; 2];
        for (index, apply) in group.applications()?.iter().enumerate() {
            let place = format!("`transform_config.config_groups.{name}.apply[{index}]`");
            let size = |lengths: &BTreeSet<usize>| group.size(apply, &place, lengths);
            let slot = match apply["location"].as_str() {
                Some("weight_input" | "weight_output") => continue,
                Some("input") => {
                    group.applies_to(apply, &place, &group.down_projections())?;
                    (&mut online.down, size(&config.down_features())?)
                }
                Some("q_attn") => {
                    group.applies_to(apply, &place, &group.attentions())?;
                    (&mut queries, size(&[config.head_dim].into())?)
                }
                Some("k_cache") => {
                    group.applies_to(apply, &place, &group.attentions())?;
                    (&mut keys, size(&[config.head_dim].into())?)
                }
                _ => {
                    let message = format!("{place} has the location {}, which is not supported", apply["location"]);
                    let down = ModuleName::Down.spelled();
                    let hint = format!("supported are input (of {down}), q_attn with k_cache, and weights");
                    return Err(group.error(message, &hint));
                }
            };
            if slot.0.replace(slot.1).is_some() {
                return Err(group.error(format!("{place} rotates what is rotated already"), ""));
            }
        }
        if queries != keys {
            let message = format!("`transform_config.config_groups.{name}` does not rotate queries and keys alike");
            return Err(group.error(message, "attention scores only stay as they are if both are"));
        }
        if queries.is_some() && online.heads.is_some() {
            return Err(
                group.error(format!("`transform_config.config_groups.{name}` rotates what is rotated already"), "")
            );
        }
        online.heads = online.heads.or(queries);
    }
    Ok(online)
}

/// The `transform_config` of a `config.json`; an empty object if there is none.
pub(crate) fn stored_transforms(config_json: &Value) -> Value {
    let outer = ["quantization_config", "compression_config"].into_iter().filter_map(|key| config_json.get(key));
    let found = outer.map(|outer| &outer["transform_config"]).find(|value| !value.is_null());
    found.cloned().unwrap_or_else(|| json!({}))
}

/// The `transform_config` that says what a model's online rotations are, for a patch of its `config.json`.
pub fn transform_config(online: OnlineRotations) -> Value {
    let apply = |targets: &str, location: &str, inverse: bool| json!({"targets": [targets], "location": location, "inverse": inverse, "ignore": []});
    let group = |size: usize, apply: [Value; 2]| {
        json!({"type": "hadamard", "apply": apply, "randomize": false, "requires_grad": false, "head_dim": size,
            "precision": "torch.float32"})
    };
    let targets = |module: ModuleName| format!("re:.*{}$", module.spelled());
    let mut groups = Map::new();
    if let Some(size) = online.heads {
        let targets = targets(ModuleName::Attention);
        groups.insert("R3".into(), group(size, [apply(&targets, "q_attn", false), apply(&targets, "k_cache", false)]));
    }
    if let Some(size) = online.down {
        let targets = targets(ModuleName::Down);
        groups
            .insert("R4".into(), group(size, [apply(&targets, "input", false), apply(&targets, "weight_input", true)]));
    }
    json!({ "config_groups": groups })
}

/// One entry of `config_groups`.
struct Group<'a> {
    name: &'a str,
    group: &'a Value,
    config: &'a ModelConfig,
    file: &'a Path,
}

impl Group<'_> {
    fn error(&self, message: String, hint: &str) -> ModelError {
        ModelError::config(self.file, message, hint)
    }

    fn applications(&self) -> Result<Vec<Value>, ModelError> {
        self.group["apply"].as_array().cloned().ok_or_else(|| {
            self.error(format!("`transform_config.config_groups.{}` has no list `apply`", self.name), "")
        })
    }

    fn down_projections(&self) -> Vec<String> {
        let linears = self.config.linears().into_iter();
        linears.filter(|linear| linear.role == Role::Down).map(|linear| linear.name).collect()
    }

    fn attentions(&self) -> Vec<String> {
        (0..self.config.num_layers).map(attention_name).collect()
    }

    /// An error unless the targets of an application are `expected` and no other module.
    fn applies_to(&self, apply: &Value, place: &str, expected: &[String]) -> Result<(), ModelError> {
        let read = |key: &str| -> Result<Vec<Target>, ModelError> {
            match &apply[key] {
                Value::Array(targets) => targets.iter().map(|target| Target::read(target, self.file)).collect(),
                Value::Null => Ok(Vec::new()),
                single => Ok(vec![Target::read(single, self.file)?]),
            }
        };
        let (targets, ignore) = (read("targets")?, read("ignore")?);
        let linears = self.config.linears().into_iter().map(|linear| linear.name);
        let modules = linears.chain(self.attentions()).chain([LM_HEAD.into()]);
        let fits = |among: &[Target], module: &str| among.iter().any(|target| target.fit(module).is_some());
        // `Linear` fits every name, but an attention is none.
        let expected: BTreeSet<&String> = expected.iter().collect();
        let chosen = |module: &String| fits(&targets, module) && !fits(&ignore, module);
        let mut wrong = modules.filter(|module| chosen(module) != expected.contains(module));
        match wrong.next() {
            None => Ok(()),
            Some(module) => {
                let (location, verb) = (&apply["location"], if chosen(&module) { "rotates" } else { "leaves out" });
                let message = format!("{place} at the location {location} {verb} `{module}`, which is not supported");
                let down = ModuleName::Down.spelled();
                Err(self.error(
                    message,
                    &format!("supported are the inputs of all `{down}`, and queries and keys of all blocks"),
                ))
            }
        }
    }

    /// The size of the rotation of rows of these lengths.
    fn size(&self, apply: &Value, place: &str, lengths: &BTreeSet<usize>) -> Result<usize, ModelError> {
        let name = self.name;
        if self.group["type"] != "hadamard" || self.group["randomize"] == true {
            let message = format!(
                "`transform_config.config_groups.{name}` rotates activations by the type {}{}, which is not supported",
                self.group["type"],
                if self.group["randomize"] == true { ", randomized" } else { "" }
            );
            return Err(self.error(message, "supported is hadamard, not randomized"));
        }
        if apply["inverse"] == true {
            return Err(self.error(format!("{place} rotates activations by the inverse, which is not supported"), ""));
        }
        let size = match &self.group["head_dim"] {
            // Whole rows, whatever their length: one rotation for all, where all are as long as the longest.
            Value::Null => lengths.last().copied().unwrap_or(0),
            size => size.as_u64().and_then(|size| usize::try_from(size).ok()).unwrap_or(0),
        };
        if let Some(length) = lengths.iter().find(|length| size == 0 || !length.is_multiple_of(size)) {
            let message = format!(
                "`transform_config.config_groups.{name}` has `head_dim` {}, which does not divide {length}",
                self.group["head_dim"]
            );
            return Err(self.error(message, ""));
        }
        Hadamard::new(size)
            .map_err(|error| self.error(format!("{place}: {error}"), &error.hint().unwrap_or_default()))?;
        Ok(size)
    }
}
