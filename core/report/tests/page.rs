//! The HTML page: complete, self-contained, well-formed, and nobody's text is markup.

use super::synthetic::*;
use super::*;

fn page(table: &Table) -> String {
    html(&Analysis::new(table).unwrap()).unwrap()
}

/// Every tag that is opened is closed, in order; attributes are quoted.
fn assert_well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let body = page.strip_prefix("<!DOCTYPE html>").unwrap();
    for piece in body.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').unwrap();
        assert!(!text.contains('>'), "stray > in {text}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "in {tag}");
        } else if !tag.ends_with('/') && !tag.starts_with("meta") {
            open.push(tag.split([' ', '\n']).next().unwrap());
        }
    }
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn pages_are_well_formed() {
    let mut tables = vec![ablation(), contrasted(), seeded(), showcase(), sensitivity(), Table::default()];
    tables.push(Table { rows: ablation().rows[..1].to_vec(), ..Table::default() });
    tables.push(Table { rows: ablation().rows[5..].to_vec(), baseline: Some(0), ..Table::default() });
    for table in tables {
        let page = page(&table);
        // The style sheet has child combinators; they are no tags.
        let (before, rest) = page.split_once("<style>").unwrap();
        let (_, after) = rest.split_once("</style>").unwrap();
        assert_well_formed(&format!("{before}{after}"));
        assert!(!page.contains("NaN") && !page.contains("inf%"), "not a number in {}", table.name);
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let page = page(&showcase());
    for outside in ["<script", "http:", "https:", "src=", "@import", "url(", "<link", "<iframe"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert_eq!(page, self::page(&showcase()), "equal input gives equal bytes");
}

#[test]
fn text_is_never_markup() {
    const EVIL: &str = "</style><script>alert(\"1\")</script>&'";
    let mut table = showcase();
    table.name = EVIL.into();
    table.script = EVIL.into();
    table.remarks = vec![EVIL.into()];
    table.provenance = vec![(EVIL.into(), EVIL.into())];
    for row in &mut table.rows {
        row.labels.push((EVIL.into(), json!([EVIL, row.tasks.len()])));
        row.model.engine = Some(EVIL.into());
        row.model.compute_dtype = Some(EVIL.into());
        for task in &mut row.tasks {
            (task.task, task.protocol) = (format!("{}{EVIL}", task.task), EVIL.into());
        }
    }
    table.rows[5].state = RowState::Failed { message: EVIL.into() };
    table.contrasts.push(contrast(json!({EVIL: EVIL}), json!({EVIL: 1})));
    for node in &mut table.graph.nodes {
        (node.label, node.kind) = (EVIL.into(), EVIL.into());
        node.state += EVIL;
    }
    let page = page(&table);
    assert!(!page.contains("<script") && !page.contains("alert(\"1"));
    assert!(page.matches("alert(&quot;1&quot;)").count() > 20);
    let (before, rest) = page.split_once("<style>").unwrap();
    assert_well_formed(&format!("{before}{}", rest.split_once("</style>").unwrap().1));
}

#[test]
fn every_row_and_metric_is_drawn() {
    let table = showcase();
    let page = page(&table);
    // Differences of two declared contrasts for two metrics, estimates of six rows for four metrics.
    assert_eq!(page.matches("<figure").count(), 2 + 4);
    assert_eq!(page.matches("<circle").count(), 2 * 2 + 4 * 5);
    assert_eq!(page.matches("<g class=\"node").count(), table.graph.nodes.len());
    for position in page.split("cx=\"").skip(1).map(|rest| rest.split_once('%').unwrap().0) {
        let position: f64 = position.parse().unwrap();
        assert!(position > 0.0 && position < 100.0, "{position}");
    }
    for text in ["failed: quantize rtn: killed", "McNemar", "Smallest detectable difference", "0123abc4567def89"] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn wide_ranges_get_a_logarithmic_axis() {
    let page = page(&large());
    assert!(page.contains("wikitext ppl<small>95 % interval over items, dashed: baseline, logarithmic axis"));
    assert!(page.contains("world acc %<small>95 % interval over items, dashed: baseline<"));
}

/// Writes the pages for a person to look at: `WORKBENCH_REPORT_PAGES=FOLDER cargo test pages_to_look_at`.
#[test]
fn pages_to_look_at() {
    let Some(folder) = std::env::var_os("WORKBENCH_REPORT_PAGES") else { return };
    for (name, table) in [
        ("showcase", showcase()),
        ("seeds", seeded()),
        ("large", large()),
        ("ablation", ablation()),
        ("sensitivity", sensitivity()),
    ] {
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), page(&table)).unwrap();
    }
}
