//! A new plugin is built by cargo as its author would build it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::{ApiSource, check, new};
use super::child_command;

/// Cargo in the crate's folder, without the network, with a target folder that later runs find again.
fn cargo(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // Variables of the cargo that runs this test are not meant for the one that it starts.
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_")) {
        if name != "CARGO_HOME" {
            command.env_remove(name);
        }
    }
    let output = command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .arg("--offline")
        .args(arguments)
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), said)
}

fn target() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(3).unwrap().join("tmp").join("new-plugin")
}

#[test]
fn a_new_plugin_builds_passes_its_test_and_its_check() {
    let parent = tempfile::tempdir().unwrap();
    let files = new("clip_rows", parent.path(), &ApiSource::default()).unwrap();
    assert_eq!(files.len(), 6);
    let folder = parent.path().join("clip_rows");

    let (passed, said) = cargo(&folder, &["test"]);
    assert!(passed, "{said}");
    assert!(said.contains("examples_give_what_they_promise ... ok") && said.contains("3 passed"), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let (built, said) = cargo(&folder, &["build"]);
    assert!(built, "{said}");

    let library = target().join("debug").join(format!(
        "{}workbench_plugin_clip_rows{}",
        std::env::consts::DLL_PREFIX,
        std::env::consts::DLL_SUFFIX
    ));
    let report = check(&library, &child_command("check"));
    assert!(report.passed(), "{:?}", report.steps);
    let descriptor = report.descriptor.unwrap();
    assert_eq!((descriptor.name.as_str(), descriptor.version.as_str()), ("clip_rows", "0.1.0"));
    assert_eq!(descriptor.source_digest.map(|digest| digest.len()), Some(64));
}

#[test]
fn names_folders_and_sources_are_checked() {
    let parent = tempfile::tempdir().unwrap();
    let refused = |name: &str, source: &ApiSource| new(name, parent.path(), source).unwrap_err();
    assert_eq!(refused("Große", &ApiSource::default()).message, "`Große` cannot be the name of a plugin");
    assert_eq!(refused("2x", &ApiSource::default()).hints.len(), 1);
    let nowhere = refused("a", &ApiSource::Folder("/no/such/folder".into()));
    assert_eq!(nowhere.message, "`/no/such/folder` does not hold the workbench's sources");
    assert!(!parent.path().join("a").exists());

    let git = ApiSource::Git { url: "https://example.org/w".to_owned(), revision: Some("1234".to_owned()) };
    new("a-b", parent.path(), &git).unwrap();
    let read = |file: &str| std::fs::read_to_string(parent.path().join("a-b").join(file)).unwrap();
    assert!(read("Cargo.toml").contains(r#"workbench-api = { git = "https://example.org/w", rev = "1234" }"#));
    assert!(read("src/lib.rs").contains("struct ABPlugin(Parameters);"));
    assert!(refused("a-b", &git).message.ends_with("exists already"));
}
