//! An ablation from its script to its table.

use std::collections::BTreeMap;

use super::project::{LINEARS, Project, csv};

const SCRIPT: &str = r#"
import "scripts/schemes" as schemes;
let base = model("tiny");
let data = dataset("text.txt");
let calibration = data.tokens(#{ num_calibration_samples: 8, max_seq_length: 32 });
let options = #{ text: data, max_seq_length: param("context", 32), blocks: 8 };
let suite = [perplexity(options), kl(base, options)];
let table = report("small");
table.baseline(base.evaluate(suite), #{ activations: "unquantized" });
for activations in ["none", "static", "dynamic"] {
    for ignore in [[], ["*.down_proj"]] {
        let q = base.quantize("rtn", #{ scheme: schemes::w8(activations), ignore: ignore, calibration: calibration });
        table.row(q.evaluate(suite), #{ activations: activations, ignore: ignore });
    }
}
table.contrast(#{ activations: "static" }, #{ activations: "dynamic" });
table.write();
"#;

type Row = BTreeMap<String, String>;

fn number(row: &Row, column: &str) -> f64 {
    row[column].parse().unwrap_or_else(|e| panic!("{column} `{}`: {e}", row[column]))
}

/// Bits per weight of 8-bit channel codes with f32 scales, `down_proj` left at 32 bits or not.
fn bits_per_weight(ignore_down: bool) -> f64 {
    let bits = |(name, rows, columns): (&str, usize, usize)| match ignore_down && name == "mlp.down_proj" {
        true => 32 * rows * columns,
        false => 8 * rows * columns + 32 * rows,
    };
    let weights: usize = LINEARS.iter().map(|l| l.1 * l.2).sum();
    LINEARS.into_iter().map(bits).sum::<usize>() as f64 / weights as f64
}

#[test]
fn an_ablation_runs_once_and_is_cached_ever_after() {
    let project = Project::new();
    project.write("small.rhai", SCRIPT);
    let first = project.run(&["run", "small.rhai"]).exits(0);
    assert!(first.err.contains("20 nodes, 0 cached, 20 to run"), "{}", first.err);
    let table = project.read("results/reports/small/table.csv");
    let rows = csv(&table);
    assert_eq!(rows.len(), 7);
    let find = |activations: &str, ignore: &str| -> &Row {
        rows.iter().find(|r| r["activations"] == activations && r["ignore"] == ignore).unwrap()
    };
    let base = find("unquantized", "");
    assert_eq!(number(base, "kl.kl"), 0.0, "a model diverges from itself");
    assert_eq!((number(base, "kl.top1"), number(base, "bits_per_weight")), (1.0, 32.0));
    assert_eq!(base["engine"], "exact");
    for ignore in ["none", "*.down_proj"] {
        let [none, dynamic, fixed] = ["none", "dynamic", "static"].map(|a| find(a, ignore));
        // More is rounded from one to the next, and one static scale fits worse than one per token.
        let kl = [none, dynamic, fixed].map(|row| number(row, "kl.kl"));
        assert!(0.0 < kl[0] && kl[0] < kl[1] && kl[1] < kl[2] && kl[2] < 0.1, "{ignore}: {kl:?}");
        for row in [none, dynamic, fixed] {
            assert_eq!((row["state"].as_str(), row["engine"].as_str()), ("complete", "fake-quantized"));
            assert!((number(row, "bits_per_weight") - bits_per_weight(ignore != "none")).abs() < 1e-9);
            let delta = number(row, "perplexity.nll") - number(base, "perplexity.nll");
            assert!((number(row, "perplexity.nll.delta") - delta).abs() < 1e-9);
        }
    }
    for activations in ["none", "static", "dynamic"] {
        let [all, without] = ["none", "*.down_proj"].map(|ignore| find(activations, ignore));
        assert!(number(all, "kl.kl") > number(without, "kl.kl"), "{activations}: fewer rounded layers diverge less");
        assert!(number(all, "bytes_on_disk") < number(without, "bytes_on_disk"));
    }
    for part in ["unquantized", "dynamic", "*.down_proj", "static vs dynamic", "non-overlapping blocks of 32 tokens"] {
        assert!(first.out.contains(part), "the terminal lacks {part}:\n{}", first.out);
        let [markdown, page] = ["table.md", "index.html"].map(|f| project.read(&format!("results/reports/small/{f}")));
        assert!(markdown.replace('\\', "").contains(part), "table.md lacks {part}:\n{markdown}");
        assert!(page.contains(part), "index.html lacks {part}");
        assert!(!page.contains("src=\"http") && !page.contains("@import"), "the page needs other files");
    }

    let stored = project.artifacts("results");
    let second = project.run(&["run", "small.rhai"]).exits(0);
    assert!(second.err.contains(" 0 to run"), "{}", second.err);
    assert_eq!(second.out, first.out);
    assert_eq!(project.read("results/reports/small/table.csv"), table);
    assert!(project.artifacts("results") == stored);

    let third = project.run(&["run", "small.rhai", "--json"]).exits(0).json();
    assert_eq!(third["summary"]["failed"], 0);
    let listed = third["reports"][0]["table"]["rows"].as_array().unwrap();
    assert_eq!(listed.len(), 7);
    let estimate = listed[0]["metrics"]["perplexity/nll"]["estimate"].as_f64().unwrap();
    assert!((estimate - number(base, "perplexity.nll")).abs() < 1e-9);
}

#[test]
fn a_plan_tells_what_changed() {
    let project = Project::new();
    project.write("small.rhai", SCRIPT);
    let nothing = project.run(&["plan", "small.rhai", "--why"]).exits(0);
    assert_eq!(nothing.out.matches("never ran").count(), 20, "{}", nothing.out);
    assert!(!project.path().join("results/store").exists(), "a plan stores nothing");
    project.run(&["run", "small.rhai"]).exits(0);

    let cached = project.run(&["plan", "small.rhai"]).exits(0);
    assert!(cached.out.contains(" 0 to run"), "{}", cached.out);
    let context = project.run(&["plan", "small.rhai", "--why", "--set", "context=48"]).exits(0);
    assert!(context.out.contains("6 cached, 14 to run"), "the models are as they were: {}", context.out);
    assert_eq!(context.out.matches("max_seq_length 32 -> 48").count(), 14, "{}", context.out);
    let json = project.run(&["plan", "small.rhai", "--why", "--set", "context=48", "--json"]).exits(0).json();
    let pending = json["nodes"].as_array().unwrap().iter().filter(|n| n["cached"] == false);
    assert!(pending.clone().all(|n| n["why"] == "max_seq_length 32 -> 48") && pending.count() == 14);

    // Another text of the same name is another text.
    project.write("text.txt", &(project.read("text.txt") + " And then?"));
    let text = project.run(&["plan", "small.rhai", "--why"]).exits(0);
    assert!(
        text.out.contains("data (text) changed") && text.out.contains("data (calibration) changed"),
        "{}",
        text.out
    );
    // Neither weight-only quantization nor dynamic scales read data.
    assert!(text.out.contains("4 cached, 16 to run"), "{}", text.out);
}

#[test]
fn exit_codes_are_as_documented() {
    let project = Project::new();
    project.write("small.rhai", SCRIPT);
    project.run(&["--version"]).exits(0);
    project.run(&["run", "small.rhai", "--dry-run"]).exits(0);
    project.run(&["run", "small.rhai", "--no-such-option"]).exits(2);
    project.run(&["run", "nowhere.rhai"]).exits(2);
    project.run(&["run", "small.rhai", "--set", "context=1000"]).exits(2);
    project.write("no-folder", "");
    project.run(&["run", "small.rhai", "--results", "no-folder"]).exits(3);
    let damaged = project.read("tiny/config.json").replace("\"num_hidden_layers\":2", "\"num_hidden_layers\":3");
    project.write("tiny/config.json", &damaged);
    let error = project.run(&["run", "small.rhai", "--json"]).exits(2);
    let error: serde_json::Value = serde_json::from_str(error.err.lines().last().unwrap()).unwrap();
    assert_eq!((&error["kind"], &error["place"]["line"]), (&"usage".into(), &3.into()), "{error}");
    assert!(error["error"].as_str().unwrap().contains("model.layers.2."), "{error}");
}
