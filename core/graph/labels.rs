//! Labels that tell the nodes of a graph apart.
//!
//! A label says what a person calls a node: the task, the steps that led to the model. Where two nodes have the same one, what differs in
//! them is added to it, as little as tells them apart, the shortest first: `quantize gptq W4A16 (dampening_fraction 0.1)`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{Graph, Input, NodeId, node::DataSource};

/// Longer values are not spelled out.
const LONGEST: usize = 40;

/// In the path of what decides a node that makes data, behind the role of these.
const MADE: &str = ":made>";

/// What a node and the nodes before it were told: values by their path, and their texts for people.
type Facts = BTreeMap<String, String>;

impl Graph {
    /// Gives every node a label of its own.
    pub fn distinguish(&mut self) {
        let mut same: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        self.bases.iter().enumerate().for_each(|(index, base)| same.entry(base).or_default().push(index));
        let groups: Vec<Vec<usize>> = same.into_values().collect();
        let mut facts: Vec<Option<Facts>> = vec![None; self.len()];
        for group in groups {
            let differences = match group.len() {
                1 => vec![String::new()],
                _ => {
                    let known: Vec<Facts> = group.iter().map(|index| self.facts(NodeId(*index), &mut facts)).collect();
                    differences(&known)
                }
            };
            for (index, difference) in group.into_iter().zip(differences) {
                let base = &self.bases[index];
                self.nodes[index].label =
                    if difference.is_empty() { base.clone() } else { format!("{base} ({difference})") };
            }
        }
    }

    /// What decides a node, with that of its inputs behind their roles.
    fn facts(&self, id: NodeId, known: &mut Vec<Option<Facts>>) -> Facts {
        if let Some(facts) = &known[id.0] {
            return facts.clone();
        }
        let node = self.node(id);
        let mut facts = Facts::new();
        leaves("", &json!(node.params), &mut facts);
        for (role, source) in &node.data {
            let name = match source {
                DataSource::File(path) => path.display().to_string(),
                DataSource::Demo(name) => format!("demo:{name}"),
                DataSource::Node(made) => {
                    for (path, text) in self.facts(made.node, known) {
                        facts.insert(format!("{role}{MADE}{path}"), text);
                    }
                    made.name.clone()
                }
            };
            facts.insert(format!("{role}:data"), name);
        }
        facts.insert("method".into(), node.method.clone());
        if let Some(plugin) = &node.plugin {
            facts.insert("plugin".into(), super::canonical::canonical(&plugin.identity));
        }
        for (role, input) in &node.inputs {
            match input {
                Input::Source(source) => {
                    drop(facts.insert(format!("{role}:source"), source.path.display().to_string()))
                }
                Input::Node(parent) => {
                    for (path, text) in self.facts(*parent, known) {
                        facts.insert(format!("{role}>{path}"), text);
                    }
                }
            }
        }
        known[id.0] = Some(facts.clone());
        facts
    }
}

