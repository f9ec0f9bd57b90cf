//! The plugins at hand.

use std::collections::BTreeMap;
use std::env::consts::DLL_EXTENSION;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::{fs, io, thread};

use serde::Serialize;
use serde_json::Value;
use workbench_api::descriptor::{Descriptor, Kind};

use super::child::ChildCommand;
use super::probe::{ProbeCache, probe};
use super::problem::{Problem, ProblemKind};
use crate::error::{Error, Result, did_you_mean};
use crate::identity::digest::KnownFile;

/// A folder to look for plugins in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchFolder {
    /// The folder.
    pub path: PathBuf,
    /// Whether the user named it: then everything in it that looks like a plugin and is none is worth a word. The folder
    /// of the program holds all kinds of libraries.
    pub named: bool,
}

/// Where plugins are looked for: beside the program, in the folders of the configuration, in those of
/// `WORKBENCH_PLUGIN_PATH` (separated as in `PATH`).
pub fn search_folders(program: &Path, configured: &[PathBuf], variable: Option<&OsStr>) -> Vec<SearchFolder> {
    let beside = program.parent().map(|path| SearchFolder { path: path.to_path_buf(), named: false });
    let from_variable = variable.map(std::env::split_paths).into_iter().flatten();
    let named = configured.iter().cloned().chain(from_variable).filter(|path| !path.as_os_str().is_empty());
    beside.into_iter().chain(named.map(|path| SearchFolder { path, named: true })).collect()
}

/// A plugin that can be run.
#[derive(Clone, Debug, Serialize)]
pub struct PluginInfo {
    /// What it says about itself.
    pub descriptor: Descriptor,
    /// `{name, version, digest}`: what of it decides its results.
    pub identity: Value,
    /// The file.
    pub path: PathBuf,
    /// The file as it was when it said so.
    #[serde(skip)]
    pub file: KnownFile,
}

/// Every plugin that was found, and every file that should have been one.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    plugins: BTreeMap<String, Vec<PluginInfo>>,
    problems: Vec<Problem>,
}

impl Registry {
    /// Looks through folders. Files that the cache does not know are loaded by children, a few at a time.
    pub fn discover(folders: &[SearchFolder], cache: &mut ProbeCache, child: &ChildCommand<'_>) -> Self {
        let mut registry = Self::default();
        let files = registry.candidates(folders);
        let unknown: Vec<&PathBuf> =
            files.iter().filter(|(file, _)| cache.recall(file).is_none()).map(|(file, _)| file).collect();
        let mut lost = BTreeMap::new();
        for files in unknown.chunks(4) {
            let fresh = thread::scope(|scope| {
                let probes: Vec<_> = files.iter().map(|file| scope.spawn(move || probe(file, child))).collect();
                probes.into_iter().map(thread::ScopedJoinHandle::join).collect::<Vec<_>>()
            });
            for (&file, fresh) in files.iter().zip(fresh) {
                let fresh = fresh.unwrap_or_else(|_| {
                    Err(Problem::new(file, ProblemKind::Faulty, "the workbench failed to probe it"))
                });
                let probed = fresh.and_then(|fresh| cache.remember(file, fresh));
                lost.insert(file.clone(), probed);
            }
        }
        for (file, named) in files {
            let probed = lost.remove(&file).or_else(|| cache.recall(&file));
            match probed {
                Some(Ok((descriptor, identity, known))) => {
                    let same_name = registry.plugins.entry(descriptor.name.clone()).or_default();
                    same_name.push(PluginInfo { descriptor, identity, path: file, file: known });
                }
                Some(Err(problem)) => {
                    let foreign = matches!(problem.kind, ProblemKind::NotAPlugin | ProblemKind::NotALibrary);
                    if named || !foreign {
                        registry.problems.push(problem);
                    }
                }
                None => registry.problems.push(Problem::new(&file, ProblemKind::Unreadable, "it vanished")),
            }
        }
        registry.problems.extend(registry.plugins.values().filter_map(|same_name| duplicate(same_name)));
        registry
    }

