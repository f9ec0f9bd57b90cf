//! Digests of the host code that runs a node, taken by the build script over the sources and their locked dependencies.
//!
//! They are part of every key: a change of the decoder makes perplexities new, a change of the report does not. Which folders make
//! up a part is written down in `parts.rs`; that each kind names the parts that its step imports is held by a test.

use serde_json::{Map, Value};

use crate::identity::NodeKind;

/// Digest by part of the house.
const DIGESTS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/digests.rs"));

/// The parts that a kind of node runs.
fn parts_of(kind: NodeKind) -> &'static [&'static str] {
    match kind {
        NodeKind::Transform => &[
            "quant",
            "model",
            "data",
            "calib",
            "params",
            "targets",
            "common",
            "artifact",
            "host",
            "transform",
            "dependencies",
        ],
        NodeKind::Quantize => &[
            "quant",
            "model",
            "data",
            "calib",
            "params",
            "targets",
            "common",
            "artifact",
            "host",
            "schemes",
            "quantize",
            "dependencies",
        ],
        NodeKind::Train => &[
            "quant",
            "model",
            "data",
            "eval",
            "params",
            "targets",
            "common",
            "artifact",
            "host",
            "schemes",
            "train",
            "dependencies",
        ],
        NodeKind::Evaluate => &["quant", "model", "data", "eval", "params", "common", "evaluate", "dependencies"],
        NodeKind::Generate => &["quant", "model", "data", "eval", "params", "common", "generate", "dependencies"],
    }
}

/// The parts that a kind of node runs, with their digests.
pub fn digests(kind: NodeKind) -> Value {
    let parts = parts_of(kind);
    let found = DIGESTS.iter().filter(|(name, _)| parts.contains(name));
    Value::Object(found.map(|(name, digest)| ((*name).to_owned(), Value::from(*digest))).collect::<Map<_, _>>())
}

/// The digest of the code that generates the demo's texts.
pub fn demo() -> &'static str {
    digest("demo")
}

/// The digest of the code that makes tables of records.
pub fn report() -> &'static str {
    digest("report")
}

fn digest(part: &str) -> &'static str {
    DIGESTS.iter().find(|(name, _)| *name == part).map_or("", |(_, digest)| digest)
}

#[cfg(test)]
mod parts;
#[cfg(test)]
mod tests;
