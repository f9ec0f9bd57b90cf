//! What is quantized here, held against what llm-compressor makes of the same model: `scripts/parity.sh` as a test.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    peer::python,
    project::{PROGRAM, sources},
};

/// Recipes of `scripts/peer/parity.py`, and the line about the evaluators; in two dtypes.
const LINES: usize = 2 * (10 + 1);

#[test]
fn quantized_models_are_as_good_as_those_of_llm_compressor() {
    let test = "quantized_models_are_as_good_as_those_of_llm_compressor";
    let Some(python) = python(test, "llmcompressor") else { return };
    let fixtures = std::env::var_os("WORKBENCH_FIXTURES")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared"), PathBuf::from);
    let needed = ["golden/tiny_trained", "data/tinystories/train_first.txt", "data/tinystories/valid_first.txt"];
    let [model, calibration, text] = needed.map(|path| fixtures.join(path));
    for path in [&model, &calibration, &text] {
        if !path.exists() {
            eprintln!("skipped: {test}: {} is not there", path.display());
            return;
        }
    }
    let mut command = Command::new(python);
    command.arg(sources().join("scripts/peer/parity.py")).args(["--samples", "16", "--blocks", "16"]);
    for (option, path) in [("--model", &model), ("--calibration", &calibration), ("--text", &text)] {
        command.arg(option).arg(path);
    }
    let output = command.args(["--program", PROGRAM]).output().unwrap();
    let (printed, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    eprint!("{printed}");
    assert!(output.status.success(), "{}", &told[told.len().saturating_sub(4000)..]);
    assert_eq!(printed.lines().filter(|line| line.ends_with(": pass")).count(), LINES, "{printed}");
}