    /// Files with the extension of dynamic libraries, each once, and whether a folder that the user named holds them.
    fn candidates(&mut self, folders: &[SearchFolder]) -> Vec<(PathBuf, bool)> {
        let mut found: Vec<(PathBuf, bool)> = Vec::new();
        for folder in folders {
            let entries = fs::read_dir(&folder.path).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            let entries = match entries {
                Ok(entries) => entries,
                Err(error) => {
                    let message = format!("the plugin folder cannot be read: {error}");
                    self.problems.push(Problem::new(&folder.path, ProblemKind::Unreadable, message));
                    continue;
                }
            };
            let libraries = entries.into_iter().map(|entry| entry.path());
            let libraries = libraries.filter(|path| path.extension() == Some(OsStr::new(DLL_EXTENSION)));
            let mut libraries: Vec<PathBuf> = libraries.map(|path| fs::canonicalize(&path).unwrap_or(path)).collect();
            libraries.sort();
            for path in libraries {
                match found.iter_mut().find(|(known, _)| *known == path) {
                    Some((_, named)) => *named |= folder.named,
                    None => found.push((path, folder.named)),
                }
            }
        }
        found
    }

    /// The plugins, by name. Of a name that several files claim, none.
    pub fn plugins(&self) -> impl Iterator<Item = &PluginInfo> {
        self.plugins.values().filter_map(|same_name| match same_name.as_slice() {
            [plugin] => Some(plugin),
            _ => None,
        })
    }

    /// Files that should have been plugins, folders that cannot be read, names that two files claim.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// The plugin of a name and a kind.
    ///
    /// # Errors
    /// There is none, or there are two, or it is of another kind.
    pub fn find(&self, name: &str, kind: Kind) -> Result<&PluginInfo> {
        let Some(same_name) = self.plugins.get(name) else {
            return Err(self.unknown(name, kind));
        };
        if let Some(problem) = duplicate(same_name) {
            return Err(problem.into());
        }
        let plugin = same_name.first().ok_or_else(|| self.unknown(name, kind))?;
        let found = plugin.descriptor.kind;
        if found != kind {
            let message = format!("plugin `{name}` is a {}, not a {}", found.name(), kind.name());
            return Err(Error::usage(message).hint(format!("`{}` uses it", call_of(found))).at(name));
        }
        Ok(plugin)
    }

    fn unknown(&self, name: &str, kind: Kind) -> Error {
        let names: Vec<&str> = self.plugins().map(|plugin| plugin.descriptor.name.as_str()).collect();
        let of_kind: Vec<&str> = self
            .plugins()
            .filter(|plugin| plugin.descriptor.kind == kind)
            .map(|plugin| plugin.descriptor.name.as_str())
            .collect();
        let mut error = Error::usage(format!("there is no plugin `{name}`")).at(name);
        // A file of that name that could not be loaded is the likeliest reason.
        for problem in &self.problems {
            let stem = problem.file.file_stem().and_then(OsStr::to_str).unwrap_or_default();
            // Such as `libworkbench_gptq` of `gptq`.
            let words = format!("_{}_", stem.strip_prefix("lib").unwrap_or(stem).replace(['-', '.'], "_"));
            if words.contains(&format!("_{name}_")) {
                error = error.cause(problem.to_string()).maybe_hint(problem.hint.clone());
            }
        }
        if let Some(near) = did_you_mean(name, names.iter().copied()) {
            error = error.hint(format!("did you mean `{near}`?"));
        }
        match of_kind.as_slice() {
            [] => error.hint(format!(
                "no {} was found at all: build the plugins (`cargo build --workspace`) or name their folder in \
                 WORKBENCH_PLUGIN_PATH",
                kind.name()
            )),
            known => error.hint(format!("{}s at hand: {}", kind.name(), known.join(", "))),
        }
    }
}

fn duplicate(same_name: &[PluginInfo]) -> Option<Problem> {
    let [first, second, ..] = same_name else { return None };
    let message = format!("it is named `{}`, and so is {}", first.descriptor.name, second.path.display());
    Some(Problem::new(&first.path, ProblemKind::Duplicate, message).hint("remove one of the two files"))
}

fn call_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Quantizer => ".quantize(…)",
        Kind::Transform => ".transform(…)",
        Kind::Trainer => ".train(…)",
    }
}
