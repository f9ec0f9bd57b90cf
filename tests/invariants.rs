//! Rules between the parts of the sources, read off the sources themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

use regex::Regex;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The program's own sources by path, without tests, benches and comments.
fn library_code() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root().join("core"), root().join("plugins")];
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if path.is_dir() {
                if !["tests", "benches", "target"].contains(&name) {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") && name != "tests.rs" {
                let text = fs::read_to_string(&path).unwrap();
                // By convention a file ends with its tests.
                let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap();
                let code: Vec<&str> =
                    code.lines().map(|l| if l.trim_start().starts_with("//") { "" } else { l }).collect();
                found.insert(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned(), code.join("\n"));
            }
        }
    }
    assert!(found.len() > 150, "{} files", found.len());
    found
}

/// Fails for every line that matches outside the allowed places, and for allowed places that match nothing any more.
fn only_in(what: &str, pattern: &str, allowed: &[(&str, &str)]) {
    let pattern = Regex::new(pattern).unwrap();
    let (mut strays, mut used) = (Vec::new(), BTreeSet::new());
    for (file, code) in library_code() {
        for (index, line) in code.lines().enumerate().filter(|(_, line)| pattern.is_match(line)) {
            match allowed.iter().find(|(place, _)| file.starts_with(place)) {
                Some((place, _)) => drop(used.insert(*place)),
                None => strays.push(format!("{file}:{}: {}", index + 1, line.trim())),
            }
        }
    }
    let reasons: Vec<String> = allowed.iter().map(|(place, why)| format!("  {place}: {why}")).collect();
    assert!(strays.is_empty(), "{what} outside\n{}\n\n{}", reasons.join("\n"), strays.join("\n"));
    let unused: Vec<&str> = allowed.iter().map(|a| a.0).filter(|place| !used.contains(place)).collect();
    assert!(unused.is_empty(), "nothing needs the permission of {unused:?} any more");
}

#[test]
fn values_are_rounded_in_one_crate() {
    only_in(
        "rounding",
        r"\.round\(\)|\.round_ties_even\(\)|\.trunc\(\)|\brint(f)?\(|_cvt(t)?ps_epi|_cvt(t)?pd_epi|to_int_unchecked|\bas i8\b",
        &[
            ("core/quant/", "the grid kernel"),
            ("core/report/format.rs", "digits of a printed number"),
            ("core/schema/check.rs", "whether a parameter is a whole number"),
            ("core/api/src/example.rs", "whole numbers of an example as the integers that they are"),
            ("core/model/src/checkpoint/compressed.rs", "bytes of a file read as signed codes"),
            ("core/model/src/checkpoint/scales.rs", "bytes of a file read as signed zero-points"),
            ("core/model/src/checkpoint/gguf/blocks.rs", "bytes of a file read as signed codes"),
            ("core/model/src/checkpoint/gguf/k_blocks.rs", "bytes of a file read as signed scales"),
        ],
    );
}

#[test]
fn processes_are_started_in_two_places() {
    only_in(
        "starting processes",
        r"\bCommand::new\(|process::Command\b|libc::(fork|exec|posix_spawn)|\.exec\(\)",
        &[
            ("core/exec/", "processes of nodes"),
            ("core/plugin/child.rs", "children that take the risk of loading a library"),
            ("core/api/src/build.rs", "asks cargo for the sources of a plugin while that is built"),
        ],
    );
}

#[test]
fn files_are_written_in_few_places() {
    only_in(
        "writing files",
        r"fs::write\(|File::create|OpenOptions|fs::rename\(|create_dir|fs::copy\(|hard_link\(|remove_file\(|remove_dir",
        &[
            ("core/store/", "results"),
            ("core/build.rs", "the digests of the sources, into the folder that cargo gives a build script"),
            ("core/report/csv.rs", "a table grows while its run goes on"),
            ("core/report/tables.rs", "the folder of a report"),
            ("core/model/src/checkpoint/writer/", "checkpoints, into a folder that the caller gives"),
            (
                "core/model/src/activations.rs",
                "activations that do not fit into memory, into a folder that the caller gives",
            ),
            ("core/steps/common/resume.rs", "what a node resumes from, into its scratch folder"),
            (
                "core/steps/quantize/block.rs",
                "folders of activations that do not fit into memory, in the scratch folder of a node",
            ),
            (
                "core/steps/artifact/",
                "tokenizer files beside a checkpoint and large tensors, into the scratch folder of a node",
            ),
            ("core/kit/src/notes.rs", "what a plugin resumes from, into the scratch folder of a node"),
            ("plugins/awq/src/kept.rs", "hidden states to resume from, into the scratch folder of a node"),
            ("core/train/src/checkpoint.rs", "states to resume from, into the scratch folder of a node"),
            ("plugins/rotate/src/learn/checkpoint.rs", "rotations to resume from, into the scratch folder of a node"),
            ("core/plugin/new.rs", "a new plugin's crate"),
            ("core/demo/assets.rs", "the demo's files, where the user asks for them"),
            ("core/api/src/testing.rs", "scratch folders of examples"),
        ],
    );
}

