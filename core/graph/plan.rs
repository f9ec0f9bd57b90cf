//! The plan: which nodes of a graph are done already, which have to run, and why.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use serde_json::Value;

use super::{FileDigests, Graph, Input, Key, NodeId, canonical::differences, digest::KnownFile};
use crate::{
    error::{Error, Result},
    store::{Store, changed_file},
};

/// What a run has to do about a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The store holds its result.
    Cached,
    /// It has to run.
    Pending,
}

/// A node with its key and state.
#[derive(Clone, Debug)]
pub struct PlanNode {
    pub id: NodeId,
    pub key: Key,
    /// The whole meaning that the key is the hash of.
    pub identity: Value,
    pub state: State,
}

/// The nodes that a set of wanted nodes needs, inputs first.
#[derive(Debug, Default)]
pub struct Plan {
    pub nodes: Vec<PlanNode>,
    /// The identities and keys of all nodes of the graph, planned or not.
    pub identities: Vec<(Value, Key)>,
    /// The files that pending nodes read from outside of the store, as they were when the keys were made.
    pub files: BTreeMap<PathBuf, KnownFile>,
}

impl Plan {
    /// Plans the wanted nodes. A node whose result is stored needs no inputs, so what only it would have read is left out.
    ///
    /// # Errors
    /// A file that a key depends on cannot be read, or a stored result that the plan counts on is damaged.
    pub fn new(graph: &Graph, wanted: &[NodeId], store: &Store, digests: &mut FileDigests) -> Result<Self> {
        let identities = graph.identities(digests)?;
        let mut state: Vec<Option<State>> = vec![None; graph.len()];
        let mut stack = wanted.to_vec();
        while let Some(id) = stack.pop() {
            if state[id.0].is_none() {
                let key = &identities[id.0].1;
                let cached = store.holds(key);
                if cached {
                    store.check(key).map_err(|e| e.context(format!("{} cannot be used", graph.node(id).label)))?;
                }
                state[id.0] = Some(if cached { State::Cached } else { State::Pending });
                if !cached {
                    stack.extend(graph.parents(id));
                }
            }
        }
        let planned = |(i, (identity, key)): (usize, &(Value, Key))| {
            state[i].map(|state| PlanNode { id: NodeId(i), key: key.clone(), identity: identity.clone(), state })
        };
        let wanted = state.iter().enumerate().filter(|(_, state)| state.is_some());
        check_sources(graph, wanted.map(|(id, _)| NodeId(id)), digests)?;
        let nodes: Vec<PlanNode> = identities.iter().enumerate().filter_map(planned).collect();
        let pending = nodes.iter().filter(|node| node.state == State::Pending);
        let read = pending.flat_map(|node| graph.node(node.id).files());
        let files = read.filter_map(|path| Some((path.to_owned(), digests.asked(path)?.clone()))).collect();
        Ok(Self { nodes, identities, files })
    }

    /// The planned node of an id.
    pub fn find(&self, id: NodeId) -> Option<&PlanNode> {
        self.nodes.iter().find(|n| n.id == id)
    }

    /// How many nodes have to run.
    pub fn pending(&self) -> usize {
        self.nodes.iter().filter(|n| n.state == State::Pending).count()
    }
}

/// Refuses a model that was saved with other files than those that lie in its folder now: a bit that a disk or a copy flipped would give
/// another number without a word.
fn check_sources(graph: &Graph, nodes: impl Iterator<Item = NodeId>, digests: &mut FileDigests) -> Result<()> {
    let inputs = nodes.flat_map(|id| graph.node(id).inputs.values());
    let folders: BTreeSet<&PathBuf> = inputs
        .filter_map(|input| match input {
            Input::Source(source) => Some(&source.path),
            Input::Node(_) => None,
        })
        .collect();
    for folder in folders {
        if let Some(file) = changed_file(folder, &mut |path| digests.file(path))? {
            return Err(Error::refused(format!("`{}` does not hold what was saved", file.display()))
                .hint("save the model again, or copy the file anew")
                .hint("if the change is meant, remove `manifest.json` from the folder"));
        }
    }
    Ok(())
}

/// Why a node is not cached: the differences to the most similar stored node of its kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// Nothing of this kind and method was ever stored.
    New,
    /// The fewest leaves at which a stored node differs: (path, stored value, value now).
    Changed(Vec<(String, Value, Value)>),
}

/// Compares a node with every stored identity of the same kind and method.
pub fn why(node: &PlanNode, stored: &[Value]) -> Reason {
    stored
        .iter()
        .filter(|old| old["kind"] == node.identity["kind"] && old["method"] == node.identity["method"])
        .map(|old| differences(old, &node.identity))
        .min_by_key(Vec::len)
        .map_or(Reason::New, Reason::Changed)
}

/// A reason as one line for people: `params.group_size 128 -> 64`, `engine.quant changed`.
pub fn describe(reason: &Reason) -> String {
    let changes = match reason {
        Reason::New => return "never ran".to_owned(),
        Reason::Changed(changes) => changes,
    };
    let mut words: Vec<String> = changes.iter().map(|(path, old, new)| describe_change(path, old, new)).collect();
    words.dedup();
    words.join(", ")
}

fn describe_change(path: &str, old: &Value, new: &Value) -> String {
    let opaque = |what: &str| format!("{what} changed");
    match path.split('.').next() {
        Some("inputs") => opaque(&format!("input {}", path.split('.').nth(1).unwrap_or("model"))),
        Some("engine") => opaque(&format!("engine ({})", path.split('.').nth(1).unwrap_or_default())),
        Some("data") => opaque(&format!("data ({})", path.split('.').nth(1).unwrap_or_default())),
        Some("plugin") if path.ends_with("digest") => opaque("plugin sources"),
        _ => format!("{} {old} -> {new}", path.strip_prefix("params.").unwrap_or(path)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_nearest_stored_node_explains_a_miss() {
        let identity =
            json!({"kind": "quantize", "method": "rtn", "params": {"g": 64, "s": 1}, "engine": {"quant": "b"}});
        let node = PlanNode { id: NodeId(0), key: Key::of(&identity), identity, state: State::Pending };
        let far = json!({"kind": "quantize", "method": "rtn", "params": {"g": 32, "s": 2}, "engine": {"quant": "a"}});
        let near = json!({"kind": "quantize", "method": "rtn", "params": {"g": 128, "s": 1}, "engine": {"quant": "a"}});
        let other = json!({"kind": "evaluate", "method": "rtn", "params": {"g": 64, "s": 1}, "engine": {"quant": "b"}});
        let reason = why(&node, &[far, near, other.clone()]);
        assert_eq!(describe(&reason), "engine (quant) changed, g 128 -> 64");
        assert_eq!(why(&node, &[other]), Reason::New);
    }
}
