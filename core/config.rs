//! `workbench.toml`: where plugins lie and how runs use the machine.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::error::{Error, Result};

/// The file that marks the root of a project.
pub const FILE: &str = "workbench.toml";

/// Settings of a project. Everything may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where results go, from the project's root; `results` if not given.
    pub results: Option<PathBuf>,
    pub plugins: Plugins,
    pub run: Run,
}

/// Where plugins are looked for, beside the folder of the program.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Plugins {
    /// Folders, from the project's root.
    pub path: Vec<PathBuf>,
    /// Seconds without a call to the host after which a plugin counts as hung.
    pub timeout: Option<u64>,
}

/// How runs use the machine.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Run {
    /// Nodes at a time.
    pub jobs: Option<usize>,
    /// Threads of each node.
    pub threads: Option<usize>,
    /// Memory for all nodes together: `"8 GiB"`.
    pub memory: Option<String>,
}

/// A project: its root and its settings.
#[derive(Clone, Debug, Default)]
pub struct Project {
    pub root: PathBuf,
    pub config: Config,
}

impl Project {
    /// The project around a script or a folder: the nearest folder upwards that holds `workbench.toml`; where there is none, that
    /// around the current folder; and where there is none either, the folder itself, which for a script is the one that it lies in.
    ///
    /// # Errors
    /// The current folder cannot be found; the settings are not understood.
    pub fn around(start: &Path) -> Result<Self> {
        let here = std::env::current_dir().map_err(|e| Error::io("find", Path::new("."), &e))?;
        let start = start.canonicalize().unwrap_or_else(|_| here.clone());
        let above = |from: &Path| from.ancestors().find(|folder| folder.join(FILE).exists()).map(Path::to_owned);
        match above(&start).or_else(|| above(&here)) {
            Some(root) => Ok(Self { config: read(&root.join(FILE))?, root }),
            None => {
                let folder = if start.is_dir() { Some(start.as_path()) } else { start.parent() };
                Ok(Self { root: folder.unwrap_or(&here).to_owned(), config: Config::default() })
            }
        }
    }

    /// What reports call a file: its path from the root, wherever the command is given.
    pub fn name_of(&self, file: &Path) -> String {
        let whole = file.canonicalize().ok();
        let within = whole.as_deref().and_then(|whole| whole.strip_prefix(&self.root).ok());
        within.unwrap_or(file).display().to_string()
    }

    /// The results folder: as given on the command line, in the settings, or `results` under the root.
    pub fn results(&self, given: Option<&Path>) -> PathBuf {
        let named = self.config.results.as_deref().unwrap_or(Path::new("results"));
        given.map_or_else(|| self.root.join(named), Path::to_owned)
    }
}

fn read(path: &Path) -> Result<Config> {
    let text = workbench_model::regular_file(path).and_then(|()| fs::read_to_string(path));
    let text = text.map_err(|e| Error::io("read", path, &e))?;
    let config: Config = toml::from_str(&text).map_err(|e| {
        Error::usage(format!("`{}` is not understood", path.display())).cause(e.to_string().trim().to_owned())
    })?;
    if let Some(memory) = &config.run.memory {
        parse_bytes(memory)?;
    }
    Ok(config)
}

/// Reads `8 GiB`, `512MiB`, `2 GB` or a plain number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64> {
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let scale = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" | "k" => 1024.0,
        "mib" | "m" => f64::from(1 << 20),
        "gib" | "g" => f64::from(1 << 30),
        _ => 0.0,
    };
    match number.parse::<f64>() {
        Ok(value) if scale > 0.0 && value * scale >= 1.0 && value * scale < 1e18 => Ok((value * scale) as u64),
        _ => Err(Error::usage(format!("`{text}` is no amount of memory")).hint("write it as 8 GiB or 512 MiB")),
    }
}

/// Bytes for people.
pub fn show_bytes(bytes: u64) -> String {
    let units = [(1_u64 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    units
        .iter()
        .find(|(scale, _)| bytes >= *scale)
        .map_or_else(|| format!("{bytes} B"), |(scale, unit)| format!("{:.1} {unit}", bytes as f64 / *scale as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        assert_eq!(parse_bytes("8 GiB").unwrap(), 8 << 30);
        assert_eq!(parse_bytes("1.5MB").unwrap(), 1_500_000);
        assert_eq!(parse_bytes("4096").unwrap(), 4096);
        for bad in ["", "GiB", "-1 GiB", "8 parsecs", "0"] {
            assert!(parse_bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(show_bytes(3 << 29), "1.5 GiB");
        assert_eq!(show_bytes(12), "12 B");
    }

    #[test]
    fn unknown_settings_are_errors() {
        assert!(toml::from_str::<Config>("[run]\njobz = 2").is_err());
        assert_eq!(toml::from_str::<Config>("[run]\njobs = 2").unwrap().run.jobs, Some(2));
    }
}
