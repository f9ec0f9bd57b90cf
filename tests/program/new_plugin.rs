//! The way of a plugin's author: a new crate outside of the tree, its tests, its check, and a script that uses it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::project::{LAYERS, LINEARS, PROGRAM, Project, W8};

/// Cargo in the crate's folder, without the network, with a target folder that later runs find again.
fn cargo(folder: &Path, arguments: &[&str]) -> String {
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
    assert!(output.status.success(), "{said}");
    said
}

fn target() -> PathBuf {
    Path::new(PROGRAM).parent().unwrap().with_file_name("tmp").join("new-plugin")
}

#[test]
fn a_new_plugin_builds_and_quantizes() {
    let project = Project::new();
    project.run(&["plugins", "new", "clip_rows", "--folder", "elsewhere"]).exits(0);
    let folder = project.path().join("elsewhere/clip_rows");
    let said = cargo(&folder, &["test"]);
    assert!(said.contains("examples_give_what_they_promise ... ok") && said.contains("4 passed"), "{said}");
    assert!(!said.contains("warning"), "{said}");
    cargo(&folder, &["build"]);

    let library = target().join("debug/libworkbench_plugin_clip_rows.so");
    let checked = project.run(&["plugins", "check", library.to_str().unwrap(), "--json"]).exits(0);
    assert!(checked.out.contains("clip_rows"), "{}", checked.out);
    fs::create_dir_all(project.path().join("plugins")).unwrap();
    fs::copy(&library, project.path().join("plugins").join(library.file_name().unwrap())).unwrap();
    let script = r#"
let made = model("tiny").quantize("clip_rows", #{ scheme: W8 });
let table = report("new");
table.row(made.evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 16, blocks: 2 })), #{ model: "made" });
table.write();
"#;
    // It says which schemes it takes: the script learns it at once, and nothing is run or stored for it.
    project.write("other.rhai", &script.replace("W8", &W8.replace("channel", "tensor")));
    let refused = project.run(&["run", "other.rhai"]).exits(2);
    let told = refused.err.contains(r#"`strategy` of the weights is "tensor": what is clipped"#);
    assert!(told && refused.err.contains("other.rhai:2"), "{}", refused.err);
    project.write("new.rhai", &script.replace("W8", W8));
    project.run(&["run", "new.rhai"]).exits(0);
    let stored = project.stored("results", "quantize", "clip_rows");
    let [(_, record)] = &stored[..] else { panic!("{} results", stored.len()) };
    assert_eq!(record["facts"]["layers"]["quantized"], LAYERS * LINEARS.len());
}
