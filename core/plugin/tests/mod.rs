//! Real dynamic libraries, good and bad (`tests/plugins`), against the real loader.

// Two tests print what they measured.
#![allow(clippy::print_stderr)]

mod conduct;
mod discovery;
mod gate;
mod loading;
mod new;
mod parameters;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use workbench_api::error::Error;
use workbench_api::example::{Example, ExampleModel, ExampleTensor};
use workbench_api::host::Heartbeat;
use workbench_api::job::{Job, Linear};
use workbench_api::testing::{MemoryHost, Outcome};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

use super::{Loaded, check_main, probe_main};

/// A library that `cargo test --workspace` has built from `tests/plugins`.
fn library(name: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let profile = program.parent().and_then(Path::parent).unwrap();
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let file = profile.join("examples").join(format!("{prefix}{name}{suffix}"));
    assert!(file.is_file(), "{} is missing: cargo build -p workbench-test-plugins --examples", file.display());
    file
}

/// This test program as a child that does one thing with a file: see [`child`].
fn child_command(mode: &'static str) -> impl Fn(&Path) -> Command + Sync {
    move |file| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "plugin::tests::child", "--nocapture", "--test-threads=1"]);
        command.env("WORKBENCH_TEST_CHILD", mode).env("WORKBENCH_TEST_FILE", file);
        command
    }
}

/// No test of its own: the body of the children that the other tests start.
#[test]
fn child() {
    let (Some(mode), Some(file)) = (std::env::var_os("WORKBENCH_TEST_CHILD"), std::env::var_os("WORKBENCH_TEST_FILE"))
    else {
        return;
    };
    let file = PathBuf::from(file);
    match mode.to_str().unwrap() {
        "probe" => drop(probe_main(&file)),
        "check" => drop(check_main(&file)),
        fault => {
            let limit = rustix::process::Rlimit { current: Some(1 << 30), maximum: Some(1 << 30) };
            rustix::process::setrlimit(rustix::process::Resource::As, limit).unwrap();
            let outcome = run_fault(&file, fault).map(|_| ()).map_err(|error| error.to_string());
            super::child::answer(&outcome).unwrap();
        }
    }
}

/// A job on one linear of 2 x 2, on a grid of 4-bit integers with a scale per row.
fn linear_job(module: &str) -> Job {
    let args = QuantizationArgs { num_bits: 4, strategy: Strategy::Channel, ..QuantizationArgs::default() };
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    Job::Linear(Linear {
        module: module.to_owned(),
        weight: format!("{module}.weight"),
        site: Some(format!("{module}.input")),
        grid: serde_json::to_value(grid).unwrap(),
        ..Linear::default()
    })
}

fn linear_host(module: &str, weight: &[f32]) -> MemoryHost {
    let mut model = ExampleModel::default();
    model.tensors.insert(format!("{module}.weight"), ExampleTensor::f32(&[2, 2], weight));
    MemoryHost::new(&Example::new("test", linear_job(module), model)).unwrap()
}

/// Runs `misbehave` with a fault on a small weight.
fn run_fault(file: &Path, fault: &str) -> Result<Outcome, Error> {
    let host = linear_host("a", &[1.0, -1.0, 2.0, 2.0]);
    let running =
        Loaded::open(file).map_err(|problem| Error::input(problem.to_string()))?.create(&json!({ "fault": fault }))?;
    let report = running.run(&linear_job("a"), &host, &Heartbeat::default())?;
    Ok(Outcome { report, ..host.into_outcome() })
}

/// What the descriptor of a good plugin says.
fn descriptor(name: &str) -> super::Descriptor {
    Loaded::open(&library(name)).unwrap().descriptor().clone()
}

fn object(value: Value) -> serde_json::Map<String, Value> {
    value.as_object().unwrap().clone()
}
