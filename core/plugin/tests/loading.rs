//! Files that are no plugins, or not ours.

use std::fs;
use std::path::Path;
use std::time::Instant;

use super::super::child::ask;
use super::super::{CheckReport, Loaded, Problem, ProblemKind, check};
use super::{child_command, library};

fn problem(file: &Path) -> Problem {
    match Loaded::open(file) {
        Err(problem) => problem,
        Ok(_) => panic!("{} was loaded", file.display()),
    }
}

#[test]
fn what_is_no_library_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &[u8]| {
        let file = folder.path().join(name);
        fs::write(&file, content).unwrap();
        file
    };
    let text = problem(&write("text.so", b"#!/bin/sh\n"));
    assert_eq!(text.kind, ProblemKind::NotALibrary);
    assert_eq!(text.message, "it is no shared library: it does not start as an ELF file");
    assert_eq!(problem(&write("empty.so", b"")).message, "it is empty");
    assert_eq!(problem(&folder.path().join("none.so")).kind, ProblemKind::Unreadable);

    let whole = fs::read(library("untie")).unwrap();
    let torn = problem(&write("torn.so", &whole[..4096]));
    assert_eq!(torn.kind, ProblemKind::NotALibrary);
    assert_eq!(torn.message.split(" of ").next(), Some("it is cut short: 4096 bytes"), "{torn}");

    // The loader's own reason, without which "cannot be loaded" helps nobody.
    let mut foreign = whole[..].to_vec();
    foreign[18..20].copy_from_slice(&[0xff, 0x7f]);
    let foreign = problem(&write("foreign.so", &foreign));
    assert!(foreign.message.starts_with("it cannot be loaded: ") && foreign.message.len() > 30, "{foreign}");
    assert!(!foreign.message.contains("foreign.so"), "{foreign}");
}

#[test]
fn a_library_that_is_no_plugin_is_told_so() {
    let found = problem(&library("no_probe"));
    assert_eq!(found.kind, ProblemKind::NotAPlugin);
    assert!(found.message.contains("does not export `WORKBENCH_PLUGIN_PROBE`"), "{found}");
    let found = problem(&library("no_module"));
    assert_eq!(found.kind, ProblemKind::Layout, "{found}");
    assert_eq!(found.message, "it exports the probe of a plugin, but no root module");
}

#[test]
fn other_abi_versions_are_refused_before_anything_is_called() {
    let older = problem(&library("older_abi"));
    assert_eq!(older.kind, ProblemKind::Abi);
    assert_eq!(older.message, "it is built for plugin ABI 0.0, this workbench has 0.1");
    assert!(older.hint.unwrap().starts_with("build the plugin again"));
    let newer = problem(&library("newer_abi"));
    assert!(newer.message.contains("plugin ABI 0.9999") && newer.hint.unwrap().contains("newer workbench"));
}

#[test]
fn other_rounding_rules_are_refused() {
    let found = problem(&library("other_grid"));
    assert_eq!(found.kind, ProblemKind::Grid);
    let (theirs, ours) = (workbench_quant::GRID_VERSION + 1, workbench_quant::GRID_VERSION);
    assert!(found.message.contains(&format!("version {theirs} of the grid rules")), "{found}");
    assert!(found.message.contains(&format!("version {ours}")), "{found}");
}

#[test]
fn a_layout_mismatch_is_one_sentence() {
    let found = problem(&library("other_layout"));
    assert_eq!(found.kind, ProblemKind::Layout);
    let sentence = "its types are laid out differently from the workbench's: \
                    mismatched package: expected workbench-api, found workbench-test-plugins";
    assert_eq!(found.message, sentence);
    // The whole explanation is there for who wants it.
    assert!(found.detail.unwrap().lines().count() > 100);
}

#[test]
fn an_unresolved_symbol_is_found_at_once() {
    let found = problem(&library("unresolved"));
    assert_eq!(found.kind, ProblemKind::NotALibrary);
    assert!(found.message.contains("workbench_function_that_nobody_wrote"), "{found}");
}

#[test]
fn loading_is_fast() {
    let folder = tempfile::tempdir().unwrap();
    // Of several, since other tests are at work; copies, since a library is loaded only once.
    let fastest = (0..5)
        .map(|copy| {
            let file = folder.path().join(format!("{copy}.so"));
            fs::copy(library("sign_linear"), &file).unwrap();
            let start = Instant::now();
            assert_eq!(Loaded::open(&file).unwrap().descriptor().name, "sign_linear");
            start.elapsed()
        })
        .min();
    eprintln!("dlopen, layout check and descriptor: {fastest:?}");
    assert!(fastest < Some(std::time::Duration::from_millis(100)), "{fastest:?}");
}

#[test]
fn crashes_and_hangs_in_constructors_end_the_child_only() {
    let probe = child_command("probe");
    let patience = std::time::Duration::from_secs(20);
    let crash = ask::<serde_json::Value>(&probe, &library("crash_on_load"), patience, "loading it").unwrap_err();
    assert_eq!(crash.kind, ProblemKind::Crash);
    assert_eq!(crash.message, "loading it ended the process by a segmentation fault (SIGSEGV)");

    let patience = std::time::Duration::from_millis(700);
    let hang = ask::<serde_json::Value>(&probe, &library("hang_on_load"), patience, "loading it").unwrap_err();
    assert_eq!((hang.kind, hang.message.as_str()), (ProblemKind::Hang, "loading it did not end within 0.7 s"));
}

#[test]
fn check_runs_the_examples_in_a_child() {
    let run = |name: &str| -> CheckReport { check(&library(name), &child_command("check")) };
    for good in ["sign_linear", "sign_block", "untie", "sign_trainer", "round_trainer", "copy_teacher", "misbehave"] {
        let report = run(good);
        assert!(report.passed(), "{good}: {:?}", report.steps);
        assert_eq!(report.steps.len(), 2, "{:?}", report.steps);
        assert_eq!(report.descriptor.unwrap().name, good);
    }
    let wrong = run("wrong_example");
    assert_eq!(wrong.steps[1].found, ["tensor `a` was not put"]);
    assert!(!wrong.passed());
    let crash = run("crash_on_load");
    assert_eq!(crash.steps[0].found, ["running it ended the process by a segmentation fault (SIGSEGV)"]);
    let other = run("other_grid");
    assert!(other.steps[0].found[0].contains("grid rules") && other.steps[0].hint.is_some());
}
