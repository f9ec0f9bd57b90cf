//! A value of the leaves that a file stores it as: "Dremel: Interactive Analysis of Web-Scale Datasets", Melnik et al., 2010.

use serde_json::{Map, Value};

use super::{
    Fault,
    leaf::Leaf,
    shape::{Kind, Node},
};

/// The next value of a column.
pub(super) fn value(node: &Node, leaves: &mut [Leaf]) -> Result<Value, Fault> {
    if level(node, leaves)?.0 < node.present {
        skip(node, leaves)?;
        return Ok(Value::Null);
    }
    match &node.kind {
        Kind::Text | Kind::Plain => own(node, leaves)?.take(),
        Kind::Struct(fields) => {
            agree(node, leaves)?;
            let mut members = Map::new();
            for (name, field) in fields {
                members.insert(name.clone(), value(field, leaves)?);
            }
            Ok(Value::Object(members))
        }
        Kind::List { filled, depth, item } => {
            let mut items = Vec::new();
            if level(node, leaves)?.0 < *filled {
                skip(node, leaves)?;
                return Ok(Value::Array(items));
            }
            loop {
                items.push(value(item, leaves)?);
                let goes_on = own(node, leaves)?.peek().map_or(0, |(_, next)| next);
                if goes_on > *depth {
                    return Err(Fault("a list goes on within an item that has ended".to_owned()));
                }
                if goes_on < *depth {
                    return Ok(Value::Array(items));
                }
            }
        }
    }
}

/// The first leaf of a value.
fn own<'a>(node: &Node, leaves: &'a mut [Leaf]) -> Result<&'a mut Leaf, Fault> {
    leaves.get_mut(node.first).ok_or_else(|| Fault("a column without leaves".to_owned()))
}

/// The levels of the next place of a value's first leaf.
fn level(node: &Node, leaves: &mut [Leaf]) -> Result<(i16, i16), Fault> {
    own(node, leaves)?.peek().ok_or_else(|| Fault("a row lacks values".to_owned()))
}

/// Sees that all leaves of a value that is there say so, and that it belongs to the same list.
fn agree(node: &Node, leaves: &mut [Leaf]) -> Result<(), Fault> {
    let depth = level(node, leaves)?.1;
    let own = leaves.get(node.first..node.first + node.count).unwrap_or_default();
    let same = |leaf: &Leaf| leaf.peek().is_some_and(|(present, next)| present >= node.present && next == depth);
    if own.iter().all(same) { Ok(()) } else { Err(Fault(DISAGREE.to_owned())) }
}

const DISAGREE: &str = "the parts of a value do not agree on whether it is there";

/// Passes a value that is null, or a list that is empty, in all of its leaves.
fn skip(node: &Node, leaves: &mut [Leaf]) -> Result<(), Fault> {
    let level = level(node, leaves)?;
    let own = leaves.get_mut(node.first..node.first + node.count);
    for leaf in own.ok_or_else(|| Fault("a column without leaves".to_owned()))? {
        if leaf.peek() != Some(level) {
            return Err(Fault(DISAGREE.to_owned()));
        }
        leaf.skip()?;
    }
    Ok(())
}
