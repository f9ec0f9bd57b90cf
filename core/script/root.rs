//! Where the paths of a script begin.

use std::{
    ops::Deref,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    graph::node::DataSource,
};

/// The folder of the script's project. A path that the script spells out is taken from it, wherever the command is given; a path that
/// was given with `--set` is taken from the current folder, as every path of a command line, and from the project if it is not there.
#[derive(Clone, Debug, Default)]
pub struct Root {
    project: PathBuf,
    /// The values given with `--set`.
    given: Vec<String>,
}

impl Root {
    /// The root of a project, with the values of its command line.
    pub fn new(project: PathBuf, given: Vec<String>) -> Self {
        Self { project, given }
    }

    /// The folders in which a path is looked for, in order.
    pub(super) fn folders(&self, name: &str) -> Vec<PathBuf> {
        let here = self.is_given(name).then(|| std::env::current_dir().ok()).flatten();
        let mut folders: Vec<PathBuf> = here.into_iter().chain([self.project.clone()]).collect();
        folders.dedup();
        folders
    }

    /// A source of data as results call it, which is the same wherever the project lies.
    pub(super) fn name_of(&self, source: &DataSource) -> String {
        match source {
            DataSource::Demo(name) => format!("demo:{name}"),
            DataSource::Node(made) => made.name.clone(),
            DataSource::File(path) => path.strip_prefix(&self.project).unwrap_or(path).display().to_string(),
        }
    }

    /// Whether a path came with the command: as a value, as one of a list, or as something in a folder that did.
    fn is_given(&self, name: &str) -> bool {
        let within =
            |folder: &str| name.strip_prefix(folder.trim_end_matches('/')).is_some_and(|rest| rest.starts_with('/'));
        let is = |value: &String| {
            value == name || !value.is_empty() && within(value) || value.contains(&format!("\"{name}\""))
        };
        self.given.iter().any(is)
    }

    /// A file or folder by the path that a script has for it.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn find(&self, name: &str) -> Result<PathBuf> {
        let folders = self.folders(name);
        if let Some(found) = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists()) {
            return Ok(found);
        }
        let error = Error::usage(format!("there is no file or folder `{name}`")).at(name);
        if name.starts_with("hf:") {
            return Err(error
                .hint("models of the hub are not downloaded during a run: fetch the folder first and give its path"));
        }
        let shown: Vec<String> = folders.iter().map(|folder| format!("`{}`", folder.display())).collect();
        let error = match shown.as_slice() {
            [here, project] => {
                error.hint(format!("it was looked for in {here}, and in the script's project, {project}"))
            }
            _ => error.hint(format!("paths of a script begin at its project, {}", shown.join(""))),
        };
        match std::env::current_dir() {
            Ok(here) if !self.is_given(name) && here.join(name).exists() => {
                Err(error.hint(format!("there is one in the current folder: write `{}`", here.join(name).display())))
            }
            _ => Err(error),
        }
    }
}

impl Deref for Root {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.project
    }
}

impl From<&Path> for Root {
    fn from(project: &Path) -> Self {
        Self::new(project.to_owned(), Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_begin_at_the_project_unless_the_command_gave_them() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.txt"), "").unwrap();
        // Tests run in the folder of their package, which has a Cargo.toml.
        let root = Root::new(dir.path().to_owned(), vec!["Cargo.toml".into(), "core".into(), "[\"README.md\"]".into()]);
        assert_eq!(root.find("a.txt").unwrap(), dir.path().join("a.txt"));
        for given in ["Cargo.toml", "core/lib.rs", "README.md"] {
            assert_eq!(root.find(given).unwrap(), std::env::current_dir().unwrap().join(given));
        }
        let error = root.find("LICENSE-MIT").unwrap_err();
        assert!(error.hints.iter().any(|hint| hint.contains("in the current folder")), "{error}");
        std::fs::write(dir.path().join("Cargo.lock"), "").unwrap();
        assert_eq!(root.find("Cargo.lock").unwrap(), dir.path().join("Cargo.lock"));
    }
}
