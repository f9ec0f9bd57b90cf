//! What is left of a script that ran for several seeds.

use super::{Builder, ReportSpec, RowSpec};

/// The label that rows get where a script runs for several seeds.
pub(super) const LABEL: &str = "seed";

impl Builder {
    /// Makes one row, without a seed, of rows that are the same nodes whatever the seed: nothing was drawn for them.
    pub fn fold_seeds(&mut self) {
        let (mut drawn, mut folded) = (0, 0);
        for report in &mut self.reports {
            let before = report.rows.len();
            fold(report);
            folded += before - report.rows.len();
            drawn += report.rows.iter().filter(|row| seed_of(row).is_some()).count();
        }
        match (drawn, folded) {
            (_, 0) => {}
            (0, _) => self.warn(
                "no step of the script draws numbers, so that every seed gives the same: each row is shown once, without a seed".to_owned(),
            ),
            _ => self.warn("rows for which no step draws numbers are the same with every seed, and shown once".to_owned()),
        }
    }
}

fn seed_of(row: &RowSpec) -> Option<&serde_json::Value> {
    row.labels.last().filter(|(key, _)| key == LABEL).map(|(_, seed)| seed)
}

fn fold(report: &mut ReportSpec) {
    let rest = |row: &RowSpec| row.labels[..row.labels.len() - usize::from(seed_of(row).is_some())].to_vec();
    let rows = std::mem::take(&mut report.rows);
    let same = |row: &RowSpec| {
        let twins: Vec<&RowSpec> = rows.iter().filter(|r| seed_of(r).is_some() && rest(r) == rest(row)).collect();
        let alone = !rows.iter().any(|r| seed_of(r).is_none() && r.labels == rest(row));
        alone && twins.len() > 1 && twins.iter().all(|twin| twin.tasks == row.tasks)
    };
    let folds: Vec<bool> = rows.iter().map(|row| seed_of(row).is_some() && same(row)).collect();
    let baseline = report.baseline;
    for (index, (row, folds)) in rows.iter().zip(folds).enumerate() {
        if baseline == Some(index) {
            report.baseline = Some(report.rows.len());
        }
        let labels = if folds { rest(row) } else { row.labels.clone() };
        if folds && report.rows.iter().any(|known| known.labels == labels) {
            continue;
        }
        report.rows.push(RowSpec { labels, ..row.clone() });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::graph::{NodeId, node::Origin};

    #[test]
    fn rows_that_draw_nothing_are_one() {
        let row = |name: &str, seed: Option<u64>, node: usize| RowSpec {
            labels: [("bits".to_owned(), json!(name))]
                .into_iter()
                .chain(seed.map(|s| (LABEL.to_owned(), json!(s))))
                .collect(),
            tasks: vec![("t".to_owned(), NodeId(node))],
            origin: Origin::default(),
        };
        let report = |rows: Vec<RowSpec>| ReportSpec {
            name: "r".into(),
            baseline: Some(2),
            rows,
            contrasts: vec![],
            margins: vec![],
            heat_maps: vec![],
            written: true,
            origin: Origin::default(),
        };
        let rows = vec![
            row("4", Some(0), 1),
            row("4", Some(1), 1),
            row("16", None, 0),
            row("3", Some(0), 2),
            row("3", Some(1), 3),
        ];
        let mut builder = Builder { reports: vec![report(rows)], ..Builder::default() };
        builder.fold_seeds();
        let found = &builder.reports[0];
        let labels: Vec<usize> = found.rows.iter().map(|row| row.labels.len()).collect();
        assert_eq!((labels, found.baseline), (vec![1, 1, 2, 2], Some(1)));
        assert!(builder.warnings[0].contains("shown once"), "{:?}", builder.warnings);

        let mut all = Builder {
            reports: vec![report(vec![row("4", Some(0), 1), row("4", Some(1), 1), row("16", None, 0)])],
            ..Builder::default()
        };
        all.fold_seeds();
        assert_eq!(all.reports[0].rows.len(), 2);
        assert!(all.warnings[0].contains("no step of the script draws"), "{:?}", all.warnings);
    }
}
