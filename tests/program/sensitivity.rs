//! The sensitivity of every linear: a row for each, and a picture of all.

use super::project::{LAYERS, LINEARS, Project, csv};

#[test]
fn every_cell_is_a_row_and_a_tile() {
    let project = Project::new();
    project.add_source("experiments/sensitivity.rhai");
    let mut arguments = vec!["run", "experiments/sensitivity.rhai"];
    for set in ["model=tiny", "text=text.txt", "context=32", "blocks=8", "group_size=16", "cells=true"] {
        arguments.extend(["--set", set]);
    }
    project.run(&arguments).exits(0);
    let rows = csv(&project.read("results/reports/sensitivity/table.csv"));
    assert_eq!(rows.len(), 1 + 1 + LINEARS.len() + LAYERS + LINEARS.len() * LAYERS);
    let kl = |kind: &str, block: &str| -> f64 {
        let row = rows.iter().find(|row| row["kind"] == kind && row["block"] == block).unwrap();
        row["kl.kl"].parse().unwrap()
    };
    for kind in ["q_proj", "down_proj"] {
        for block in ["0", "1"] {
            assert!(kl(kind, block) > 0.0 && kl(kind, block) < kl("all", "all"), "{kind} {block}");
        }
    }
    let page = project.read("results/reports/sensitivity/index.html");
    let map = page.split("<figcaption>kl KL: kind by block<small>").nth(1).unwrap().split("</figure>").next().unwrap();
    let tiles = map.matches("<g class=\"tile size\"><title>").count();
    assert_eq!(tiles, LINEARS.len() * LAYERS, "{map}");
    assert_eq!(map.matches("<g class=\"tile apart\"><title>").count(), 1 + LINEARS.len() + LAYERS);
    assert!(map.contains("<title>kind down_proj, block 1: ") && map.contains("nats per token"), "{map}");
    assert!(page.contains("<figcaption>perplexity ΔNLL: kind by block<small>against the baseline"));

    // Without the cells the table is the smaller one, and there is nothing to draw.
    let plain: Vec<&str> = arguments.iter().copied().take(arguments.len() - 2).collect();
    let second = project.run(&plain).exits(0);
    assert!(second.err.contains(" 0 to run"), "{}", second.err);
    assert_eq!(csv(&project.read("results/reports/sensitivity/table.csv")).len(), 2 + LINEARS.len() + LAYERS);
    assert!(!project.read("results/reports/sensitivity/index.html").contains("Heat maps"));
}

#[test]
fn a_heat_map_needs_two_labels_of_rows() {
    let project = Project::new();
    let begin = "let base = model(\"tiny\");\nlet table = report(\"t\");\ntable.row(base.evaluate(perplexity(#{ text: dataset(\"text.txt\"), max_seq_length: 16 })), #{ bits: 8, group: 16 });\n";
    for (call, told) in [
        ("table.heat_map(\"bits\", \"grop\");", "no row of report `t` has the labels bits and grop"),
        ("table.heat_map(\"bits\", \"bits\");", "a heat map needs two labels"),
    ] {
        project.write("map.rhai", &format!("{begin}{call}\ntable.write();\n"));
        let outcome = project.run(&["run", "map.rhai"]).exits(2);
        assert!(outcome.err.contains(told), "{}", outcome.err);
    }
}
