//! `workbench plugins new`: a crate of one's own, outside the workbench's workspace, that builds, passes its test and runs.

use std::env::consts::{DLL_PREFIX, DLL_SUFFIX};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Where the new crate takes `workbench-api` and `workbench-quant` from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiSource {
    /// The folder of the workbench's sources.
    Folder(PathBuf),
    /// A git repository, and the revision to pin.
    Git {
        /// For example `https://example.org/workbench`.
        url: String,
        /// Commit, branch or tag; the default branch where there is none.
        revision: Option<String>,
    },
}

impl Default for ApiSource {
    /// The sources that this program was built from.
    fn default() -> Self {
        Self::Folder(PathBuf::from(env!("CARGO_MANIFEST_DIR")))
    }
}

const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("template/Cargo.toml.txt")),
    ("build.rs", include_str!("template/build.rs.txt")),
    ("src/lib.rs", include_str!("template/lib.rs.txt")),
    ("src/algorithm.rs", include_str!("template/algorithm.rs.txt")),
    ("README.md", include_str!("template/README.md.txt")),
    (".gitignore", include_str!("template/gitignore.txt")),
];

/// Writes a new quantizer named `name` into the folder `parent/name` and returns the files.
///
/// # Errors
/// The name is none that a plugin can have, the folder exists, the sources are not where they should be, or a file cannot
/// be written.
pub fn new(name: &str, parent: &Path, source: &ApiSource) -> Result<Vec<PathBuf>> {
    let struct_name = struct_name(name)?;
    let folder = parent.join(name);
    if folder.exists() {
        return Err(
            Error::usage(format!("`{}` exists already", folder.display())).hint("choose another name, or remove it")
        );
    }
    let (api, quant) = (dependency(source, "core/api")?, dependency(source, "core/quant")?);
    let library = format!("{DLL_PREFIX}workbench_plugin_{}{DLL_SUFFIX}", name.replace('-', "_"));
    let mut written = Vec::new();
    for (file, template) in FILES {
        let text = template
            .replace("{{name}}", name)
            .replace("{{Name}}", &struct_name)
            .replace("{{api}}", &api)
            .replace("{{quant}}", &quant)
            .replace("{{file}}", &library);
        let path = folder.join(file);
        let write = || -> std::io::Result<()> {
            fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            fs::write(&path, text)
        };
        write().map_err(|error| Error::io("write", &path, &error))?;
        written.push(path);
    }
    Ok(written)
}

/// `clip_and-round` becomes `ClipAndRound`.
fn struct_name(name: &str) -> Result<String> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let starts_well = name.starts_with(|c: char| c.is_ascii_lowercase());
    if !starts_well || !name.chars().all(allowed) {
        return Err(Error::usage(format!("`{name}` cannot be the name of a plugin"))
            .hint("use a-z, 0-9, `_` and `-`, with a letter first"));
    }
    let capitalised = name.split(['_', '-']).map(|word| {
        let mut letters = word.chars();
        let first = letters.next().map(|c| c.to_ascii_uppercase());
        first.into_iter().chain(letters).collect::<String>()
    });
    Ok(format!("{}Plugin", capitalised.collect::<String>()))
}

/// The source of a crate of this workspace, as Cargo.toml spells it.
fn dependency(source: &ApiSource, place: &str) -> Result<String> {
    match source {
        ApiSource::Folder(folder) => {
            let path = folder.join(place);
            if !path.join("Cargo.toml").is_file() {
                return Err(Error::usage(format!("`{}` does not hold the workbench's sources", folder.display()))
                    .hint("name their folder or their git repository with --api"));
            }
            let path = fs::canonicalize(&path).map_err(|error| Error::io("find", &path, &error))?;
            let text = path.to_str().ok_or_else(|| Error::usage(format!("`{}` is no UTF-8", path.display())))?;
            Ok(format!("path = {}", toml::Value::from(text)))
        }
        ApiSource::Git { url, revision } => {
            let revision = revision.as_ref().map(|rev| format!(", rev = {}", toml::Value::from(rev.as_str())));
            Ok(format!("git = {}{}", toml::Value::from(url.as_str()), revision.unwrap_or_default()))
        }
    }
}
