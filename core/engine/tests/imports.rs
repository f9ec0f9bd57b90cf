//! Which files of the program a file imports, read off the sources.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use regex::Regex;

/// A path as `use` and expressions spell it, without `self` and `super`; a crate's own begin with `crate`.
type Name = Vec<String>;

/// The program's sources by module.
pub(super) struct Sources {
    modules: BTreeMap<Name, Module>,
}

struct Module {
    /// From the folder of the workspace.
    file: String,
    /// What its `use`s make known, by the name that it has here.
    known: BTreeMap<String, Name>,
    /// Everything that it names, by `use` or in an expression.
    named: BTreeSet<Name>,
}

/// What one file imports.
#[derive(Default)]
pub(super) struct Imports {
    /// Files of the program.
    pub files: BTreeSet<String>,
    /// Other crates.
    pub crates: BTreeSet<String>,
}

impl Sources {
    /// Reads everything below `core/` that belongs to the program.
    pub(super) fn read(root: &Path) -> Self {
        let mut modules = BTreeMap::new();
        for file in files(root, "core") {
            let mut name: Name = file.trim_end_matches(".rs").split('/').skip(1).map(str::to_owned).collect();
            name.pop_if(|last| last == "mod");
            let module = Module::read(file.clone(), &name, &fs::read_to_string(root.join(&file)).unwrap());
            modules.insert(name, module);
        }
        let names: BTreeSet<Name> = modules.keys().cloned().collect();
        for (name, module) in &mut modules {
            module.complete(name, &names);
        }
        Self { modules }
    }

    /// The files below a folder.
    pub(super) fn below(&self, folder: &str) -> BTreeSet<String> {
        let all = self.modules.values().map(|module| module.file.clone());
        all.filter(|file| file.starts_with(&format!("{folder}/"))).collect()
    }

    /// What a file imports, where it leads over a module that only passes on (`pub use`) too.
    pub(super) fn imports(&self, file: &str) -> Imports {
        let mut found = Imports::default();
        let module = self.modules.values().find(|module| module.file == file);
        for name in module.into_iter().flat_map(|module| &module.named) {
            self.resolve(name, &mut found);
        }
        found
    }

    fn resolve(&self, name: &[String], found: &mut Imports) {
        let Some(own) = name.strip_prefix(&["crate".to_owned()]) else {
            found.crates.extend(name.first().cloned());
            return;
        };
        let known = (0..=own.len()).rev().find_map(|length| Some((length, self.modules.get(&own[..length])?)));
        let Some((length, module)) = known else { return };
        match own[length..].first() {
            // The module itself: whatever it holds can be reached through it.
            None => {
                found.files.insert(module.file.clone());
                let inside = self.modules.iter().filter(|(other, _)| length > 0 && other.starts_with(own));
                found.files.extend(inside.map(|(_, module)| module.file.clone()));
            }
            Some(item) => match module.known.get(item) {
                Some(passed_on) if passed_on != name => self.resolve(passed_on, found),
                _ => drop(found.files.insert(module.file.clone())),
            },
        }
    }
}

impl Module {
    /// Spells out paths that begin with a module inside of this one, or with what a `use` made known.
    fn complete(&mut self, own: &[String], modules: &BTreeSet<Name>) {
        let known = self.known.clone();
        let whole = |path: &Name| -> Name {
            let inner: Name = own.iter().chain(&path[..1]).cloned().collect();
            if path[0] == "crate" {
                return path.clone();
            }
            if modules.contains(&inner) {
                return std::iter::once("crate".to_owned()).chain(inner).chain(path[1..].iter().cloned()).collect();
            }
            match known.get(&path[0]) {
                Some(before) if before != path => before.iter().chain(&path[1..]).cloned().collect(),
                _ => path.clone(),
            }
        };
        self.named = self.named.iter().map(whole).collect();
        self.known = known.iter().map(|(name, path)| (name.clone(), whole(path))).collect();
    }

