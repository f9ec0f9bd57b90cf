//! What the nodes behind a table reported step by step.

use serde_json::Value;

use super::{input::NodeCurve, whose::Behind};
use crate::{
    error::Result,
    graph::{Graph, Key, NodeId},
    script::RowSpec,
    store::Store,
};

/// The curves of the nodes that have one, each named by what tells it from the others: the node alone, the rows behind which it
/// stands, or its key.
pub(super) fn curves(
    closure: &[NodeId],
    rows: &[RowSpec],
    graph: &Graph,
    keys: &[(Value, Key)],
    store: &Store,
) -> Result<Vec<NodeCurve>> {
    let behind = Behind::new(rows, graph);
    let mut found = Vec::new();
    for id in closure {
        let Ok(object) = store.object(&keys[id.0].1) else { continue };
        if let Some(curve) = object.curve()? {
            found.push((*id, curve));
        }
    }
    let several = found.len() > 1;
    let named = |(id, curve): (NodeId, _)| {
        let (label, of) = (graph.node(id).label.clone(), behind.named(&[id]));
        let name = if several && !of.is_empty() { format!("{label} ({of})") } else { label };
        (id, NodeCurve { name, curve })
    };
    let mut named: Vec<(NodeId, NodeCurve)> = found.into_iter().map(named).collect();
    let names: Vec<String> = named.iter().map(|(_, node)| node.name.clone()).collect();
    for (id, node) in &mut named {
        if names.iter().filter(|name| **name == node.name).count() > 1 {
            node.name += &format!(" {}", keys[id.0].1.short());
        }
    }
    Ok(named.into_iter().map(|(_, node)| node).collect())
}
