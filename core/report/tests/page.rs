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

/// A falling loss, and a rate that rises and falls.
fn training(name: &str, steps: u64, rate: f64) -> NodeCurve {
    let mut curve = crate::store::Curve::default();
    for step in 1..=steps {
        let share = step as f64 / steps as f64;
        curve.set(step, "loss", 2.0 + 3.0 * (-5.0 * share).exp() + 0.1 * (step as f64).sin());
        curve.set(step, "learning_rate", rate * (0.1_f64).max((std::f64::consts::PI * share).sin()));
    }
    NodeCurve { name: name.into(), method: "train sft".into(), curve }
}

fn trained() -> Table {
    Table {
        name: "trained".into(),
        curves: vec![training("train sft (lr=0.001)", 3000, 1e-3), training("train sft (lr=5e-5)", 200, 5e-5)],
        ..showcase()
    }
}

/// Points of each line of a panel, in the units of its picture.
fn lines(panel: &str) -> Vec<Vec<(f64, f64)>> {
    let paths = panel.split("<path class=\"line").skip(1).map(|rest| rest.split_once(" d=\"").unwrap().1);
    let point = |point: &str| {
        let (x, y) = point.trim_end_matches("h0").split_once(' ').unwrap();
        (x.parse().unwrap(), y.parse().unwrap())
    };
    paths.map(|path| path.split('"').next().unwrap().split(['M', 'L']).skip(1).map(point).collect()).collect()
}

#[test]
fn curves_are_drawn_one_panel_for_each_metric() {
    assert!(!page(&showcase()).contains("<h2>Curves"));
    let (plain, page) = (page(&showcase()), page(&trained()));
    assert_eq!(page.matches("<figure").count(), plain.matches("<figure").count() + 2);
    let panels: Vec<&str> = page.split("<figure class=\"card curve\">").skip(1).collect();
    assert!(panels[0].starts_with("\n<figcaption>loss</figcaption>"), "the loss comes first");
    assert!(
        panels[1].starts_with("\n<figcaption>learning_rate<small>logarithmic axis</small>"),
        "{}",
        &panels[1][..200]
    );
    for panel in &panels {
        let found = lines(panel);
        assert_eq!(found.len(), 2);
        // Peaks stay, points between them need not.
        assert!(found[0].len() < 2400 && (36..=200).contains(&found[1].len()), "{} {}", found[0].len(), found[1].len());
        assert!(found.iter().flatten().all(|(x, y)| (0.0..=640.0).contains(x) && (0.0..=270.0).contains(y)));
        // Both begin at step 1; the longer one ends at the right.
        let (long, short) = (found[0].last().unwrap().0, found[1].last().unwrap().0);
        assert!(found[0][0].0 == found[1][0].0 && long > 600.0 && (short - 78.0) / (long - 78.0) < 0.07);
        assert!(panel.contains(">step</text>") && panel.matches("class=\"swatch\"").count() == 2);
        assert!(panel.contains("train sft (lr=0.001)</span>"));
    }
    let loss = &lines(panels[0])[1];
    // Another method's loss is another quantity.
    let mut table = trained();
    table.curves.push(NodeCurve { method: "transform rotate".into(), ..training("rotated", 9, 1e-3) });
    let page = self::page(&table);
    for (title, lines) in [("loss of train sft<", 2), ("loss of transform rotate<", 1)] {
        let (_, panel) = page.split_once(&format!("<figcaption>{title}")).unwrap();
        assert_eq!(self::lines(panel.split("</figure>").next().unwrap()).len(), lines, "{title}");
    }
    let (first, last) = (loss[0], loss[loss.len() - 1]);
    assert!(first.1 < 60.0 && last.1 > 190.0, "it falls: {first:?} {last:?}");
}

#[test]
fn curves_of_any_numbers_make_a_page() {
    let mut table = trained();
    let mut odd = crate::store::Curve::default();
    for (step, value) in [(1, f64::NAN), (2, 0.0), (3, f64::INFINITY), (4, -1e300), (5, 1e300), (u64::MAX, 0.0)] {
        odd.set(step, "loss", value);
        odd.set(7, &format!("metric {step}<&"), value);
    }
    table.curves.push(NodeCurve { name: "</svg>".into(), method: "train sft".into(), curve: odd });
    table.curves.extend((0..40).map(|i| training(&format!("seed {i}"), 3, 1e-3)));
    let page = page(&table);
    assert!(page.contains("19 further nodes are not drawn") && page.contains("gaps where 2 numbers are not finite"));
    assert!(!page.contains("NaN") && !page.contains("</svg></span>") && page.contains("metric 1&lt;&amp;"));
    let (before, rest) = page.split_once("<style>").unwrap();
    assert_well_formed(&format!("{before}{}", rest.split_once("</style>").unwrap().1));
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
        ("trained", trained()),
    ] {
        std::fs::write(std::path::Path::new(&folder).join(format!("{name}.html")), page(&table)).unwrap();
    }
}
