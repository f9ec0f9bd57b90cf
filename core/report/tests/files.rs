//! CSV and Markdown.

use polars::prelude::{DataFrame, DataType};
use polars_io::SerReader;
use polars_io::csv::read::CsvReadOptions;

use super::synthetic::*;
use super::*;

fn read(text: &str) -> DataFrame {
    let options = CsvReadOptions::default().with_infer_schema_length(None);
    options.into_reader_with_file_handle(std::io::Cursor::new(text.to_owned())).finish().unwrap()
}

fn number(frame: &DataFrame, column: &str, row: usize) -> Option<f64> {
    frame.column(column).unwrap().cast(&DataType::Float64).unwrap().f64().unwrap().get(row)
}

#[test]
fn markdown_of_the_ablation() {
    insta::assert_snapshot!(markdown(&Analysis::new(&ablation()).unwrap()).unwrap());
}

#[test]
fn markdown_with_contrasts() {
    insta::assert_snapshot!(markdown(&Analysis::new(&contrasted()).unwrap()).unwrap());
}

#[test]
fn markdown_keeps_markup_apart() {
    let mut table = ablation();
    table.rows[1].labels = labels(json!({"method": "a|b\nc", "activations": "<script>", "ignore": ["*x*", "`y`"]}));
    let text = markdown(&Analysis::new(&table).unwrap()).unwrap();
    let line = text.lines().find(|line| line.contains("script")).unwrap();
    assert!(line.starts_with("| a\\|b c | \\<script\\> | \\*x\\*, \\`y\\` |"), "{line}");
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    let widths: Vec<usize> = text.lines().filter(|line| line.starts_with('|')).map(columns).collect();
    assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{widths:?}");
}

#[test]
fn csv_of_the_ablation() {
    // The last digits of logarithms may differ between machines.
    let round = |field: &str| match field.parse::<f64>() {
        Ok(value) if field.contains('.') => format!("{value:.9}"),
        _ => field.to_owned(),
    };
    let text = csv(&Analysis::new(&ablation()).unwrap()).unwrap();
    let rounded = text.lines().map(|line| line.split(',').map(round).collect::<Vec<_>>().join(","));
    insta::assert_snapshot!(rounded.collect::<Vec<_>>().join("\n"));
}

#[test]
fn csv_keeps_every_digit() {
    let table = ablation();
    let analysis = Analysis::new(&table).unwrap();
    let frame = read(&csv(&analysis).unwrap());
    assert_eq!(frame.height(), 6);
    let nll = analysis.metrics.iter().position(|key| key.name == "nll").unwrap();
    for row in 0..5 {
        let cell = analysis.cell(row, nll).unwrap();
        assert_eq!(number(&frame, "wikitext.nll", row), cell.estimate.clone().ok());
        assert_eq!(number(&frame, "wikitext.nll.low", row), cell.interval.map(|i| i.low));
        let paired = analysis.difference(row, nll).map(|c| c.outcome.clone().unwrap());
        assert_eq!(number(&frame, "wikitext.nll.delta", row), paired.as_ref().map(|p| p.difference));
        assert_eq!(number(&frame, "wikitext.nll.p_adjusted", row), paired.and_then(|p| p.p_adjusted));
    }
    assert_eq!(
        frame.column("message").unwrap().str().unwrap().get(5).map(|m| m.starts_with("quantize rtn")),
        Some(true)
    );
    assert_eq!(number(&frame, "wikitext.nll", 5), None);
    let comparisons = read(&comparisons_csv(&analysis).unwrap());
    assert_eq!(comparisons.height(), 8);
}

