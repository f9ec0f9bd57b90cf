//! What the nodes behind a table reported step by step.

use serde_json::Value;

use super::{input::NodeCurve, whose::Behind};
use crate::{
    graph::{Graph, Key, NodeId},
    script::RowSpec,
    store::Store,
};

/// The curves of the nodes that have one. As with everything else that no value of the table depends on, a damaged result does without;
/// the curves are named by what tells each from the others: its label, the rows behind which it stands, or its key.
pub(super) fn curves(
    closure: &[NodeId],
    rows: &[RowSpec],
    graph: &Graph,
    keys: &[(Value, Key)],
    store: &Store,
) -> Vec<NodeCurve> {
    let behind = Behind::new(rows, graph);
    let mut found = Vec::new();
    for id in closure {
        let Ok(object) = store.object(&keys[id.0].1) else { continue };
        match object.curve() {
            Ok(curve) => found.extend(curve.map(|curve| (*id, curve))),
            Err(error) => tracing::warn!("{}: no curve in the report: {error}", graph.node(*id).label),
        }
    }
    let labels: Vec<String> = found.iter().map(|(id, _)| graph.node(*id).label.clone()).collect();
    let alone = |name: &str, names: &[String]| names.iter().filter(|other| *other == name).count() <= 1;
    let with_rows = |(id, label): (&NodeId, &String)| match behind.named(&[*id]) {
        of if of.is_empty() || alone(label, &labels) => label.clone(),
        of => format!("{label} ({of})"),
    };
    let names: Vec<String> = found.iter().map(|(id, _)| id).zip(&labels).map(with_rows).collect();
    let node = |((id, curve), name): ((NodeId, _), &String)| {
        let node = graph.node(id);
        let name = if alone(name, &names) { name.clone() } else { format!("{name} {}", keys[id.0].1.short()) };
        NodeCurve { name, method: format!("{} {}", node.kind, node.method), curve }
    };
    found.into_iter().zip(&names).map(node).collect()
}
