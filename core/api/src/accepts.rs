//! Which schemes a quantizer, or a trainer that learns codes, takes: part of its descriptor, so that a script is told while it runs and
//! nothing is loaded for it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a plugin asks of the schemes that it is given. Without limits it takes any.
///
/// ```
/// use workbench_api::accepts::Accepts;
/// use workbench_api::serde_json::json;
///
/// let accepts = Accepts::any_scheme().weights("strategy", ["channel", "group"], "clipping needs a scale per row or group");
/// let weights = json!({ "num_bits": 4, "strategy": "tensor" });
/// let refusal = accepts.refusal(&weights, &json!(null)).unwrap();
/// assert_eq!(refusal.key, "weights.strategy");
/// assert_eq!(refusal.message, "`strategy` of the weights is \"tensor\": clipping needs a scale per row or group");
/// assert_eq!(refusal.hint, "it takes \"channel\", \"group\"");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Accepts {
    /// Of the arguments of weights.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub weights: Vec<Limit>,
    /// Of the arguments of quantized inputs, where there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inputs: Vec<Limit>,
}

/// The values that a key of quantization arguments (`num_bits`, `strategy`, `observer`, …) may have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// The key.
    pub key: String,
    /// Its values; `null` stands for a key that is not given.
    pub values: Vec<Value>,
    /// Why, as the end of a sentence.
    pub why: String,
}

/// Why a scheme is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// `weights.strategy`
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What would do.
    pub hint: String,
}

impl Accepts {
    /// No limits.
    pub fn any_scheme() -> Self {
        Self::default()
    }

    /// Limits a key of the weights' arguments. `null` among the values stands for a key that is not given.
    #[must_use]
    pub fn weights<V: Into<Value>>(mut self, key: &str, values: impl IntoIterator<Item = V>, why: &str) -> Self {
        self.weights.push(Limit::new(key, values, why));
        self
    }

    /// Limits a key of the inputs' arguments. Schemes that leave inputs alone are not asked.
    #[must_use]
    pub fn inputs<V: Into<Value>>(mut self, key: &str, values: impl IntoIterator<Item = V>, why: &str) -> Self {
        self.inputs.push(Limit::new(key, values, why));
        self
    }

    /// Why a scheme of these arguments (JSON of workbench-quant's `QuantizationArgs`; `null` where there are none) is not
    /// taken; `None` if it is.
    pub fn refusal(&self, weights: &Value, inputs: &Value) -> Option<Refusal> {
        let parts = [("weights", &self.weights, weights), ("inputs", &self.inputs, inputs)];
        parts.into_iter().filter(|(.., args)| !args.is_null()).find_map(|(part, limits, args)| {
            let broken =
                limits.iter().find(|limit| !limit.values.contains(args.get(&limit.key).unwrap_or(&Value::Null)))?;
            let found = args.get(&broken.key).filter(|found| !found.is_null());
            let found = found.map_or_else(|| "not given".to_owned(), Value::to_string);
            let shown: Vec<String> =
                broken.values.iter().filter(|value| !value.is_null()).map(Value::to_string).collect();
            let hint = match (shown.is_empty(), broken.values.contains(&Value::Null)) {
                (true, true) => format!("leave `{}` out", broken.key),
                (true, false) => format!("it takes no `{}` of {part}", broken.key),
                (false, true) => format!("leave `{}` out, or write {}", broken.key, shown.join(", ")),
                (false, false) => format!("it takes {}", shown.join(", ")),
            };
            let message = format!("`{}` of the {part} is {found}: {}", broken.key, broken.why);
            Some(Refusal { key: format!("{part}.{}", broken.key), message, hint })
        })
    }
}

impl Limit {
    fn new<V: Into<Value>>(key: &str, values: impl IntoIterator<Item = V>, why: &str) -> Self {
        Self { key: key.to_owned(), values: values.into_iter().map(Into::into).collect(), why: why.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_not_given_is_null_and_no_inputs_are_not_asked() {
        let accepts = Accepts::any_scheme()
            .weights("observer", [Value::Null, "minmax".into()], "it chooses ranges itself")
            .inputs("dynamic", [true], "it calibrates nothing");
        assert_eq!(accepts.refusal(&json!({ "num_bits": 4 }), &Value::Null), None);
        assert_eq!(accepts.refusal(&json!({ "observer": null }), &json!({ "dynamic": true })), None);
        let refusal = accepts.refusal(&json!({ "observer": "mse" }), &Value::Null).unwrap();
        assert_eq!(
            (refusal.key.as_str(), refusal.hint.as_str()),
            ("weights.observer", "leave `observer` out, or write \"minmax\"")
        );
        let refusal = accepts.refusal(&json!({}), &json!({ "dynamic": false })).unwrap();
        assert_eq!(refusal.message, "`dynamic` of the inputs is false: it calibrates nothing");
    }

    /// A plugin built before there were limits has none, and a host of that time reads over them.
    #[test]
    fn descriptors_of_before_take_any_scheme() {
        assert_eq!(serde_json::from_value::<Accepts>(json!({})).unwrap(), Accepts::any_scheme());
        assert_eq!(serde_json::to_value(Accepts::any_scheme()).unwrap(), json!({}));
    }
}
