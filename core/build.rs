//! Stamps the digests of the engine's sources into the binary, for the keys of nodes.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

#[path = "engine/parts.rs"]
mod parts;

use parts::{NOT_NUMERIC, NUMERIC, PARTS};

fn main() {
    let mut digests = Vec::new();
    for (part, folders) in PARTS {
        let mut files = Vec::new();
        for folder in *folders {
            // A part that moved must not drop out of the keys without a word.
            assert!(Path::new(folder).is_dir(), "core/engine/parts.rs names `{folder}`, which is no folder");
            println!("cargo::rerun-if-changed={folder}");
            collect(Path::new(folder), &mut files);
        }
        files.sort();
        let mut hash = Fnv::new();
        for file in files {
            hash.write(file.to_string_lossy().as_bytes());
            hash.write(&fs::read(&file).unwrap_or_default());
        }
        digests.push((*part, hash.finish()));
    }
    digests.push(("dependencies", dependencies()));
    let lines: String = digests.iter().map(|(part, digest)| format!("(\"{part}\", \"{digest:032x}\"),\n")).collect();
    let place = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("digests.rs");
    fs::write(place, format!("&[\n{lines}]\n")).expect("OUT_DIR can be written to");
}

/// The digest of the locked packages that can change a number, and of what the workspace asks of each: a feature chooses other
/// kernels as a version does.
fn dependencies() -> u128 {
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=Cargo.toml");
    println!("cargo::rerun-if-changed=core/model/Cargo.toml");
    let lock = fs::read_to_string("Cargo.lock").unwrap_or_default();
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    let named = |name: &str| {
        let line = format!("name = \"{name}\"\n");
        packages.iter().filter(move |package| package.contains(&line)).copied()
    };
    let (mut counted, mut due) = (BTreeSet::new(), Vec::new());
    for name in NUMERIC {
        let before = due.len();
        due.extend(named(name));
        assert!(due.len() > before, "core/engine/parts.rs names the package `{name}`, which is not locked");
    }
    while let Some(package) = due.pop() {
        if counted.insert(package) {
            let names = needs(package).into_iter().filter(|name| !NOT_NUMERIC.contains(name));
            due.extend(names.flat_map(named));
        }
    }
    let mut hash = Fnv::new();
    counted.iter().for_each(|package| hash.write(package.as_bytes()));
    for manifest in ["Cargo.toml", "core/model/Cargo.toml"] {
        let text = fs::read_to_string(manifest).unwrap_or_default();
        let asked = |line: &&str| NUMERIC.iter().any(|name| line.split([' ', '.', '=']).next() == Some(name));
        text.lines().filter(asked).for_each(|line| hash.write(line.as_bytes()));
    }
    hash.finish()
}

/// Names of the packages that a locked package is built on.
fn needs(package: &str) -> Vec<&str> {
    let list = package.split_once("dependencies = [").and_then(|(_, rest)| rest.split_once(']'));
    let names = list.map_or("", |(names, _)| names).lines().filter_map(|line| line.trim().strip_prefix('"'));
    names.filter_map(|name| name.split(['"', ' ']).next()).collect()
}

/// The files of a folder, without its tests: they decide nothing.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()) {
        match path.file_name().and_then(|name| name.to_str()) {
            Some("tests" | "tests.rs") => {}
            _ if path.is_dir() => collect(&path, files),
            _ => files.push(path),
        }
    }
}

/// 128-bit FNV-1a: enough to tell versions of our own sources apart, without a build dependency.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
        // A length after each part keeps "ab" + "c" apart from "a" + "bc".
        for byte in (bytes.len() as u64).to_le_bytes() {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn finish(&self) -> u128 {
        self.0
    }
}
