//! `save_as` replaces what it wrote itself and nobody changed, and nothing else.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::project::{Outcome, Project, W8};

const SCRIPT: &str = r#"
let base = model("tiny");
let suite = [perplexity(#{ text: dataset("text.txt"), max_seq_length: 32, blocks: 2 })];
let made = base.quantize("rtn", #{ scheme: W8, targets: param("targets", "*") });
let table = report("saved");
table.row(made.evaluate(suite), #{ model: "W8" });
table.write();
made.save_as(param("folder", "out"));
MORE
"#;

fn project(more: &str) -> Project {
    let project = Project::new();
    project.write("save.rhai", &SCRIPT.replace("scheme: W8", &format!("scheme: {W8}")).replace("MORE", more));
    project
}

fn save(project: &Project, folder: &str) -> Outcome {
    project.run(&["run", "save.rhai", "--set", &format!("folder={folder}")])
}

/// Refused before the first node, or before a cached table is drawn.
#[track_caller]
fn refused(outcome: Outcome, because: &str) {
    let outcome = if outcome.code == 2 { outcome } else { outcome.exits(3) };
    let told = outcome.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains(because), "{told}");
    assert!(!told.contains("done ") && outcome.out.is_empty(), "something ran first: {told} {}", outcome.out);
}

#[test]
fn a_saved_model_is_replaced_where_nobody_changed_it() {
    let project = project("");
    let out = project.path().join("out");
    assert!(save(&project, "out").exits(0).err.contains("saved: out"));
    let inode = |name: &str| fs::metadata(out.join(name)).unwrap().ino();
    let before = inode("config.json");
    assert!(save(&project, "out").exits(0).err.contains("saved before: out"), "a cached run copies nothing");
    assert_eq!(inode("config.json"), before);
    let names = |folder: &Path| {
        let mut found: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        found
    };
    // Another model takes its place whole.
    project.run(&["run", "save.rhai", "--set", "targets=*.down_proj"]).exits(0);
    assert_ne!(inode("config.json"), before);
    let config: serde_json::Value = serde_json::from_str(&project.read("out/config.json")).unwrap();
    assert!(config["quantization_config"]["ignore"].as_array().unwrap().len() > 1);
    assert!(names(project.path()).iter().all(|name| !name.starts_with(".out")), "{:?}", names(project.path()));

    // A file that somebody put there, or changed, or removed.
    project.write("out/notes.txt", "mine");
    refused(save(&project, "out"), "notes.txt` was not written by the workbench");
    assert_eq!(project.read("out/notes.txt"), "mine");
    fs::remove_file(out.join("notes.txt")).unwrap();
    let config = project.read("out/config.json");
    project.write("out/config.json", &config.replace("256", "255"));
    refused(save(&project, "out"), "config.json` does not hold what was written");
    project.write("out/config.json", &config);
    let shard = names(&out).into_iter().find(|name| name.contains("block-00000")).unwrap();
    let bytes = fs::read(out.join(&shard)).unwrap();
    fs::write(out.join(&shard), [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat()).unwrap();
    refused(save(&project, "out"), "does not hold what was written");
    fs::write(out.join(&shard), bytes).unwrap();
    save(&project, "out").exits(0);
}

/// A flipped bit of a weight is another model with another key, and a number that nobody asked for.
#[test]
fn a_saved_model_whose_weights_changed_is_not_read() {
    let project = project("");
    save(&project, "out").exits(0);
    let read = r#"
let table = report("read");
table.row(model("out").evaluate(perplexity(#{ text: dataset("text.txt"), max_seq_length: 32, blocks: 2 })), #{ model: "saved" });
table.write();
"#;
    project.write("read.rhai", read);
    project.run(&["run", "read.rhai"]).exits(0);
    let shard = fs::read_dir(project.path().join("out")).unwrap().map(|entry| entry.unwrap().path());
    let shard = shard.into_iter().find(|path| path.to_string_lossy().contains("block-00000")).unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    refused(project.run(&["run", "read.rhai"]), "does not hold what was");
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, &bytes).unwrap();
    project.run(&["run", "read.rhai"]).exits(0);
    // A manifest that says nothing is no manifest of ours.
    let manifest = project.read("out/manifest.json");
    project.write("out/manifest.json", "{}");
    refused(project.run(&["run", "read.rhai"]), "manifest.json` does not hold what");
    project.write("out/manifest.json", &manifest);
    let config = project.read("out/config.json");
    project.write("out/config.json", &config.replace("256", "255"));
    refused(project.run(&["run", "read.rhai"]), "config.json` does not hold what");
    project.write("out/config.json", &config.replace("\n", "\n\n"));
    // Whoever means it says so.
    fs::remove_file(project.path().join("out/manifest.json")).unwrap();
    project.run(&["run", "read.rhai"]).exits(0);
}

#[test]
fn nothing_of_the_users_is_in_the_way_of_a_save() {
    let project = project("");
    let texts = || {
        ["mine/record.json", "mine/poem.txt", "file", "tiny/config.json", "workbench.toml", "mine/manifest.json"]
            .map(|name| project.read(name))
    };
    project.write("mine/record.json", "{}");
    project.write("mine/poem.txt", "o");
    project.write("mine/manifest.json", "{\"name\": \"an extension\"}");
    project.write("file", "x");
    std::os::unix::fs::symlink("mine", project.path().join("link")).unwrap();
    std::os::unix::fs::symlink("nowhere", project.path().join("dangling")).unwrap();
    let before = texts();
    for cached in [false, true] {
        for (folder, because) in [
            ("mine", "is there already and was not saved by the workbench"),
            ("tiny", "is there already and was not saved by the workbench"),
            ("file", "is there already and is no folder"),
            ("file/inside", "is no folder"),
            ("link", "is a symbolic link"),
            ("dangling", "is a symbolic link"),
            (".", "was not saved by the workbench"),
            ("..", "names no folder"),
            ("/", "names no folder"),
            ("nowhere/../out", "leads through a folder that is not there"),
            ("results/store/v1/objects/x", "would mix with the workbench's own"),
            ("results/reports", "results/reports` "),
        ] {
            refused(save(&project, folder), because);
        }
        assert_eq!(texts(), before);
        if !cached {
            // A new folder below others, an empty one, and one beside the store are nobody's.
            fs::create_dir(project.path().join("empty")).unwrap();
            for folder in ["new/deep/out", "empty", "results/models/w8"] {
                save(&project, folder).exits(0);
                assert!(project.path().join(folder).join("config.json").is_file());
            }
        }
    }
    fs::remove_dir_all(project.path().join("results")).unwrap();
    refused(save(&project, "results"), "results` is there already");
}

#[test]
fn two_models_share_no_folder() {
    for (other, because) in [
        ("out/inner", "lies within or around"),
        (".", "was not saved by the workbench"),
        ("./out", "two results are saved as"),
        ("linked/out", "within or around"),
    ] {
        let project = project(&format!(
            "base.quantize(\"rtn\", #{{ scheme: {W8}, targets: \"*.up_proj\" }}).save_as(\"{other}\");"
        ));
        std::os::unix::fs::symlink(".", project.path().join("linked")).unwrap();
        refused(save(&project, "out"), because);
        assert!(!project.path().join("out").exists());
    }
    // Nor a model with what the script reads, even where that was saved by an earlier one.
    let project = project("");
    project.write("first.rhai", r#"model("tiny").transform("rotate").save_as("plain");"#);
    project.run(&["run", "first.rhai"]).exits(0);
    project.write("onto.rhai", &format!(r#"model("plain").quantize("rtn", #{{ scheme: {W8} }}).save_as("plain");"#));
    refused(project.run(&["run", "onto.rhai"]), "what the script reads");
}

#[test]
fn what_cannot_be_saved_costs_no_table_and_leaves_nothing() {
    let project = project("");
    let table = save(&project, "first").exits(0).out;
    let model = project.stored("results", "quantize", "rtn")[0].0.join("model");
    let shard = fs::read_dir(model).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("block"));
    let (shard, mut bytes) = (shard.clone().unwrap(), fs::read(shard.unwrap()).unwrap());
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&shard, bytes).unwrap();
    let outcome = save(&project, "deep/second").exits(3);
    assert_eq!(outcome.out, table, "{}", outcome.err);
    assert!(outcome.err.contains("not saved: deep/second") && outcome.err.contains("damaged"), "{}", outcome.err);
    assert!(!project.path().join("deep").exists());
}
