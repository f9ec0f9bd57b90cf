//! Nodes and the graph that holds them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::params::Params;
pub use crate::identity::{NodeKind, Origin};
use crate::{
    error::Result,
    identity::{FileDigests, Key, canonical::canonical, digest::KnownFile},
};

/// A node of this graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NodeId(pub usize);

/// A model that exists before the run: a Hugging Face folder or a GGUF file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceModel {
    /// As the user named it.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The files that decide its meaning.
    pub files: Vec<PathBuf>,
    /// Files that would decide it too, if they were there.
    pub absent: Vec<PathBuf>,
}

/// Where a node takes a model from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The artifact of another node.
    Node(NodeId),
    /// A model that is there already.
    Source(SourceModel),
}

/// Data that another node makes: rows with a text or a conversation in a column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeData {
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// The column of texts or conversations.
    pub column: String,
}

/// Data that a node reads: a file, a text that the workbench itself generates, or what another node makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataSource {
    /// A file, by its path.
    File(PathBuf),
    /// A generated text, by its name (`stories/train`).
    Demo(String),
    /// The file that another node makes. In a job, a path stands in its place.
    Node(MadeData),
}

/// The role of a task file among the data of a node.
pub const TASK_FILE: &str = "task";

/// The plugin that a node runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginUse {
    /// Its name.
    pub name: String,
    /// Its identity: name, version and digest. Part of the key.
    pub identity: Value,
    /// The file to load, as it was when it was asked for that identity. Not part of the key.
    pub file: KnownFile,
}

/// One step of an experiment.
#[derive(Clone, Debug)]
pub struct Node {
    pub kind: NodeKind,
    /// The plugin or the task: `rtn`, `perplexity`.
    pub method: String,
    /// What distinguishes it, for people.
    pub label: String,
    /// Everything that can change the result, with defaults filled in.
    pub params: Params,
    /// Models by their role: `model`, `reference`, `teacher`.
    pub inputs: BTreeMap<String, Input>,
    /// Data by role: `text`, `calibration`, `items`, `prompts`.
    pub data: BTreeMap<String, DataSource>,
    pub plugin: Option<PluginUse>,
    pub origin: Origin,
    /// Peak memory that the node is expected to need. Not part of the key.
    pub memory: MemoryNeed,
    /// Bytes that its artifact is expected to take. Not part of the key.
    pub disk: u64,
    /// Bytes on disk that it is expected to need beside that while it runs. Not part of the key.
    pub scratch: u64,
    /// A note for the plan: how many layers matched, and the like.
    pub note: String,
}

impl Node {
    /// The files that it reads from outside of the store, its plugin aside.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let models = self.inputs.values().flat_map(|input| match input {
            Input::Source(source) => source.files.as_slice(),
            Input::Node(_) => &[],
        });
        let data = self.data.values().filter_map(|source| match source {
            DataSource::File(path) => Some(path),
            DataSource::Demo(_) | DataSource::Node(_) => None,
        });
        models.chain(data).map(PathBuf::as_path)
    }
}

/// Peak memory that a node is expected to need, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryNeed {
    /// What it cannot do without.
    pub held: u64,
    /// Activations of a calibration set, of which only what half of the limit holds stays in memory: the rest lies in files.
    pub spilled: u64,
}

impl MemoryNeed {
    /// What it comes to for a node that may use this much.
    pub fn within(self, limit: u64) -> u64 {
        self.held.saturating_add(self.spilled.min(limit / 2))
    }
}

impl From<u64> for MemoryNeed {
    fn from(held: u64) -> Self {
        Self { held, spilled: 0 }
    }
}

/// The nodes of an experiment, each after its inputs. Asking twice for the same thing yields the same node.
#[derive(Debug, Default)]
pub struct Graph {
    pub(super) nodes: Vec<Node>,
    /// The labels that they were added with.
    pub(super) bases: Vec<String>,
    known: BTreeMap<String, NodeId>,
}

impl Graph {
    /// Adds a node, or returns the one that already means the same.
    pub fn add(&mut self, node: Node) -> NodeId {
        let inputs: BTreeMap<_, _> = node
            .inputs
            .iter()
            .map(|(role, input)| {
                let text = match input {
                    Input::Node(id) => format!("node {}", id.0),
                    Input::Source(source) => format!("source {}", source.path.display()),
                };
                (role.clone(), text)
            })
            .collect();
        let plugin = node.plugin.as_ref().map(|p| &p.identity);
        let meaning = canonical(&json!({
            "kind": node.kind, "method": node.method, "params": node.params, "inputs": inputs, "data": node.data, "plugin": plugin,
        }));
        *self.known.entry(meaning).or_insert_with(|| {
            self.bases.push(node.label.clone());
            self.nodes.push(node);
            NodeId(self.nodes.len() - 1)
        })
    }

