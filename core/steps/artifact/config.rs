//! The config.json of a model in the making.

use serde_json::Value;
use workbench_model::checkpoint::Dtype;

use crate::graph::params::WeightDtype;

/// JSON merge patch, RFC 7396, except that a `null` stays in the patch so that it can remove a key later.
pub(in crate::steps) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A config.json with a patch applied: what the patch sets to `null` is gone.
pub(in crate::steps) fn patched(config: &Value, patch: &Value) -> Value {
    let (Value::Object(config), Value::Object(patch)) = (config, patch) else {
        return if patch.is_null() { config.clone() } else { patch.clone() };
    };
    let mut result = config.clone();
    for (key, change) in patch {
        if change.is_null() {
            result.shift_remove(key);
        } else {
            let old = result.get(key).cloned().unwrap_or_default();
            result.insert(key.clone(), patched(&old, change));
        }
    }
    Value::Object(result)
}

/// The dtype that weights are written in.
pub(in crate::steps) fn stored_as(dtype: WeightDtype) -> Dtype {
    match dtype {
        WeightDtype::Float32 => Dtype::F32,
        WeightDtype::Float16 => Dtype::F16,
        WeightDtype::Bfloat16 => Dtype::BF16,
    }
}

/// A config.json that names the dtype, in the spelling that it had.
pub(in crate::steps) fn with_dtype(config: &Value, dtype: WeightDtype) -> Value {
    let mut config = config.clone();
    let key = if config.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    config[key] = dtype.name().into();
    config
}
