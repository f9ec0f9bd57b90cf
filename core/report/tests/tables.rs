//! Terminal tables, and the numbers behind them.

use unicode_width::UnicodeWidthStr;

use super::synthetic::*;
use super::*;

fn show(table: &Table, width: usize) -> String {
    terminal(&Analysis::new(table).unwrap(), Terminal { width: Some(width), color: false }).unwrap()
}

fn fits(text: &str, width: usize) {
    for line in text.lines() {
        assert!(line.width() <= width, "{} columns, not {width}: {line}", line.width());
    }
}

#[test]
fn ablation_wide() {
    let text = show(&ablation(), 200);
    fits(&text, 200);
    insta::assert_snapshot!(text);
}

#[test]
fn ablation_in_80_columns() {
    let text = show(&ablation(), 80);
    fits(&text, 80);
    insta::assert_snapshot!(text);
}

#[test]
fn contrasts() {
    let text = show(&contrasted(), 140);
    fits(&text, 140);
    insta::assert_snapshot!(text);
}

#[test]
fn seeds() {
    let text = show(&seeded(), 160);
    fits(&text, 160);
    insta::assert_snapshot!(text);
}

#[test]
fn one_row() {
    let mut table = ablation();
    table.rows.truncate(1);
    insta::assert_snapshot!(show(&table, 120));
}

#[test]
fn nothing_at_all() {
    insta::assert_snapshot!(show(&Table { name: "empty".into(), ..Table::default() }, 80));
}

#[test]
fn forty_rows_and_long_labels_fit_every_screen() {
    let name = "model.layers.*.mlp.down_proj and a very_long-selector/with/no_end";
    let rows = (0..40).map(|index| {
        let labels = json!({"method": format!("méthode {index} 量化"), "ignore": [name, "*.o_proj"], "n": index % 3});
        row(index, labels, 0.01 * index as f64, 0.02)
    });
    let mut table = Table { name: "large".into(), baseline: Some(0), rows: rows.collect(), ..Table::default() };
    table.rows[1].labels[1].1 = json!([]);
    table.rows[7].state = RowState::Missing;
    table.rows[7].tasks.clear();
    let analysis = Analysis::new(&table).unwrap();
    for width in [40, 60, 80, 100, 132, 250] {
        let text = terminal(&analysis, Terminal { width: Some(width), color: false }).unwrap();
        fits(&text, width);
        assert!(width < 60 || text.matches("not run yet").count() == 1, "{text}");
        // On narrow screens the words of a label stand on lines of their own.
        assert!(width < 100 || text.contains("méthode 39 量化"), "{text}");
    }
}

#[test]
fn many_labels_become_numbers_with_a_legend() {
    let names = |index: u64| {
        let entries = (0..9).map(|i| (format!("parameter_{i}"), json!(format!("value {}", index * (i + 1)))));
        Value::Object(entries.collect())
    };
    let rows = (0..3).map(|index| row(index, names(index), 0.1 * index as f64, 0.02)).collect();
    let text = show(&Table { name: "many".into(), baseline: Some(0), rows, ..Table::default() }, 80);
    fits(&text, 80);
    insta::assert_snapshot!(text);
}

#[test]
fn colour_adds_nothing_but_colour() {
    let table = ablation();
    let analysis = Analysis::new(&table).unwrap();
    let plain = terminal(&analysis, Terminal { width: Some(100), color: false }).unwrap();
    let color = terminal(&analysis, Terminal { width: Some(100), color: true }).unwrap();
    assert!(color.contains("\u{1b}[31m") && color.contains("\u{1b}[1m"));
    let mut stripped = color;
    for code in ["0", "1", "31", "32", "33"] {
        stripped = stripped.replace(&format!("\u{1b}[{code}m"), "");
    }
    assert_eq!(stripped, plain);
}

#[test]
fn no_baseline_and_unparsed_answers() {
    let mut table = ablation();
    table.baseline = None;
    table.rows.remove(0);
    table.rows[1].tasks[1].metrics[0].unparsed = 17;
    table.rows[2].stale_engine = true;
    insta::assert_snapshot!(show(&table, 130));
}
