//! Disks that are full at some moment of a run: an error that says so and names a path, and a store that goes on afterwards.

use std::process::{Command, Stdio};

use super::project::{Outcome, PROGRAM, Project};

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })];
let scheme = #{ name: "W8", weights: #{ num_bits: 8, type: "int", symmetric: true, strategy: "channel" } };
let options = #{ scheme: scheme, targets: "*.o_proj", conduct: param("conduct", "none") };
let table = report("full");
table.row(base.evaluate(suite), #{ model: "base" });
table.row(base.quantize("unruly", options).evaluate(suite), #{ model: "signs" });
table.write();
"#;

/// Whether this user may mount a file system that nobody else sees.
fn can_mount() -> bool {
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", "mount -t tmpfs -o size=64k tmpfs /mnt"]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

/// A run whose results lie on a disk of so many KiB.
fn run(project: &Project, size: usize, conduct: &str) -> Outcome {
    let mount = format!(
        "mkdir -p results && mount -t tmpfs -o size={size}k tmpfs results && {PROGRAM} run full.rhai --set conduct={conduct}; \
         code=$?; find results/store/v1/objects -name record.json -size 0; exit $code"
    );
    let mut command = Command::new("unshare");
    command.args(["-rm", "sh", "-c", &mount]).current_dir(project.path()).stdin(Stdio::null()).env("NO_COLOR", "1");
    command.env("WORKBENCH_PLUGIN_PATH", project.path().join("plugins"));
    command.output().unwrap().into()
}

#[test]
fn a_disk_that_fills_up_is_named_whenever_it_does() {
    if !can_mount() {
        eprintln!("skipped: a_disk_that_fills_up_is_named_whenever_it_does: nothing can be mounted here");
        return;
    }
    let project = Project::new();
    project.add_plugins(&["unruly"]);
    project.write("full.rhai", SCRIPT);
    let mut met = [0; 2];
    for size in [4, 16, 32, 48, 64, 96, 160, 320, 640, 700, 760, 900] {
        let outcome = run(&project, size, "none");
        let said = format!("{}\n{}", outcome.out, outcome.err);
        assert!([0, 3, 4].contains(&outcome.code), "{size} KiB: {}\n{said}", outcome.code);
        assert!(!said.contains("code 101") && !said.contains("panicked"), "{size} KiB: {said}");
        if outcome.code == 0 {
            met[0] += 1;
        } else {
            met[1] += 1;
            let place = said.contains("/results/") || said.contains(" of disk, and ");
            let named = said.contains("No space left on device") || said.contains(" of disk, and ");
            assert!(named && place, "{size} KiB: {said}");
            assert!(said.contains("hint: "), "{size} KiB: {said}");
        }
    }
    assert!(met[1] > 3, "{met:?}");
}

#[test]
fn a_log_that_cannot_be_written_is_named() {
    if !can_mount() {
        eprintln!("skipped: a_log_that_cannot_be_written_is_named: nothing can be mounted here");
        return;
    }
    let project = Project::new();
    project.add_plugins(&["unruly"]);
    project.write("full.rhai", SCRIPT);
    let outcome = run(&project, 3 << 10, "noise");
    assert!([0, 3, 4].contains(&outcome.code), "{}\n{}", outcome.code, outcome.err);
    let line = outcome.err.lines().find(|line| line.contains("/logs/"));
    let line = line.unwrap_or_else(|| panic!("no log is named in\n{}", outcome.err));
    assert!(line.contains("warn: failed to write `") && line.contains("No space left on device"), "{line}");
    assert!(!outcome.err.contains("code 101"), "{}", outcome.err);
}
