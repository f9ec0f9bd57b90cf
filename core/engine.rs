//! Digests of the host code that runs a node, taken by the build script over the sources and their locked dependencies.
//!
//! They are part of every key: a change of the decoder makes perplexities new, a change of the report does not.

use serde_json::{Map, Value};

use crate::identity::NodeKind;

macro_rules! digests {
    ($($name:literal),* $(,)?) => {
        &[$(($name, env!(concat!("WORKBENCH_ENGINE_", $name)))),*]
    };
}

/// Digest by part of the house.
const DIGESTS: &[(&str, &str)] = digests!(
    "quant",
    "model",
    "data",
    "calib",
    "eval",
    "services",
    "quantize",
    "transform",
    "train",
    "evaluate",
    "dependencies"
);

/// The parts that a kind of node runs, with their digests.
pub fn digests(kind: NodeKind) -> Value {
    let parts: &[&str] = match kind {
        NodeKind::Transform => &["quant", "model", "data", "calib", "services", "transform", "dependencies"],
        NodeKind::Quantize => &["quant", "model", "data", "calib", "services", "quantize", "dependencies"],
        NodeKind::Train => &["quant", "model", "data", "services", "train", "dependencies"],
        NodeKind::Evaluate => &["quant", "model", "data", "eval", "evaluate", "dependencies"],
    };
    let found = DIGESTS.iter().filter(|(name, _)| parts.contains(name));
    Value::Object(found.map(|(name, digest)| ((*name).to_owned(), Value::from(*digest))).collect::<Map<_, _>>())
}

/// The digest of the code that generates the demo's texts.
pub fn demo() -> &'static str {
    env!("WORKBENCH_ENGINE_demo")
}
