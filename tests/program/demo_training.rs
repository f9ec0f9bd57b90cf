//! The demo's training begins as the committed model's did.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::project::sources;

/// Losses that the run has told so far, in order of their steps.
fn losses(results: &std::path::Path) -> Vec<f64> {
    let runs = fs::read_dir(results.join("runs")).into_iter().flatten().flatten();
    let events = runs.filter_map(|run| fs::read_to_string(run.path().join("events.jsonl")).ok());
    let found = events.flat_map(|text| {
        let events = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
        events.into_iter().filter(|e| e["said"]["name"] == "loss").filter_map(|e| e["said"]["value"].as_f64())
    });
    found.collect()
}

/// `experiments/pretrain_demo.rhai` as it is, ended after twenty steps. Other processors may differ in the last bits of a
/// product, which twenty steps make no more than a hair wider.
#[test]
fn the_first_twenty_losses_are_those_of_the_committed_model() {
    let committed: Vec<f64> =
        serde_json::from_str(&fs::read_to_string(sources().join("experiments/demo/losses.json")).unwrap()).unwrap();
    let results = tempfile::tempdir().unwrap();
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_workbench"))
        .current_dir(sources())
        .args(["run", "experiments/pretrain_demo.rhai", "--jobs", "1", "--results"])
        .arg(results.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let patience = Instant::now() + Duration::from_secs(600);
    let found = loop {
        let found = losses(results.path());
        if found.len() >= committed.len() {
            break found;
        }
        let ended = run.try_wait().unwrap();
        assert!(ended.is_none() && Instant::now() < patience, "only {} losses came: {ended:?}", found.len());
        thread::sleep(Duration::from_millis(200));
    };
    run.kill().unwrap();
    run.wait().unwrap();
    for (step, (found, committed)) in found.iter().zip(&committed).enumerate() {
        assert!((found - committed).abs() < 1e-4 * committed, "step {}: {found} instead of {committed}", step + 1);
    }
}
