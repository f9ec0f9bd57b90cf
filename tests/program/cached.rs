//! A run with nothing to do is over at once.

use std::time::{Duration, Instant};

use super::project::Project;

/// What a cached run of 100 nodes may take on a quiet machine.
const LIMIT: Duration = Duration::from_millis(300);

/// How long to wait for a quiet machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[test]
fn a_cached_run_of_a_hundred_nodes_is_over_at_once() {
    let project = Project::new();
    let script = r#"
let base = model("tiny");
let text = dataset("text.txt");
let table = report("hundred");
for length in 2..102 {
    table.row(base.evaluate(perplexity(#{ text: text, max_seq_length: length, blocks: 1 })), #{ length: length });
}
table.write();
"#;
    project.write("hundred.rhai", script);
    let first = project.run(&["run", "hundred.rhai", "--jobs", "4", "--threads", "1"]).exits(0);
    assert!(first.err.contains("100 nodes, 0 cached, 100 to run"), "{}", first.err);
    let median = || {
        let mut times: Vec<Duration> = (0..5)
            .map(|_| {
                let began = Instant::now();
                let again = project.run(&["run", "hundred.rhai"]).exits(0);
                assert!(again.err.contains("100 nodes, 100 cached, 0 to run"), "{}", again.err);
                assert_eq!(again.out, first.out);
                began.elapsed()
            })
            .collect();
        times.sort();
        times[2]
    };
    // Three times the limit, and some patience: other tests may keep the machine busy.
    let began = Instant::now();
    let mut best = median();
    while best >= 3 * LIMIT && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_secs(2));
        best = best.min(median());
    }
    eprintln!("cached run of 100 nodes: {:.3} s in the median of 5", best.as_secs_f64());
    assert!(best < 3 * LIMIT, "a cached run of 100 nodes takes {best:?}");
}
