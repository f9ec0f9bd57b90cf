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
