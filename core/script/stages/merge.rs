//! Two modifiers that quantize, as one call with a scheme for each of them.
//!
//! llm-compressor lets several modifiers of a recipe quantize different modules of a model; where two of them name the same module, the
//! later one has it. One call of `quantize` says the same where both round by the same method.

use serde_json::{Map, Value};
use workbench_model::arch::LM_HEAD;

use super::{Step, fields::texts};
use crate::error::{Error, Result};

/// Keys that say which modules get which scheme.
const SCHEMES: [&str; 4] = ["scheme", "targets", "config_groups", "ignore"];

/// Adds what a later modifier quantizes to an earlier one.
///
/// # Errors
/// The two round by different methods or options, or which modules each of them means cannot be said in one call.
pub(super) fn into(before: &mut Step, later: Step) -> Result<()> {
    let refused = |why: &str| {
        let message = format!("`{}` and `{}` both quantize the model, {why}", before.modifier, later.modifier);
        Error::usage(message)
            .hint("one modifier quantizes; groups of it, under `config_groups`, have schemes of their own")
    };
    if before.method != later.method {
        return Err(refused("by different methods"));
    }
    let others = |step: &Step| -> Map<String, Value> {
        let other = step.options.iter().filter(|(key, _)| !SCHEMES.contains(&key.as_str()));
        other.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let (cache, later_cache) = (before.options.get("kv_cache_scheme"), later.options.get("kv_cache_scheme"));
    let (mut own, mut new) = (others(before), others(&later));
    if cache.is_none() || later_cache.is_none() {
        own.shift_remove("kv_cache_scheme");
        new.shift_remove("kv_cache_scheme");
    }
    if own != new {
        return Err(refused("with different options"));
    }
    let ignored = |step: &Step| step.options.get("ignore").and_then(texts).unwrap_or_default();
    if without_head(ignored(before)) != without_head(ignored(&later)) {
        return Err(refused("and ignore different modules"));
    }
    let groups = groups(&later).ok_or_else(|| refused("and the later one means every linear"))?;
    let mut ignore = ignored(before);
    ignore.extend(ignored(&later).into_iter().filter(|name| !ignored(before).contains(name)));
    if before.options.contains_key("targets") {
        let own = self::groups(before).ok_or_else(|| refused("and the first one means every linear"))?;
        ["scheme", "targets"].iter().for_each(|key| drop(before.options.shift_remove(*key)));
        before.options.insert("config_groups".to_owned(), own.into());
    }
    let all = before.options.entry("config_groups").or_insert_with(|| Map::new().into());
    for (name, group) in groups {
        let taken = |name: &str| all.get(name).is_some();
        // A list of targets under a preset's name would become one of a preset that does not exist.
        let group = match group {
            Value::Object(_) => group,
            targets => serde_json::json!({ "scheme": name, "targets": targets }),
        };
        let free = (0..).map(|n| if n == 0 { name.clone() } else { format!("{name}_{n}") }).find(|name| !taken(name));
        all[free.unwrap_or_default()] = group;
    }
    if !ignore.is_empty() {
        before.options.insert("ignore".to_owned(), ignore.into());
    }
    if let Some(cache) = later.options.get("kv_cache_scheme") {
        before.options.insert("kv_cache_scheme".to_owned(), cache.clone());
    }
    Ok(())
}

/// What a recipe leaves alone beside `lm_head`, which is left alone here wherever it is not named.
fn without_head(mut ignored: Vec<String>) -> Vec<String> {
    ignored.retain(|name| name.strip_prefix("re:.*").unwrap_or(name) != LM_HEAD);
    ignored.sort();
    ignored
}

/// The schemes of a modifier as groups; `None` if one of them is for every linear.
fn groups(step: &Step) -> Option<Map<String, Value>> {
    let mut groups = match step.options.get("config_groups") {
        Some(Value::Object(groups)) => groups.clone(),
        _ => Map::new(),
    };
    if let Some(scheme) = step.options.get("scheme") {
        let targets = step.options.get("targets")?.clone();
        let mut group = match scheme {
            Value::Object(keys) => keys.clone(),
            name => Map::from_iter([("scheme".to_owned(), name.clone())]),
        };
        group.insert("targets".to_owned(), targets);
        let free = (0..).map(|n| format!("group_{n}")).find(|name| !groups.contains_key(name));
        groups.insert(free.unwrap_or_default(), group.into());
    }
    Some(groups)
}
