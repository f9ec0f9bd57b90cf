//! What an evaluation yields.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// One line of `items.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Item {
    /// Equal for equal items of different models.
    pub id: String,
    /// How many observations it stands for: the scored tokens of a block, 1 for a question.
    pub weight: f64,
    /// Sums over those observations, by metric.
    pub sums: BTreeMap<String, f64>,
    /// What was chosen or written, for whoever wants to look.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub detail: Value,
    /// No answer could be read; it counts as wrong.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unparsed: bool,
}

/// Unit of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Nats per token.
    Nats,
    /// A share between 0 and 1.
    Rate,
}

/// A metric of an evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricInfo {
    pub name: String,
    pub unit: Unit,
    pub higher_is_better: bool,
}

/// The outcome of one task on one model.
#[derive(Clone, Debug)]
pub struct Measured {
    pub items: Vec<Item>,
    /// The metrics, the one for tables first.
    pub metrics: Vec<MetricInfo>,
    /// One line that says how it was scored. Only equal lines are comparable.
    pub protocol: String,
    /// More for the record.
    pub facts: Value,
    /// Values beside the metrics' means.
    pub extra: Map<String, Value>,
}

impl Measured {
    /// The quotient of the totals of a metric.
    pub fn mean(&self, metric: &str) -> f64 {
        let weight: f64 = self.items.iter().map(|i| i.weight).sum();
        self.items.iter().map(|i| i.sums[metric]).sum::<f64>() / weight
    }

    /// All values by name, as the record holds them.
    pub fn values(&self) -> Value {
        let mut values: Map<String, Value> =
            self.metrics.iter().map(|m| (m.name.clone(), self.mean(&m.name).into())).collect();
        values.extend(self.extra.clone());
        values.insert("items".into(), self.items.len().into());
        values.insert("unparsed".into(), self.items.iter().filter(|i| i.unparsed).count().into());
        Value::Object(values)
    }

    /// What the record says about the measurement.
    pub fn description(&self) -> Value {
        json!({ "protocol": self.protocol, "metrics": self.metrics, "facts": self.facts })
    }
}
