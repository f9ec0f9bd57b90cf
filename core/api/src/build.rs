//! A digest of the sources that a plugin is built from, for its build script:
//!
//! ```toml
//! [build-dependencies]
//! workbench-api = { path = "…", default-features = false, features = ["build"] }
//! ```
//! ```ignore
//! fn main() {
//!     workbench_api::build::stamp_sources();
//! }
//! ```
//!
//! The digest is part of every result's key: a result is computed again when the plugin changes, and not when it is merely
//! built again, elsewhere or with other optimisations. It covers each crate that the plugin links, as `cargo tree` lists
//! them: the sources of those that lie in folders (the plugin itself, this crate, workbench-quant, …), name, version and
//! features of those from a registry, the revision of those from git. Folders count by their content, not by their place.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Sets `WORKBENCH_SOURCE_DIGEST` for the crate whose build script calls this; the export macros pick it up. Without a
/// stamp (cargo cannot list the crates) the host takes the digest of the library file.
#[allow(clippy::print_stdout)]
pub fn stamp_sources() {
    match linked_crates().and_then(|crates| digest(&crates)) {
        Ok((digest, watched)) => {
            println!("cargo::rustc-env=WORKBENCH_SOURCE_DIGEST={digest}");
            for path in watched.iter().chain(&lock_file()) {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
        Err(reason) => println!("cargo::warning=no digest of the sources: {reason}"),
    }
}

/// The lock file that decided the versions: that of the crate or of the workspace above it.
fn lock_file() -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR")?);
    folder.ancestors().map(|folder| folder.join("Cargo.lock")).find(|file| file.is_file())
}

/// A linked crate: what cargo says about it, and its folder if its sources are at hand.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct LinkedCrate {
    title: String,
    folder: Option<PathBuf>,
}

fn linked_crates() -> Result<BTreeSet<LinkedCrate>, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is not set"));
    let output = Command::new(variable("CARGO")?)
        .args(["tree", "--offline", "--edges", "normal", "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p}|{f}", "--target", &variable("TARGET")?])
        .arg("--manifest-path")
        .arg(Path::new(&variable("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .output()
        .map_err(|error| format!("cargo tree: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("cargo tree: {}", said.lines().next().unwrap_or("failed")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().filter_map(parse_line).collect())
}

/// Reads `name v1.2.3 (proc-macro) (/folder or git url)|features`.
fn parse_line(line: &str) -> Option<LinkedCrate> {
    let (package, features) = line.rsplit_once('|')?;
    let mut words = package.splitn(3, ' ');
    let (name, version) = (words.next()?, words.next()?);
    let place = words.next().unwrap_or_default().replace("(proc-macro)", "");
    let place = place.trim().trim_start_matches('(').trim_end_matches(')');
    let folder = Path::new(place).is_absolute().then(|| PathBuf::from(place));
    let origin = if folder.is_some() { "" } else { place };
    Some(LinkedCrate { title: format!("{name} {version} {origin} {features}"), folder })
}

/// The digest of all crates in their order, and every path that it depends on.
fn digest(crates: &BTreeSet<LinkedCrate>) -> Result<(String, Vec<PathBuf>), String> {
    let (mut hasher, mut watched) = (blake3::Hasher::new(), Vec::new());
    for linked in crates {
        hasher.update(linked.title.as_bytes()).update(b"\n");
        let Some(folder) = &linked.folder else { continue };
        let mut files = vec![folder.join("Cargo.toml")];
        files.extend(Some(folder.join("build.rs")).filter(|file| file.is_file()));
        watched.extend(files.iter().cloned());
        watched.push(folder.join("src"));
        collect(&folder.join("src"), &mut files)?;
        files.sort();
        for file in files {
            let content = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
            let name = file.strip_prefix(folder).unwrap_or(&file).to_string_lossy().replace('\\', "/");
            hasher.update(name.as_bytes()).update(b"\n");
            hasher.update(blake3::hash(&content).as_bytes());
        }
    }
    Ok((hasher.finalize().to_hex().to_string(), watched))
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargos_lines_are_read() {
        let line = |text| parse_line(text).unwrap();
        assert_eq!(line("half v2.7.1|bytemuck,std").title, "half v2.7.1  bytemuck,std");
        assert_eq!(line("a v0.1.0 (/home/b c/a)|").folder, Some(PathBuf::from("/home/b c/a")));
        assert_eq!(line("d v1.0.0 (proc-macro) (/d)|x").folder, Some(PathBuf::from("/d")));
        let git = line("g v1.0.0 (https://example.org/g?rev=1#12345678)|");
        assert_eq!((git.folder, git.title.contains("#12345678")), (None, true));
    }

    #[test]
    fn the_digest_follows_content_and_not_place() {
        let root = std::env::temp_dir().join(format!("workbench-stamp-{}", std::process::id()));
        let write = |place: &str, text: &str| {
            let folder = root.join(place);
            fs::create_dir_all(folder.join("src/deep")).unwrap();
            fs::write(folder.join("Cargo.toml"), "[package]").unwrap();
            fs::write(folder.join("src/deep/a.rs"), text).unwrap();
            let linked = LinkedCrate { title: "a v1".to_owned(), folder: Some(folder) };
            digest(&BTreeSet::from([linked])).unwrap().0
        };
        let (here, there, changed) = (write("x", "fn a() {}"), write("y/z", "fn a() {}"), write("x", "fn a() {1}"));
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(here, there);
        assert_ne!(here, changed);
    }
}
