mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use self::imports::Sources;
use super::{
    digests,
    parts::{NOT_NUMERIC, NUMERIC, PARTS},
    parts_of,
};
use crate::identity::NodeKind;

const KINDS: [NodeKind; 5] =
    [NodeKind::Transform, NodeKind::Quantize, NodeKind::Train, NodeKind::Evaluate, NodeKind::Generate];

/// Rooms that a step imports and that decide no bytes of its result.
const DECIDE_NOTHING: &[(&str, &str)] = &[
    ("core/error.rs", "messages"),
    ("core/words.rs", "messages"),
    ("core/progress.rs", "tells how far work is"),
    ("core/exec/", "hands a job over, tells what happens"),
    ("core/store/", "keeps what it is given, and says whether it still is that"),
    ("core/plugin/", "passes on what a plugin puts, or refuses it"),
    ("core/graph/node.rs", "names of files"),
    ("core/identity/", "names of results, and whether a file is the one that was keyed"),
    ("core/demo/", "texts with a version of their own, which is keyed where one is read"),
];

/// Crates of which no version changes a number.
const COUNT_NOTHING: &[(&str, &str)] = &[
    ("blake3", "digests of bytes"),
    ("libc", "system calls"),
    ("memmap2", "files in memory"),
    ("schemars", "descriptions of parameters"),
    ("serde", "shapes of JSON; its numbers are serde_json's"),
    ("std", "comes with the compiler"),
    ("strsim", "messages"),
    ("thiserror", "messages"),
    ("workbench_api", "part of the digest of every plugin"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folders(kind: NodeKind) -> Vec<&'static str> {
    let parts = PARTS.iter().filter(|(part, _)| parts_of(kind).contains(part));
    parts.flat_map(|(_, folders)| folders.iter().copied()).collect()
}

/// Files that files lead to by what they import, themselves among them, and the crates that they import, each with one of its
/// importers. What decides nothing is not looked into.
fn walk(kind: NodeKind, sources: &Sources, start: BTreeSet<String>) -> (BTreeSet<String>, BTreeMap<String, String>) {
    let folders = folders(kind);
    let covered = |file: &str| folders.iter().any(|folder| file.starts_with(&format!("{folder}/")));
    let mut due: Vec<(String, String)> = start.into_iter().map(|file| (file, "nobody".into())).collect();
    let (mut seen, mut crates) = (BTreeSet::new(), BTreeMap::new());
    while let Some((file, from)) = due.pop() {
        let decides = !DECIDE_NOTHING.iter().any(|(room, _)| file.starts_with(room));
        if !seen.insert(file.clone()) || !decides {
            continue;
        }
        assert!(covered(&file), "`{file}`, imported by `{from}`, decides nothing of the keys of `{kind}`");
        let found = sources.imports(&file);
        due.extend(found.files.into_iter().map(|next| (next, file.clone())));
        crates.extend(found.crates.into_iter().map(|name| (name, file.clone())));
    }
    (seen, crates)
}

/// A new file that a step imports must not decide results behind the keys' back.
#[test]
fn keys_cover_what_steps_import() {
    let sources = Sources::read(root());
    let mut unused: BTreeSet<&str> = DECIDE_NOTHING.iter().chain(COUNT_NOTHING).map(|(name, _)| *name).collect();
    for kind in KINDS {
        let step = sources.below(&format!("core/steps/{kind}"));
        assert!(!step.is_empty(), "{kind}");
        let (reached, _) = walk(kind, &sources, step);
        for folder in folders(kind).into_iter().filter(|folder| !folder.ends_with("/src")) {
            let used = reached.iter().any(|file| file.starts_with(&format!("{folder}/")));
            assert!(used, "`{kind}` imports nothing of `{folder}`");
        }
        let all = folders(kind).into_iter().flat_map(|folder| sources.below(folder)).collect();
        let (seen, crates) = walk(kind, &sources, all);
        unused.retain(|room| !seen.iter().any(|file| file.starts_with(room)));
        for (name, file) in crates {
            unused.remove(name.as_str());
            assert!(counts(&name, kind), "`{file}` imports `{name}`, which is in no key of `{kind}`");
        }
    }
    // What the crates link that the steps link.
    let linking = PARTS.iter().flat_map(|(_, folders)| *folders).filter(|folder| folder.ends_with("/src"));
    for folder in linking {
        let manifest = fs::read_to_string(root().join(folder).join("../Cargo.toml")).unwrap();
        let (_, linked) = manifest.split_once("\n[dependencies]\n").unwrap();
        let linked = linked.split("\n[").next().unwrap().lines();
        for name in linked.filter_map(|line| line.split([' ', '.', '=']).next()).filter(|name| !name.is_empty()) {
            let name = name.replace('-', "_");
            unused.remove(name.as_str());
            assert!(counts(&name, NodeKind::Quantize), "{folder} links `{name}`");
        }
    }
    assert!(unused.is_empty(), "nothing needs the exceptions {unused:?} any more");
}

/// Whether a version of a crate is in the keys of a kind, or need not be.
fn counts(name: &str, kind: NodeKind) -> bool {
    if COUNT_NOTHING.iter().any(|(other, _)| *other == name) {
        return true;
    }
    let package = name.replace('_', "-");
    let own = format!("core/{}/src", package.strip_prefix("workbench-").unwrap_or("-"));
    NUMERIC.iter().any(|numeric| numeric.replace('_', "-") == package) || folders(kind).contains(&own.as_str())
}

#[test]
fn every_part_has_a_digest_and_no_two_the_same() {
    for kind in KINDS {
        let found = digests(kind);
        let found = found.as_object().unwrap();
        let names: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        assert_eq!(names, parts_of(kind).iter().copied().collect(), "{kind}");
        let different: BTreeSet<&str> = found.values().map(|digest| digest.as_str().unwrap()).collect();
        assert_eq!(different.len(), found.len(), "{kind}");
        assert!(different.iter().all(|digest| digest.len() == 32), "{kind}");
    }
    assert!(super::demo().len() == 32 && super::report().len() == 32 && super::demo() != super::report());
}

/// A package at which counting ends must be locked, or the exception is for nothing.
#[test]
fn exceptions_among_packages_are_locked() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for name in NUMERIC.iter().chain(NOT_NUMERIC) {
        assert!(lock.contains(&format!("\nname = \"{name}\"\n")), "{name}");
    }
    for built_on in ["fancy-regex", "gemm-f32", "gemm-common", "unicode-normalization-alignments", "rand_distr"] {
        assert!(!NOT_NUMERIC.contains(&built_on) && lock.contains(&format!("\nname = \"{built_on}\"\n")));
    }
}

/// The identity of a bundled plugin is the digest of all that it is built from.
#[test]
fn bundled_plugins_stamp_their_sources() {
    let mut plugins = 0;
    for folder in fs::read_dir(root().join("plugins")).unwrap().map(|entry| entry.unwrap().path()) {
        if folder.join("Cargo.toml").exists() {
            let script = fs::read_to_string(folder.join("build.rs")).unwrap_or_default();
            assert!(script.contains("workbench_api::build::stamp_sources()"), "{}", folder.display());
            plugins += 1;
        }
    }
    assert!(plugins >= 8, "{plugins}");
}