/// The leaves of a value by their paths.
fn leaves(path: &str, value: &Value, found: &mut Facts) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(&path, value, found);
            }
        }
        Value::Array(items) if items.iter().any(Value::is_object) => {
            items.iter().enumerate().for_each(|(index, item)| leaves(&format!("{path}[{index}]"), item, found));
        }
        // Nothing at all is no value.
        _ if path.is_empty() => {}
        _ => drop(found.insert(path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

/// One thing in which nodes differ.
struct Column {
    /// Whether it is how data were made, which is told where their name does not tell enough.
    made: bool,
    /// How many nodes lie between it and the node that it tells apart.
    depth: usize,
    values: Vec<String>,
    /// The values as words of a label.
    texts: Vec<String>,
}

impl Column {
    /// Where it stands among others: what can be spelled out, the shortest, the nearest.
    fn place(&self) -> (bool, bool, usize, usize) {
        let longest = self.texts.iter().map(|text| text.chars().count()).max().unwrap_or(0);
        (self.values.iter().any(|value| value.chars().count() > LONGEST), self.made, longest, self.depth)
    }
}

/// For each of several nodes, what tells it from the others.
fn differences(nodes: &[Facts]) -> Vec<String> {
    let paths: BTreeSet<&String> = nodes.iter().flat_map(Facts::keys).collect();
    let value = |node: &Facts, path: &str| node.get(path).cloned().unwrap_or_default();
    let differing =
        paths.into_iter().filter(|path| nodes.iter().any(|node| value(node, path) != value(&nodes[0], path)));
    let mut columns: Vec<Column> = differing
        .map(|path| {
            let values: Vec<String> = nodes.iter().map(|node| value(node, path)).collect();
            let made = path.contains(MADE);
            Column { made, depth: path.matches('>').count(), texts: shown(path, &values), values }
        })
        .collect();
    columns.sort_by_key(Column::place);
    let classes = |chosen: &[usize]| -> usize {
        let class = |node: usize| chosen.iter().map(|c| &columns[*c].values[node]).collect::<Vec<_>>();
        (0..nodes.len()).map(class).collect::<BTreeSet<_>>().len()
    };
    let mut chosen: Vec<usize> = Vec::new();
    while classes(&chosen) < nodes.len() {
        let more = |column: usize| classes(&[&chosen[..], &[column]].concat());
        // The one that tells most apart; of those alike, the first.
        let best = (0..columns.len()).filter(|c| !chosen.contains(c)).rev().max_by_key(|column| more(*column));
        match best.filter(|column| more(*column) > classes(&chosen)) {
            Some(column) => chosen.push(column),
            None => break,
        }
    }
    chosen.sort_unstable();
    let text = |node: usize| chosen.iter().map(|c| columns[*c].texts[node].clone()).collect::<Vec<_>>().join(", ");
    (0..nodes.len()).map(text).collect()
}

/// The values of a path as words of a label, different where they are.
fn shown(path: &str, values: &[String]) -> Vec<String> {
    let last = path.rsplit('>').next().unwrap_or(path);
    let (key, kind) = last.split_once(':').unwrap_or((last, ""));
    let key = key.rsplit('.').next().unwrap_or(key).split('[').next().unwrap_or(key);
    let short = |text: &String| if text.is_empty() || text == "null" { "none".to_owned() } else { text.clone() };
    let values: Vec<String> = match kind {
        // A file's own name is enough, unless files in different folders share it.
        "data" | "source" => file_names(values),
        _ => values.iter().map(short).collect(),
    };
    let known: BTreeSet<&String> = values.iter().collect();
    let ordinal = |value: &String| known.iter().position(|known| *known == value).unwrap_or(0) + 1;
    let too_long = values.iter().any(|value| value.chars().count() > LONGEST);
    let text = |value: &String| if too_long { format!("{key} #{}", ordinal(value)) } else { format!("{key} {value}") };
    values.iter().map(text).collect()
}

fn file_names(paths: &[String]) -> Vec<String> {
    let name = |path: &String| path.rsplit('/').next().unwrap_or(path).to_owned();
    let names: Vec<String> = paths.iter().map(name).collect();
    let distinct = |of: &[String]| of.iter().collect::<BTreeSet<_>>().len();
    if distinct(&names) == distinct(paths) { names } else { paths.to_vec() }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::graph::{
        MemoryNeed, Node,
        node::{Origin, SourceModel},
        params::{Evaluate, Items, Params, Transform, WeightDtype},
    };

    fn own(parameters: Value) -> Params {
        Params::Transform(Transform { dtype: WeightDtype::default(), calibration: None, parameters })
    }

    fn node(method: &str, label: &str, params: Params, model: Input) -> Node {
        Node {
            kind: params.kind(),
            method: method.into(),
            label: label.into(),
            params,
            inputs: BTreeMap::from([("model".to_owned(), model)]),
            data: BTreeMap::new(),
            plugin: None,
            origin: Origin::default(),
            memory: MemoryNeed::default(),
            disk: 0,
            scratch: 0,
            note: String::new(),
        }
    }

    fn base() -> Input {
        Input::Source(SourceModel { name: "m".into(), path: PathBuf::from("m"), files: Vec::new(), absent: Vec::new() })
    }

    #[test]
    fn labels_differ_where_nodes_do() {
        let mut graph = Graph::default();
        let quantized: Vec<NodeId> = [0.01, 0.1]
            .iter()
            .map(|damp| {
                graph.add(node(
                    "gptq",
                    "quantize gptq W4",
                    own(json!({ "dampening_fraction": damp, "seed": 0 })),
                    base(),
                ))
            })
            .collect();
        for id in &quantized {
            let items = Items { file: json!({}), limit: Some(4), batch_size: 1, task: "facts".into() };
            let params = Params::Evaluate(Evaluate::Items(items));
            graph.add(node("choice", "evaluate facts of gptq W4", params, Input::Node(*id)));
        }
        let alone = graph.add(node("rtn", "quantize rtn W4", own(json!({})), base()));
        graph.distinguish();
        let labels: Vec<&str> = graph.nodes().map(|(_, node)| node.label.as_str()).collect();
        assert_eq!(
            labels,
            [
                "quantize gptq W4 (dampening_fraction 0.01)",
                "quantize gptq W4 (dampening_fraction 0.1)",
                "evaluate facts of gptq W4 (dampening_fraction 0.01)",
                "evaluate facts of gptq W4 (dampening_fraction 0.1)",
                "quantize rtn W4",
            ]
        );
        // Again, behind another node, from the labels that they were given.
        graph.add(node("rtn", "quantize rtn W4", own(json!({ "seed": 3 })), base()));
        graph.distinguish();
        assert_eq!(graph.node(alone).label, "quantize rtn W4 (seed none)");
        assert_eq!(graph.node(NodeId(0)).label, "quantize gptq W4 (dampening_fraction 0.01)");
    }

    #[test]
    fn as_little_is_shown_as_tells_them_apart_and_the_shortest_first() {
        let facts = |seed: &str, modules: &str, rate: &str| {
            Facts::from([
                ("parameters.seed".to_owned(), seed.to_owned()),
                ("groups[0].modules".to_owned(), modules.to_owned()),
                ("parameters.learning_rate".to_owned(), rate.to_owned()),
            ])
        };
        let long = |c: &str| c.repeat(200);
        assert_eq!(differences(&[facts("0", &long("a"), "0.5"), facts("1", &long("b"), "0.25")]), ["seed 0", "seed 1"]);
        assert_eq!(
            differences(&[facts("0", "a", "1"), facts("1", "a", "1"), facts("0", "a", "2"), facts("1", "a", "2")]),
            [
                "seed 0, learning_rate 1",
                "seed 1, learning_rate 1",
                "seed 0, learning_rate 2",
                "seed 1, learning_rate 2"
            ]
        );
        assert_eq!(
            differences(&[facts("0", &long("a"), "1"), facts("0", &long("b"), "1")]),
            ["modules #1", "modules #2"]
        );
        // Data have a name, and how they were made says more where it does not tell.
        let made = |name: &str, n: &str| {
            Facts::from([("data:data".to_owned(), name.to_owned()), ("data:made>n".to_owned(), n.to_owned())])
        };
        assert_eq!(differences(&[made("some texts", ""), made("others", "1")]), ["data some texts", "data others"]);
        assert_eq!(differences(&[made("texts", "1"), made("texts", "2")]), ["n 1", "n 2"]);
        let files = |path: &str| Facts::from([("text:data".to_owned(), path.to_owned())]);
        assert_eq!(differences(&[files("x/a.txt"), files("x/b.txt")]), ["text a.txt", "text b.txt"]);
        assert_eq!(differences(&[files("x/a.txt"), files("y/a.txt")]), ["text x/a.txt", "text y/a.txt"]);
    }
}