#[test]
fn modules_have_names_in_one_folder() {
    let parts = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj|self_attn|input_layernorm|post_attention_layernorm|\
                 q_norm|k_norm|embed_tokens";
    let literal = format!(r#""[^"]*\b({parts}|model\.layers|model\.norm)\b|"(re:\.\*)?lm_head(\.weight)?""#);
    only_in(
        "names of modules",
        &literal,
        &[
            ("core/model/src/arch/", "the layout of every family"),
            ("core/script/api/scheme.rs", "a selector as a hint shows one"),
            ("plugins/auto_round/src/example.rs", "an example"),
            ("plugins/awq_clip/src/lib.rs", "its example"),
            ("plugins/block_ap/src/example.rs", "an example"),
            ("plugins/e2e_qp/src/example.rs", "an example"),
            ("plugins/outliers/src/example.rs", "an example"),
            ("plugins/qat/src/example.rs", "an example"),
            ("plugins/rotate/src/example.rs", "an example"),
            ("plugins/rtn/src/lib.rs", "its example"),
            ("core/kit/src/training_example.rs", "an example"),
            ("plugins/smoothquant/src/example.rs", "an example"),
        ],
    );
}

#[test]
fn devices_are_named_in_one_place() {
    only_in(
        "naming a device",
        r"Device::(Cpu|Cuda|Metal|new_|cuda_|metal_)",
        &[("core/model/src/device.rs", "where a node computes, and where files and kernels on slices are")],
    );
}

/// The workspace's packages with the names of what each depends on, development aside.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = |package: &Value| {
        let dependencies = package["dependencies"].as_array().unwrap().iter();
        (text(&package["name"]), dependencies.filter(|d| d["kind"] != "dev").map(|d| text(&d["name"])).collect())
    };
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

#[test]
fn dependencies_point_one_way() {
    let all = dependencies();
    let inner =
        |name: &str| -> Vec<&str> { all[name].iter().map(String::as_str).filter(|d| all.contains_key(*d)).collect() };
    assert!(inner("workbench-api").is_empty(), "plugins see nothing of the workbench behind the contract");
    assert!(inner("workbench-quant").is_empty(), "the grid kernel stands alone");
    assert!(inner("workbench-rotation").is_empty(), "rotations are functions of slices");
    assert!(inner("workbench-matmul").is_empty(), "matrix products are functions of slices");
    assert_eq!(inner("workbench-model"), ["workbench-matmul", "workbench-quant", "workbench-rotation"]);
    for dependency in inner("workbench-train") {
        assert!(["workbench-model", "workbench-quant"].contains(&dependency), "training depends on {dependency}");
    }
    assert_eq!(
        inner("workbench-plugin-model"),
        ["workbench-api", "workbench-model", "workbench-quant", "workbench-train"]
    );
    assert_eq!(inner("workbench"), ["workbench-api", "workbench-model", "workbench-quant"]);
    let libraries = ["api", "quant", "matmul", "rotation", "model", "train", "plugin-model"]
        .map(|library| format!("workbench-{library}"));
    let plugins: Vec<&String> = all.keys().filter(|n| *n != "workbench" && !libraries.contains(n)).collect();
    assert!(plugins.len() >= 4, "{plugins:?}");
    for plugin in plugins {
        assert!(!all[plugin].contains("workbench"), "{plugin} depends on the host");
        assert!(all[plugin].contains("workbench-api"), "{plugin} does not depend on the contract");
    }
    for (name, dependencies) in &all {
        let heavy: Vec<&String> = dependencies.iter().filter(|d| d.starts_with("polars") || *d == "rhai").collect();
        assert!(heavy.is_empty() || name == "workbench", "{name} depends on {heavy:?}");
    }
}

