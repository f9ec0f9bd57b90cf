//! What a loaded plugin does, well and badly.

use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use workbench_api::error::{Error, ErrorKind};
use workbench_api::host::Heartbeat;
use workbench_api::job::{Job, Model, Statistic};

use super::super::Loaded;
use super::super::child::ask;
use super::{child_command, library, linear_host, linear_job, run_fault};

fn refused(fault: &str) -> Error {
    match run_fault(&library("misbehave"), fault) {
        Err(error) => error,
        Ok(outcome) => panic!("{fault}: the host took {:?}", outcome.codes),
    }
}

#[test]
fn without_a_fault_the_codes_arrive() {
    let outcome = run_fault(&library("misbehave"), "none").unwrap();
    assert_eq!(outcome.codes["a"].codes, [1, -1, 1, 1]);
    assert_eq!(outcome.codes["a"].scales, [1.0, 2.0]);
    assert_eq!(outcome.grids["a"]["args"]["num_bits"], 4);
}

#[test]
fn panics_become_errors_that_name_their_place() {
    let error = refused("panic_in_create");
    assert_eq!(error.kind, ErrorKind::Panic);
    assert!(error.message.contains("there is nothing to create (") && error.message.contains("misbehave.rs:"));
    let error = refused("panic_in_run");
    assert!(
        error.to_string().starts_with("plugin `misbehave`: the plugin panicked: row 7 is beyond repair ("),
        "{error}"
    );
}

#[test]
fn a_panic_of_a_thread_is_logged() {
    // A copy of the file is a library of its own, whose panics no other test takes.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy.so");
    std::fs::copy(library("misbehave"), &file).unwrap();
    let outcome = run_fault(&file, "panic_in_thread").unwrap();
    assert!(outcome.log.iter().any(|(_, line)| line.contains("a thread of my own (")), "{:?}", outcome.log);
}

#[test]
fn errors_keep_their_context_and_hint() {
    let error = refused("error");
    assert_eq!(error.to_string(), "plugin `misbehave`: factorising the inputs of `a`: the matrix is singular");
    assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::Numeric, Some("raise `dampening_frac`")));
}

#[test]
fn results_that_are_not_finite_or_do_not_fit_are_refused() {
    let cases = [
        ("nan_scale", "codes of `a`: scale 1 is NaN, not a positive number"),
        ("puts_tensor", "tensor `a.weight`: a quantizer of linears puts codes and nothing else"),
        ("zero_scale", "codes of `a`: scale 1 is 0, not a positive number"),
        ("patches_config", "a quantizer writes no configuration: what it makes is the model's own, rounded"),
        ("wrong_shape", "codes of `a`: their shape is [1, 2], that of `a.weight` [2, 2]"),
        ("wrong_scale_shape", "codes of `a`: the shape of their scales is [1, 1], the grid wants [2, 1]"),
        ("code_out_of_range", "codes of `a`: code 1 is 9, outside -8..=7"),
        ("other_module", "codes of `model.layers.9.mlp.up_proj`: the job is not about this linear"),
        ("other_grid", "codes of `a`: they are on another grid than the one asked for"),
        ("swallow", "codes of `a`: scale 0 is inf, not a positive number"),
    ];
    for (fault, expected) in cases {
        let error = refused(fault);
        assert_eq!(error.to_string(), format!("plugin `misbehave`: {expected}"), "{fault}");
    }
}

#[test]
fn what_ends_the_process_ends_the_childs_only() {
    let patience = Duration::from_secs(60);
    let said = |fault: &'static str| {
        ask::<Result<(), String>>(&child_command(fault), &library("misbehave"), patience, "running it")
            .unwrap_err()
            .message
    };
    assert_eq!(said("segfault"), "running it ended the process by a segmentation fault (SIGSEGV)");
    assert!(said("abort").starts_with("running it ended the process by an abort (SIGABRT)"));
    assert_eq!(said("exit"), "running it ended the process with exit code 0 and no answer");
    let memory = said("eat_memory");
    assert!(memory.contains("SIGABRT") && memory.contains("memory allocation of 67108864 bytes failed"), "{memory}");
}

#[test]
fn silence_is_measured_from_another_thread() {
    let loaded = Loaded::open(&library("misbehave")).unwrap();
    let heartbeat = std::sync::Arc::new(Heartbeat::default());
    let watched = heartbeat.clone();
    // The thread hangs until the test program ends.
    thread::spawn(move || {
        let running = loaded.create(&json!({ "fault": "hang" })).unwrap();
        let _ = running.run(&linear_job("a"), &linear_host("a", &[1.0; 4]), &watched);
    });
    let start = Instant::now();
    while heartbeat.silence() < Duration::from_millis(300) {
        assert!(start.elapsed() < Duration::from_secs(20), "the silence is never heard");
        thread::sleep(Duration::from_millis(10));
    }
    heartbeat.beat();
    assert!(heartbeat.silence() < Duration::from_millis(300));
}

#[test]
fn a_job_of_another_scope_is_refused() {
    let running = Loaded::open(&library("sign_linear")).unwrap().create(&json!({})).unwrap();
    let job = Job::Transform(Model::default());
    let error = running.run(&job, &linear_host("a", &[1.0; 4]), &Heartbeat::default()).unwrap_err();
    assert!(error.to_string().contains("`sign_linear` does jobs of scope `linear`, not `transform`"), "{error}");
    assert!(running.needs(&job).is_err());
    let needs = running.needs(&linear_job("a")).unwrap();
    assert_eq!((needs.statistics.len(), needs.statistics[0].kind), (1, Statistic::Gram));
}

#[test]
fn a_statistic_that_is_not_there_is_asked_for_by_name() {
    let running = Loaded::open(&library("sign_linear")).unwrap().create(&json!({})).unwrap();
    let error = running.run(&linear_job("a"), &linear_host("a", &[1.0; 4]), &Heartbeat::default()).unwrap_err();
    assert!(error.to_string().contains("no calibration statistic `gram` of `a.input`"), "{error}");
    assert!(error.hint.unwrap().contains("calibration"));
}

#[test]
fn a_call_costs_little() {
    let loaded = Loaded::open(&library("misbehave")).unwrap();
    let running = loaded.create(&json!({})).unwrap();
    let host = linear_host("a", &[1.0, -1.0, 2.0, 2.0]);
    let run = |_| {
        let start = Instant::now();
        running.run(&linear_job("a"), &host, &Heartbeat::default()).unwrap();
        start.elapsed()
    };
    let fastest = (0..200).map(run).min();
    eprintln!("one linear of 2 x 2, host and plugin, three calls back: {fastest:?}");
    assert!(fastest < Some(Duration::from_millis(5)), "{fastest:?}");
}