/// Rows arrive one by one, in any order; the file is readable after each, and the end is the whole table.
#[test]
fn csv_grows_row_by_row() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    let table = ablation();
    let analysis = Analysis::new(&table).unwrap();
    let mut writer = CsvWriter::create(&path, CsvColumns::of(&table)).unwrap();
    let header = std::fs::read_to_string(&path).unwrap();
    assert_eq!(header.lines().count(), 1);
    for (done, index) in [4, 0, 5, 1, 2, 3].into_iter().enumerate() {
        writer.append(&table.rows[index]).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with(&header));
        let frame = read(&text);
        assert_eq!(frame.height(), done + 1);
        let nll = analysis.metrics.iter().position(|key| key.name == "nll").unwrap();
        let estimate = analysis.cell(index, nll).and_then(|cell| cell.estimate.clone().ok());
        assert_eq!(number(&frame, "wikitext.nll", done), estimate);
    }
    writer.finish(&analysis).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), csv(&analysis).unwrap());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
}

#[test]
fn csv_takes_in_metrics_that_nobody_announced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("table.csv");
    let mut table = ablation();
    let columns = CsvColumns { labels: vec!["method".into()], metrics: vec![("wikitext".into(), "nll".into())] };
    let mut writer = CsvWriter::create(&path, columns).unwrap();
    table.rows.truncate(3);
    // A label called like a column of ours keeps its own.
    table.rows[2].labels.push(("state".into(), json!("a, \"b\"\nc")));
    table.rows.iter().for_each(|row| writer.append(row).unwrap());
    assert_eq!(read(&std::fs::read_to_string(&path).unwrap()).height(), 3);
    writer.finish(&Analysis::new(&table).unwrap()).unwrap();
    let frame = read(&std::fs::read_to_string(&path).unwrap());
    assert!(number(&frame, "world.acc", 1).is_some());
    assert_eq!(frame.column("label:state").unwrap().str().unwrap().get(2), Some("a, \"b\"\nc"));
}

#[test]
fn csv_names_the_file_it_cannot_write() {
    let error = CsvWriter::create(std::path::Path::new("/nonexistent/table.csv"), CsvColumns::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/table.csv"));
}

#[test]
fn csv_of_seeds_has_a_line_for_each() {
    let table = seeded();
    let frame = read(&csv(&Analysis::new(&table).unwrap()).unwrap());
    assert_eq!(frame.height(), 11);
    let values: Vec<f64> = (1..6).map(|row| number(&frame, "wikitext.nll", row).unwrap()).collect();
    let mean = values.iter().sum::<f64>() / 5.0;
    let sd = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 4.0).sqrt();
    for row in 1..6 {
        assert!((number(&frame, "wikitext.nll.seed_mean", row).unwrap() - mean).abs() < 1e-12);
        assert!((number(&frame, "wikitext.nll.seed_sd", row).unwrap() - sd).abs() < 1e-12);
        assert_eq!(number(&frame, "wikitext.nll.seeds", row), Some(5.0));
    }
    assert_eq!(number(&frame, "wikitext.nll.seeds", 0), None);
}

#[test]
fn nothing_is_left_that_a_terminal_obeys() {
    let evil = "\u{1b}]0;x\u{7}\u{9b}1m\u{202e}";
    let mut table = ablation();
    table.name = evil.to_owned();
    table.script = format!("{evil}.rhai");
    table.rows[1].labels = labels(json!({ "method": evil, evil: "x" }));
    table.rows[2].state = RowState::Failed { message: evil.to_owned() };
    table.rows[2].tasks.clear();
    table.rows.iter_mut().flat_map(|row| &mut row.tasks).for_each(|task| task.task += evil);
    table.remarks.push(evil.to_owned());
    table.provenance.push((evil.to_owned(), evil.to_owned()));
    let analysis = Analysis::new(&table).unwrap();
    for (what, text) in [
        ("terminal", terminal(&analysis, Terminal { width: Some(100), color: false }).unwrap()),
        ("Markdown", markdown(&analysis).unwrap()),
        ("HTML", html(&analysis).unwrap()),
    ] {
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!text.contains(obeyed), "{what}:\n{}", text.escape_debug());
        assert!(text.contains("x1b") && text.contains("x07") && text.contains("u{9b}"), "{what}:\n{text}");
    }
}