    fn read(file: String, name: &[String], text: &str) -> Self {
        let code = without_comments_and_texts(text);
        // By convention a file ends with its tests.
        let code = code.split("\n#[cfg(test)]\nmod tests {").next().unwrap();
        let code = Regex::new(r"pub\s*\([^)]*\)").unwrap().replace_all(code, "pub");
        let uses = Regex::new(r"\buse\s+([^;]+);").unwrap();
        let (mut known, mut named) = (BTreeMap::new(), BTreeSet::new());
        for found in uses.captures_iter(&code) {
            for (path, alias) in expand(&found[1]) {
                let path = absolute(&path, name);
                known.insert(alias, path.clone());
                named.insert(path);
            }
        }
        let rest = uses.replace_all(&code, "");
        for found in Regex::new(r"\b(?:crate|self|super)(?:::\w+)+").unwrap().find_iter(&rest) {
            let path: Name = found.as_str().split("::").map(str::to_owned).collect();
            named.insert(absolute(&path, name));
        }
        for found in Regex::new(r"(?:^|[^\w:])((?:workbench_)?[a-z][a-z0-9_]*)::").unwrap().captures_iter(&rest) {
            // Names of other crates in expressions, and of what `use` made known, which is counted already.
            if found[1].starts_with("workbench_") {
                named.insert(vec![found[1].to_owned()]);
            }
        }
        Self { file, known, named }
    }
}

/// The paths of a `use`, each with the name under which it is known.
fn expand(tree: &str) -> Vec<(Name, String)> {
    let tree = tree.trim();
    if let Some((head, rest)) = tree.split_once('{') {
        let head: Name = head.trim().trim_end_matches("::").split("::").map(str::to_owned).collect();
        let head: Name = head.into_iter().filter(|part| !part.is_empty()).collect();
        let inner = &rest[..rest.rfind('}').unwrap()];
        let (mut depth, mut start, mut all) = (0_usize, 0, Vec::new());
        for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    all.extend(expand(&inner[start..at]));
                    start = at + 1;
                }
                _ => {}
            }
        }
        return all.into_iter().map(|(path, alias)| join(&head, path, alias)).collect();
    }
    if tree.is_empty() {
        return Vec::new();
    }
    let (path, alias) = tree.split_once(" as ").unwrap_or((tree, ""));
    let path: Name = path.split("::").map(|part| part.trim().to_owned()).collect();
    let alias = if alias.is_empty() { path.last().unwrap().clone() } else { alias.trim().to_owned() };
    vec![join(&[], path, alias)]
}

fn join(head: &[String], path: Name, alias: String) -> (Name, String) {
    let mut whole: Name = head.iter().cloned().chain(path).collect();
    let alias = match alias.as_str() {
        "self" if whole.len() > 1 => {
            whole.pop();
            whole.last().unwrap().clone()
        }
        _ => alias,
    };
    // `*` stands for whatever the module holds.
    whole.pop_if(|last| last == "*");
    (whole, alias)
}

/// A path without `self` and `super`, as a module of that name means it.
fn absolute(path: &[String], module: &[String]) -> Name {
    let mut base = module.to_vec();
    let mut rest = path;
    match path.first().map(String::as_str) {
        Some("self") => rest = &path[1..],
        Some("super") => {
            while rest.first().is_some_and(|part| part == "super") {
                base.pop();
                rest = &rest[1..];
            }
        }
        _ => return path.to_vec(),
    }
    std::iter::once("crate".to_owned()).chain(base).chain(rest.iter().cloned()).collect()
}

fn without_comments_and_texts(text: &str) -> String {
    let hidden = Regex::new(r##"(?s)//[^\n]*|r#".*?"#|"(?:\\.|[^"\\])*"|'(?:\\.[^']*|[^'\\])'"##).unwrap();
    hidden.replace_all(text, "").into_owned()
}

/// Rust files below a folder that are neither tests nor crates of their own.
fn files(root: &Path, folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root.join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let inner = format!("{folder}/{name}");
        if path.is_dir() && !["tests", "benches"].contains(&name.as_str()) && !path.join("Cargo.toml").exists() {
            found.extend(files(root, &inner));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(inner);
        }
    }
    found
}

#[test]
fn uses_are_taken_apart() {
    let module: Name = ["steps", "train"].map(str::to_owned).to_vec();
    let text = "use std::fs;\npub(in crate::steps) use super::{common::{self, Finding as F}, host::*};\n\
        use crate::data as d; // use crate::never;\nfn f() { let x = \"crate::text\"; crate::calib::wants(super::a) }\n\
        #[cfg(test)]\nmod tests {\n    use crate::tests::only;\n}\n";
    let read = Module::read("core/steps/train/mod.rs".to_owned(), &module, text);
    let name = |path: &str| path.split("::").map(str::to_owned).collect::<Name>();
    let named: Vec<String> = read.named.iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::calib::wants",
        "crate::data",
        "crate::steps::a",
        "crate::steps::common",
        "crate::steps::common::Finding",
        "crate::steps::host",
        "std::fs",
    ];
    assert_eq!(named, expected);
    assert_eq!(read.known["F"], name("crate::steps::common::Finding"));
    assert_eq!((&read.known["common"], &read.known["d"]), (&name("crate::steps::common"), &name("crate::data")));
}