    /// The node of an id that this graph gave out.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0]
    }

    /// All nodes, inputs first.
    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.nodes.iter().enumerate().map(|(i, n)| (NodeId(i), n))
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node and everything that it needs, inputs first.
    pub fn closure(&self, wanted: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let mut needed = vec![false; self.nodes.len()];
        let mut stack: Vec<_> = wanted.into_iter().collect();
        while let Some(id) = stack.pop() {
            if !std::mem::replace(&mut needed[id.0], true) {
                stack.extend(self.parents(id));
            }
        }
        (0..self.nodes.len()).filter(|&i| needed[i]).map(NodeId).collect()
    }

    /// The nodes whose artifacts a node reads.
    pub fn parents(&self, id: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let node = &self.nodes[id.0];
        let models = node.inputs.values().filter_map(|input| match input {
            Input::Node(parent) => Some(*parent),
            Input::Source(_) => None,
        });
        let data = node.data.values().filter_map(|source| match source {
            DataSource::Node(made) => Some(made.node),
            DataSource::File(_) | DataSource::Demo(_) => None,
        });
        models.chain(data)
    }

    /// The identities and keys of all nodes, in order. Reads the files that nodes depend on, through `digests`.
    pub fn identities(&self, digests: &mut FileDigests) -> Result<Vec<(Value, Key)>> {
        let mut done: Vec<(Value, Key)> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let identity = identity(node, &done, digests)?;
            let key = Key::of(&identity);
            done.push((identity, key));
        }
        Ok(done)
    }
}

/// The ending of a file's name, in small letters.
fn ending(path: &Path) -> String {
    path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase()
}

/// The meaning of a node, given those of the nodes before it.
fn identity(node: &Node, done: &[(Value, Key)], digests: &mut FileDigests) -> Result<Value> {
    let mut inputs = serde_json::Map::new();
    for (role, input) in &node.inputs {
        let value = match input {
            Input::Node(id) => json!({ "node": done[id.0].1 }),
            Input::Source(source) => json!({ "source": digests.files(&source.files)? }),
        };
        inputs.insert(role.clone(), value);
    }
    let mut data = serde_json::Map::new();
    // What a task file says is among the parameters: a comment in it changes no key.
    for (role, source) in node.data.iter().filter(|(role, _)| *role != TASK_FILE) {
        let value = match source {
            // A file's ending says how it is read: the same bytes are other data as lines of JSON than as running text.
            DataSource::File(path) => json!({ "file": digests.file(path)?, "ending": ending(path) }),
            DataSource::Demo(name) => json!({ "demo": name, "version": crate::engine::demo() }),
            DataSource::Node(made) => json!({ "node": done[made.node.0].1 }),
        };
        data.insert(role.clone(), value);
    }
    Ok(json!({
        "kind": node.kind,
        "method": node.method,
        "params": node.params,
        "inputs": inputs,
        "data": data,
        "plugin": node.plugin.as_ref().map(|p| p.identity.clone()),
        "engine": crate::engine::digests(node.kind),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::params::{Begin, Evaluate, Generate, Items, Toggle};

    fn node(params: Params, data: impl IntoIterator<Item = (&'static str, DataSource)>) -> Node {
        Node {
            kind: params.kind(),
            method: "m".into(),
            label: "l".into(),
            params,
            inputs: BTreeMap::new(),
            data: data.into_iter().map(|(role, source)| (role.to_owned(), source)).collect(),
            plugin: None,
            origin: Origin::default(),
            memory: MemoryNeed::default(),
            disk: 0,
            scratch: 0,
            note: String::new(),
        }
    }

    #[test]
    fn who_reads_what_a_node_makes_comes_behind_it_and_is_known_by_it() {
        let keys = |seed| {
            let begin = Begin::Starts { count: None, greedy_tokens: [3, 5] };
            let (n, max_tokens, temperature, top_p, batch_size) = (1, 8, 1.0, 1.0, 1);
            let (top_k, add_bos) = (None, Toggle::Auto);
            let params =
                Generate { begin, n, max_tokens, temperature, top_p, top_k, seed: Some(seed), add_bos, batch_size };
            let mut graph = Graph::default();
            let made = graph.add(node(Params::Generate(params), []));
            let source = MadeData { node: made, name: "texts".into(), column: "text".into() };
            let items = Items { file: json!({}), limit: None, batch_size: 1, task: "t".into() };
            let params = Params::Evaluate(Evaluate::Items(items));
            let reads = graph.add(node(params, [("text", DataSource::Node(source))]));
            assert_eq!(graph.parents(reads).collect::<Vec<_>>(), [made]);
            assert_eq!(graph.closure([reads]), [made, reads]);
            assert_eq!(graph.node(reads).files().count(), 0);
            let identities = graph.identities(&mut FileDigests::default()).unwrap();
            assert_eq!(identities[reads.0].0["data"]["text"], json!({ "node": identities[made.0].1 }));
            [made, reads].map(|id| identities[id.0].1.clone())
        };
        assert_eq!(keys(1), keys(1));
        let (one, two) = (keys(1), keys(2));
        assert!(one[0] != two[0] && one[1] != two[1], "what is read is another text");
    }

    #[test]
    fn an_ending_decides_how_a_file_is_read_and_a_name_nothing() {
        for (name, same, other) in [("a.txt", "b.TXT", "a.jsonl"), ("a.json", "c.json", "a.csv"), ("a", "b", "a.tsv")] {
            let (name, same, other) = (Path::new(name), Path::new(same), Path::new(other));
            assert_eq!(ending(name), ending(same));
            assert_ne!(ending(name), ending(other));
        }
    }
}
