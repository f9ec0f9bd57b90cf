//! Looking for plugins.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::{Kind, ProbeCache, ProblemKind, Registry, SearchFolder, search_folders};
use super::{child_command, library};

fn named(path: &Path) -> SearchFolder {
    SearchFolder { path: path.to_path_buf(), named: true }
}

fn copy(name: &str, folder: &Path, to: &str) {
    fs::copy(library(name), folder.join(to)).unwrap();
}

#[test]
fn plugins_are_found_once_and_remembered() {
    let folder = tempfile::tempdir().unwrap();
    copy("sign_linear", folder.path(), "libsign_linear.so");
    copy("untie", folder.path(), "libuntie.so");
    fs::write(folder.path().join("notes.txt"), "no library").unwrap();
    let children = AtomicUsize::new(0);
    let probe = child_command("probe");
    let counted = |file: &Path| {
        children.fetch_add(1, Ordering::Relaxed);
        probe(file)
    };

    let mut cache = ProbeCache::from_json("");
    let folders = [named(folder.path()), named(&folder.path().join("..").join(folder.path().file_name().unwrap()))];
    let registry = Registry::discover(&folders, &mut cache, &counted);
    assert!(registry.problems().is_empty(), "{:?}", registry.problems());
    let names: Vec<&str> = registry.plugins().map(|plugin| plugin.descriptor.name.as_str()).collect();
    assert_eq!(names, ["sign_linear", "untie"]);
    assert_eq!(children.load(Ordering::Relaxed), 2);

    // The second look starts no child; a changed file does.
    let mut cache = ProbeCache::from_json(&cache.to_json().unwrap());
    assert_eq!(Registry::discover(&folders, &mut cache, &counted).plugins().count(), 2);
    assert_eq!((children.load(Ordering::Relaxed), cache.to_json()), (2, None));
    fs::remove_file(folder.path().join("libuntie.so")).unwrap();
    copy("sign_block", folder.path(), "libuntie.so");
    let registry = Registry::discover(&folders, &mut cache, &counted);
    assert_eq!(children.load(Ordering::Relaxed), 3);
    assert!(registry.find("sign_block", Kind::Quantizer).is_ok());
}

#[test]
fn the_identity_says_what_decides_results() {
    let folder = tempfile::tempdir().unwrap();
    copy("sign_linear", folder.path(), "liba.so");
    let registry = Registry::discover(&[named(folder.path())], &mut ProbeCache::from_json(""), &child_command("probe"));
    let plugin = registry.find("sign_linear", Kind::Quantizer).unwrap();
    assert_eq!(plugin.identity["name"], "sign_linear");
    // The test plugins stamp no sources.
    let digest = blake3::hash(&fs::read(library("sign_linear")).unwrap()).to_hex().to_string();
    assert_eq!(plugin.identity["digest"], format!("file:{digest}"));
}

#[test]
fn two_files_of_one_name_are_an_error_that_names_both() {
    let folder = tempfile::tempdir().unwrap();
    copy("untie", folder.path(), "liba.so");
    copy("untie", folder.path(), "libb.so");
    let registry = Registry::discover(&[named(folder.path())], &mut ProbeCache::from_json(""), &child_command("probe"));
    let error = registry.find("untie", Kind::Transform).unwrap_err().to_string();
    assert!(error.contains("liba.so") && error.contains("libb.so") && error.contains("`untie`"), "{error}");
    assert_eq!(registry.problems()[0].kind, ProblemKind::Duplicate);
    assert_eq!(registry.plugins().count(), 0);
}

#[test]
fn only_folders_that_the_user_named_complain_about_other_libraries() {
    let folder = tempfile::tempdir().unwrap();
    copy("no_probe", folder.path(), "libother.so");
    fs::write(folder.path().join("text.so"), "text").unwrap();
    copy("newer_abi", folder.path(), "libnewer.so");
    let find = |named| {
        let folders = [SearchFolder { path: folder.path().to_path_buf(), named }];
        let registry = Registry::discover(&folders, &mut ProbeCache::from_json(""), &child_command("probe"));
        registry.problems().iter().map(|problem| problem.kind).collect::<Vec<_>>()
    };
    assert_eq!(find(false), [ProblemKind::Abi]);
    assert_eq!(find(true), [ProblemKind::Abi, ProblemKind::NotAPlugin, ProblemKind::NotALibrary]);
}

#[test]
fn a_missing_folder_is_a_problem() {
    let folders = [named(Path::new("/no/such/folder"))];
    let registry = Registry::discover(&folders, &mut ProbeCache::from_json(""), &child_command("probe"));
    assert_eq!(registry.problems()[0].kind, ProblemKind::Unreadable);
}

#[test]
fn asking_for_what_is_not_there_helps() {
    let folder = tempfile::tempdir().unwrap();
    copy("sign_linear", folder.path(), "libsign_linear.so");
    copy("untie", folder.path(), "libuntie.so");
    copy("other_grid", folder.path(), "libgptq.so");
    let registry = Registry::discover(&[named(folder.path())], &mut ProbeCache::from_json(""), &child_command("probe"));
    let error = registry.find("sign_liner", Kind::Quantizer).unwrap_err();
    assert_eq!(error.message, "there is no plugin `sign_liner`");
    assert_eq!(error.hints, ["did you mean `sign_linear`?", "quantizers at hand: sign_linear"]);
    let error = registry.find("untie", Kind::Quantizer).unwrap_err();
    assert_eq!(error.message, "plugin `untie` is a transform, not a quantizer");
    // The file that was meant is there, but cannot be used: that is what the user needs to hear.
    let error = registry.find("gptq", Kind::Quantizer).unwrap_err();
    assert!(error.causes[0].contains("grid rules"), "{error:?}");
}

#[test]
fn the_search_path_has_three_parts() {
    let found = search_folders(Path::new("/opt/workbench"), &["conf".into()], Some("/a:/b".as_ref()));
    let paths: Vec<(&str, bool)> = found.iter().map(|folder| (folder.path.to_str().unwrap(), folder.named)).collect();
    assert_eq!(paths, [("/opt", false), ("conf", true), ("/a", true), ("/b", true)]);
}