/// The rooms: folders of `core` that are no crates.
fn rooms() -> BTreeSet<String> {
    let folders = fs::read_dir(root().join("core")).unwrap().map(|entry| entry.unwrap().path());
    let rooms = folders.filter(|path| path.is_dir() && !path.join("Cargo.toml").exists() && !path.ends_with("benches"));
    rooms.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

/// What follows `crate::` in a source: one name, or the first names of a list in braces.
fn reached(code: &str) -> BTreeSet<String> {
    let first =
        |path: &str| path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if !rest.starts_with('{') {
            found.insert(first(rest));
            continue;
        }
        let (mut depth, mut begin) = (0, 1);
        for (index, letter) in rest.char_indices() {
            depth += i32::from(letter == '{') - i32::from(letter == '}');
            if depth == 0 || depth == 1 && letter == ',' {
                found.insert(first(&rest[begin..]));
                begin = index + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

/// Which rooms each room reaches.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let rooms = rooms();
    let mut arrows: BTreeMap<String, BTreeSet<String>> =
        rooms.iter().map(|room| (room.clone(), BTreeSet::new())).collect();
    for (file, code) in library_code() {
        let Some((room, _)) = file.strip_prefix("core/").and_then(|path| path.split_once('/')) else { continue };
        let Some(found) = arrows.get_mut(room) else { continue };
        found.extend(reached(&code).into_iter().filter(|name| name != room && rooms.contains(name)));
    }
    arrows
}

#[test]
fn names_behind_crate_are_found_in_any_spelling() {
    let code = "use crate::{\n    a::{B, c},\n    d,\n    e::F as g,\n};\nfn x() -> crate::h::I { crate::j() }\npub use crate::k::{L, M};";
    assert_eq!(reached(code).into_iter().filter(|n| !n.is_empty()).collect::<Vec<_>>(), ["a", "d", "e", "h", "j", "k"]);
}

/// The last column of the map, as far as it names rooms.
#[test]
fn rooms_look_at_those_that_the_map_names() {
    let Ok(map) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        eprintln!("skipped: rooms_look_at_those_that_the_map_names: there is no ARCHITECTURE.md");
        return;
    };
    let rooms = rooms();
    let word = Regex::new("`([a-z_]+)`").unwrap();
    let mut checked = 0;
    for (room, found) in arrows() {
        let row = map.lines().find(|line| {
            line.starts_with("| `core/") && line.split('|').nth(1).unwrap().contains(&format!("`core/{room}/`"))
        });
        let row = row.unwrap_or_else(|| panic!("the map has no row of core/{room}"));
        let column = row.trim_end().trim_end_matches('|').rsplit('|').next().unwrap();
        if column.contains("everything") {
            continue;
        }
        let named = word.captures_iter(column).map(|found| found[1].to_owned()).filter(|name| rooms.contains(name));
        assert_eq!(found, named.collect(), "core/{room}: what its sources reach, and what the map says");
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

#[test]
fn no_arrow_between_rooms_leads_back() {
    let mut arrows = arrows();
    assert!(arrows.values().map(BTreeSet::len).sum::<usize>() > 30, "{arrows:?}");
    // Rooms that reach none of those that are left, one layer after the other.
    while !arrows.is_empty() {
        let free: Vec<String> = arrows.iter().filter(|(_, to)| to.is_empty()).map(|(room, _)| room.clone()).collect();
        assert!(!free.is_empty(), "among these there is a circle: {arrows:#?}");
        arrows.retain(|room, _| !free.contains(room));
        arrows.values_mut().for_each(|to| to.retain(|room| !free.contains(room)));
    }
}

#[test]
fn the_map_names_every_folder() {
    let Ok(map) = fs::read_to_string(root().join("ARCHITECTURE.md")) else {
        eprintln!("skipped: the_map_names_every_folder: there is no ARCHITECTURE.md");
        return;
    };
    for parent in ["core", "plugins"] {
        for entry in fs::read_dir(root().join(parent)).unwrap().map(Result::unwrap) {
            let name = entry.file_name().into_string().unwrap();
            let named = Regex::new(&format!(r"\b{}\b", regex::escape(&name))).unwrap().is_match(&map);
            assert!(named || !entry.path().is_dir(), "ARCHITECTURE.md does not name {parent}/{name}");
        }
    }
}

/// A document that names files has to follow them.
#[test]
fn the_map_names_what_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let path = Regex::new(r"`((?:core|plugins|tests|experiments|scripts|results)/[\w./-]*)`").unwrap();
    let paths: BTreeSet<&str> = path.captures_iter(&text).map(|found| found.get(1).unwrap().as_str()).collect();
    assert!(paths.len() > 50, "{} paths", paths.len());
    // What a run leaves is not in a fresh clone.
    let missing: Vec<&&str> = paths.iter().filter(|path| **path != "results/" && !root().join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}");
    let (_, dry) = text.split_once("## Five changes, dry").unwrap();
    let rows = dry.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with("| a"));
    let besides: Vec<usize> = rows.map(|row| path.find_iter(row.rsplit(" | ").next().unwrap()).count()).collect();
    assert_eq!(besides.len(), 5);
    assert!(besides.iter().all(|files| *files <= 4), "{besides:?}");
}
