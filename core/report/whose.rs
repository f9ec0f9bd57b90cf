//! Which rows a line under the table is about.

use std::collections::BTreeSet;

use super::{input::Labels, labels};
use crate::{
    graph::{Graph, NodeId},
    script::RowSpec,
    words::listed,
};

/// The nodes behind each row.
pub(super) struct Behind<'a>(Vec<(&'a Labels, BTreeSet<usize>)>);

impl<'a> Behind<'a> {
    pub(super) fn new(rows: &'a [RowSpec], graph: &Graph) -> Self {
        let behind =
            |row: &RowSpec| graph.closure(row.tasks.iter().map(|task| task.1)).into_iter().map(|id| id.0).collect();
        Self(rows.iter().map(|row| (&row.labels, behind(row))).collect())
    }

    /// The rows behind which one of these nodes stands, as a person tells them from the others: by one label, by two, or each by its own.
    pub(super) fn named(&self, nodes: &[NodeId]) -> String {
        let about = |row: &(&Labels, BTreeSet<usize>)| nodes.iter().any(|node| row.1.contains(&node.0));
        let chosen: Vec<bool> = self.0.iter().map(about).collect();
        let pairs: Vec<&(String, serde_json::Value)> =
            self.0.iter().zip(&chosen).filter(|(_, chosen)| **chosen).flat_map(|(row, _)| row.0.iter()).collect();
        let tells = |wanted: &[&(String, serde_json::Value)]| {
            self.0.iter().zip(&chosen).all(|(row, chosen)| wanted.iter().all(|pair| row.0.contains(pair)) == *chosen)
        };
        let shown = |pair: &(String, serde_json::Value)| format!("{}={}", pair.0, labels::text(&pair.1));
        if let Some(pair) = pairs.iter().find(|pair| tells(&[**pair])) {
            return shown(pair);
        }
        let both = pairs.iter().flat_map(|one| pairs.iter().map(move |two| [*one, *two])).find(|both| tells(both));
        if let Some([one, two]) = both {
            return format!("{} {}", shown(one), shown(two));
        }
        let each: Vec<String> =
            self.0.iter().zip(&chosen).filter(|(_, c)| **c).map(|(row, _)| labels::line(row.0)).collect();
        listed(&each, 3)
    }
}

/// Lines of one kind, each with the nodes that say it: where there are several, each names its rows.
pub(super) fn attributed(lines: Vec<(String, NodeId)>, behind: &Behind<'_>) -> Vec<String> {
    let kind = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    let mut grouped: Vec<(String, Vec<NodeId>)> = Vec::new();
    for (line, node) in lines {
        match grouped.iter_mut().find(|(known, _)| *known == line) {
            Some((_, nodes)) => nodes.push(node),
            None => grouped.push((line, vec![node])),
        }
    }
    let several = |line: &str| grouped.iter().filter(|(other, _)| kind(other) == kind(line)).count() > 1;
    let named = |(line, nodes): &(String, Vec<NodeId>)| {
        let rows = behind.named(nodes);
        match line.split_once(':').filter(|_| several(line) && !rows.is_empty()) {
            Some((kind, rest)) => format!("{kind} ({rows}):{rest}"),
            None => line.clone(),
        }
    };
    grouped.iter().map(named).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_named_by_what_tells_them_from_the_others() {
        let labels = |method: &str, bits: u32| -> Labels {
            vec![("method".to_owned(), json!(method)), ("bits".to_owned(), json!(bits))]
        };
        let all = [labels("gptq", 4), labels("gptq", 3), labels("rtn", 4), labels("awq", 4)];
        let behind = Behind(all.iter().enumerate().map(|(i, labels)| (labels, BTreeSet::from([i]))).collect());
        let named = |rows: &[usize]| behind.named(&rows.iter().map(|row| NodeId(*row)).collect::<Vec<_>>());
        assert_eq!(named(&[0, 1]), "method=gptq");
        assert_eq!(named(&[0]), "method=gptq bits=4");
        assert_eq!(named(&[0, 2, 3]), "bits=4");
        assert_eq!(named(&[0, 2]), "method=gptq bits=4 and method=rtn bits=4");
        let lines = vec![
            ("calibration: a".to_owned(), NodeId(0)),
            ("calibration: b".to_owned(), NodeId(2)),
            ("calibration: a".to_owned(), NodeId(1)),
            ("other: c".to_owned(), NodeId(0)),
        ];
        assert_eq!(
            attributed(lines, &behind),
            ["calibration (method=gptq): a", "calibration (method=rtn): b", "other: c"]
        );
    }
}
