//! What a file holds, found out by a child process and remembered.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use workbench_api::descriptor::Descriptor;
use workbench_api::{ABI_MAJOR, ABI_MINOR};
use workbench_model::regular_file;
use workbench_quant::GRID_VERSION;

use super::child::{ChildCommand, answering, ask};
use super::load::Loaded;
use super::problem::{Problem, ProblemKind};
use crate::identity::digest::{KnownFile, Stamp, hash};

/// How long loading a file and asking for its descriptor may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Body of the hidden subcommand `workbench __probe FILE`: loads the file and answers.
pub fn probe_main(file: &Path) -> ExitCode {
    answering(|| Outcome::from(Loaded::open(file).map(|loaded| loaded.descriptor().clone())))
}

/// A result that can be written down.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Plugin(Box<Descriptor>),
    Problem(Problem),
}

impl From<Result<Descriptor, Problem>> for Outcome {
    fn from(result: Result<Descriptor, Problem>) -> Self {
        result.map_or_else(Self::Problem, |descriptor| Self::Plugin(Box::new(descriptor)))
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Remembered {
    stamp: Stamp,
    /// Whether the stamp proves by itself that the file is the one that was loaded.
    settled: bool,
    /// Of the file that was loaded.
    digest: String,
    outcome: Outcome,
    identity: Value,
}

/// Answers of earlier probes, by path. Valid for one build of the workbench: another one may judge otherwise.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProbeCache {
    host: Value,
    files: BTreeMap<PathBuf, Remembered>,
    #[serde(skip)]
    changed: bool,
}

impl ProbeCache {
    /// Reads what [`to_json`](Self::to_json) wrote. Anything else, and what another build of the workbench wrote, is
    /// forgotten.
    pub fn from_json(text: &str) -> Self {
        let host = host_stamp();
        match serde_json::from_str::<Self>(text) {
            Ok(cache) if cache.host == host => cache,
            _ => Self { host, ..Self::default() },
        }
    }

    /// The cache as text, if it has changed since it was read.
    pub fn to_json(&self) -> Option<String> {
        if self.changed { serde_json::to_string(self).ok() } else { None }
    }

    /// What the file holds: from memory if the file is the one that was seen before.
    pub(super) fn recall(&self, file: &Path) -> Option<Probed> {
        let remembered = self.files.get(file)?;
        let mut stamp = Some(remembered.stamp).filter(|stamp| Stamp::of(file).is_ok_and(|now| now == *stamp));
        stamp?;
        if !remembered.settled {
            let digest;
            (digest, stamp) = hash(file).ok()?;
            if digest != remembered.digest {
                return None;
            }
        }
        let known = KnownFile { path: file.to_owned(), digest: remembered.digest.clone(), stamp };
        Some(probed(&remembered.outcome, &remembered.identity, known))
    }

    pub(super) fn remember(&mut self, file: &Path, fresh: Fresh) -> Probed {
        let Fresh { stamp, settled, digest, outcome, identity } = fresh;
        let known = KnownFile { path: file.to_owned(), digest: digest.clone(), stamp: settled.then_some(stamp) };
        let answer = probed(&outcome, &identity, known);
        // A machine under load may be too slow once: that is no property of the file.
        let lasting = !matches!(&outcome, Outcome::Problem(problem)
            if matches!(problem.kind, ProblemKind::Hang | ProblemKind::Unreadable));
        if lasting {
            self.files.insert(file.to_path_buf(), Remembered { stamp, settled, digest, outcome, identity });
            self.changed = true;
        }
        answer
    }
}

fn probed(outcome: &Outcome, identity: &Value, file: KnownFile) -> Probed {
    match outcome {
        Outcome::Plugin(descriptor) => Ok(((**descriptor).clone(), identity.clone(), file)),
        Outcome::Problem(problem) => Err(problem.clone()),
    }
}

/// A plugin's descriptor and identity with the file that gave them, or why there is none.
pub(super) type Probed = Result<(Descriptor, Value, KnownFile), Problem>;

/// What a child found out.
pub(super) struct Fresh {
    stamp: Stamp,
    settled: bool,
    digest: String,
    outcome: Outcome,
    identity: Value,
}

/// Has a child load the file.
pub(super) fn probe(file: &Path, child: &ChildCommand<'_>) -> Result<Fresh, Problem> {
    let unreadable =
        |error: io::Error| Problem::new(file, ProblemKind::Unreadable, format!("it cannot be read: {error}"));
    regular_file(file).map_err(unreadable)?;
    let stamp = Stamp::of(file).map_err(unreadable)?;
    let settled = stamp.is_settled();
    let content = fs::read(file).map_err(unreadable)?;
    let outcome = if mentions_probe(&content) || !is_library(&content) {
        ask(child, file, PATIENCE, "loading it").unwrap_or_else(Outcome::Problem)
    } else {
        // No library that lacks even the name of the probe is worth running its constructors.
        Outcome::Problem(super::load::not_a_plugin(file))
    };
    if Stamp::of(file).map_err(unreadable)? != stamp {
        return Err(Problem::new(file, ProblemKind::Unreadable, "it was written while it was looked at"));
    }
    let digest = blake3::hash(&content).to_hex().to_string();
    let identity = match &outcome {
        Outcome::Plugin(descriptor) => identity(descriptor, &digest),
        Outcome::Problem(_) => Value::Null,
    };
    Ok(Fresh { stamp, settled, digest, outcome, identity })
}

fn is_library(content: &[u8]) -> bool {
    !cfg!(target_os = "linux") || content.starts_with(b"\x7fELF")
}

fn mentions_probe(content: &[u8]) -> bool {
    regex::bytes::Regex::new(workbench_api::abi::PROBE_SYMBOL).is_ok_and(|symbol| symbol.is_match(content))
}

/// What of a plugin decides its results: name, version and the digest of its sources; of the file where the plugin's
/// build script stamps none.
fn identity(descriptor: &Descriptor, file: &str) -> Value {
    let digest = match &descriptor.source_digest {
        Some(digest) => format!("sources:{digest}"),
        None => format!("file:{file}"),
    };
    json!({ "name": descriptor.name, "version": descriptor.version, "digest": digest })
}

/// Which build of the workbench judges: its versions, and the program file, since a layout may change between two builds
/// of one version.
fn host_stamp() -> Value {
    let program = std::env::current_exe().and_then(|file| Stamp::of(&file)).ok();
    json!({ "abi": [ABI_MAJOR, ABI_MINOR], "grid": GRID_VERSION, "program": program })
}
