//! Margins of tables, and tables that stay with their run.

use std::fs;

use super::project::Project;

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 12 })];
let weights = #{ num_bits: param("bits", 8), type: "int", symmetric: true, strategy: "channel" };
let table = report("same");
table.baseline(base.evaluate(suite), #{ bits: 32 });
table.row(base.quantize("rtn", #{ scheme: weights }).evaluate(suite), #{ bits: param("bits", 8) });
table.margin(#{ nll: param("margin", 0.5) });
table.write();
"#;

#[test]
fn rows_get_a_verdict_at_their_margin() {
    let project = Project::new();
    project.write("same.rhai", SCRIPT);
    let verdict = |margin: &str| {
        let set = format!("margin={margin}");
        let outcome = project.run(&["run", "same.rhai", "--set", &set, "--json"]).exits(0).json();
        let metrics = outcome["reports"][0]["table"]["rows"][1]["metrics"].as_object().unwrap().clone();
        let (_, nll) = metrics.iter().find(|(name, _)| name.ends_with("/nll")).unwrap();
        nll["difference"]["verdict"].as_str().unwrap().to_owned()
    };
    assert_eq!(verdict("0.5"), "not worse");
    assert_eq!(verdict("1e-9"), "undecided");
    let text = project.run(&["run", "same.rhai"]).exits(0).out;
    assert!(text.contains("at 0.5") && text.contains("not worse"), "{text}");
    assert!(text.contains("Margins: perplexity ΔNLL 0.5 nats."), "{text}");
}

#[test]
fn margins_of_nothing_are_refused() {
    let project = Project::new();
    for (margin, told) in [
        ("#{ nl: 0.1 }", "are compared by `nl`"),
        ("#{ kl: 0.1 }", "are compared by `kl`"),
        ("#{ nll: 0 }", "the margin of `nll` is a number above zero, not 0"),
        ("#{ nll: \"small\" }", "the margin of `nll` is a number above zero, not small"),
        ("#{}", "a margin needs a metric"),
    ] {
        project.write("odd.rhai", &SCRIPT.replace("#{ nll: param(\"margin\", 0.5) }", margin));
        let outcome = project.run(&["plan", "odd.rhai"]).exits(2);
        assert!(outcome.err.contains(told) && outcome.err.contains("odd.rhai"), "{margin}: {}", outcome.err);
    }
    assert!(project.run(&["plan", "odd.rhai"]).err.contains("hint: table.margin(#{ acc: 1.0, nll: 0.01 })"));
}

#[test]
fn the_tables_of_a_run_stay_with_it() {
    let project = Project::new();
    project.write("same.rhai", SCRIPT);
    let first = project.run(&["run", "same.rhai"]).exits(0);
    let second = project.run(&["run", "same.rhai", "--set", "bits=4"]).exits(0);
    assert_ne!(first.out, second.out);
    let runs = project.run(&["show", "--json"]).exits(0).json();
    let tables: Vec<String> = runs
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            let id = run["run"].as_str().unwrap();
            let shown = project.run(&["show", id, "--json"]).exits(0).json();
            let folder = shown["reports"]["same"].as_str().unwrap().to_owned();
            assert!(fs::metadata(format!("{folder}/index.html")).unwrap().len() > 0);
            fs::read_to_string(format!("{folder}/table.csv")).unwrap()
        })
        .collect();
    assert_eq!(tables.len(), 2);
    assert_ne!(tables[0], tables[1]);
    let newest = fs::read_to_string(project.path().join("results/reports/same/table.csv")).unwrap();
    assert!(tables.contains(&newest));
    assert!(project.run(&["show", "last"]).exits(0).out.contains("report same: results/runs/"));
}
