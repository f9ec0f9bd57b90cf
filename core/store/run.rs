//! The folder of a run: what was planned, what happened, and a log per node.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Store, discard::is_hidden, files, object::REMEDY, write_json};
use crate::{
    error::{Error, Result},
    identity::{Key, Origin},
};

/// A node as a run knew it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunNode {
    pub key: Key,
    pub kind: String,
    pub method: String,
    pub label: String,
    pub origin: Origin,
    /// Whether it was cached when the run began.
    pub cached: bool,
}

/// What a run was asked to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunSummary {
    /// The run's name: when it began, and the script.
    pub id: String,
    pub script: String,
    /// Values given with `--set`.
    pub settings: Vec<(String, String)>,
    /// Seconds since 1970.
    pub started: u64,
    pub nodes: Vec<RunNode>,
}

/// The folder of one run.
#[derive(Clone, Debug)]
pub struct RunFolder {
    path: PathBuf,
    /// Held with flock by the driver as long as the run goes on.
    _lock: Option<Arc<File>>,
}

impl Store {
    /// Makes the folder of a new run and writes its summary.
    pub fn create_run(&self, script: &str, settings: &[(String, String)]) -> Result<(RunFolder, RunSummary)> {
        let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let stem = Path::new(script).file_stem().unwrap_or_default().to_string_lossy();
        let runs = self.root().join("runs");
        files::make_folder(&runs)?;
        // Two drivers must not take the same number.
        let turn = File::open(&runs).map_err(|e| Error::io("lock", &runs, &e))?;
        let _ = flock(&turn, FlockOperation::LockExclusive);
        let number = 1 + begun(&runs)?.last().map_or(0, |(number, _)| *number);
        for serial in 0.. {
            let id = match serial {
                0 => format!("{}-{stem}", stamp(started)),
                n => format!("{}-{stem}-{n}", stamp(started)),
            };
            let path = runs.join(&id);
            match fs::create_dir(&path) {
                Ok(()) => {
                    for folder in ["logs", "jobs"] {
                        files::make_folder(&path.join(folder))?;
                    }
                    let settings = settings.to_vec();
                    let summary = RunSummary { id, script: script.to_owned(), settings, started, nodes: Vec::new() };
                    let run = RunFolder { _lock: Some(Arc::new(begin(&path, number)?)), path };
                    run.write_summary(&summary)?;
                    return Ok((run, summary));
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::io("create the folder", &path, &e)),
            }
        }
        Err(Error::internal("no free name for the run"))
    }

    /// All runs in the order in which they began, whatever the clock said and they are called.
    pub fn runs(&self) -> Result<Vec<RunFolder>> {
        let folders = begun(&self.root().join("runs"))?.into_iter().map(|(_, path)| path);
        Ok(folders.filter(|path| !is_hidden(path) && path.join(SUMMARY).is_file()).map(RunFolder::at).collect())
    }

    /// The run of a folder under `runs`.
    pub(super) fn run_at(&self, path: &Path) -> RunFolder {
        RunFolder::at(path.to_owned())
    }

    /// The run whose name starts with, or is, the given text; `last` is the newest.
    pub fn run(&self, name: &str) -> Result<RunFolder> {
        let runs = self.runs()?;
        if name == "last" {
            return runs.into_iter().next_back().ok_or_else(|| Error::usage("there is no run yet"));
        }
        let mut matching: Vec<RunFolder> = runs.into_iter().filter(|r| r.id().starts_with(name)).collect();
        match matching.len() {
            1 => Ok(matching.remove(0)),
            0 => Err(Error::usage(format!("no run is called `{name}`"))
                .hint("`workbench show` lists the runs; `last` is the newest")),
            _ => match matching.iter().position(|r| r.id() == name) {
                Some(i) => Ok(matching.remove(i)),
                None => Err(Error::usage(format!("several runs start with `{name}`")).hint("give more of the name")),
            },
        }
    }
}

const SUMMARY: &str = "run.json";

/// The folder of the tables that a run wrote.
pub(super) const REPORTS: &str = "reports";

/// Locked as long as a run goes on; holds its number.
const LOCK: &str = "lock";

/// The folders of runs with their numbers, in their order. A number says which of two runs began first: names hold seconds, in
/// which several may begin, and clocks are set back. A run that has none is older than those that have one.
fn begun(runs: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let number = |path: &Path| fs::read_to_string(path.join(LOCK)).ok()?.trim().parse().ok();
    let folders = files::entries(runs)?.into_iter().map(|path| (number(&path).unwrap_or(0), path));
    let mut found: Vec<(u64, PathBuf)> = folders.collect();
    found.sort();
    Ok(found)
}

fn begin(run: &Path, number: u64) -> Result<File> {
    let path = run.join(LOCK);
    let mut file = File::create(&path).map_err(|e| Error::io("write", &path, &e))?;
    writeln!(file, "{number}").map_err(|e| Error::io("write", &path, &e))?;
    // A file system without locks lets everything through.
    let _ = flock(&file, FlockOperation::LockExclusive);
    Ok(file)
}

impl RunFolder {
    /// The run of a folder, as a node process is told it.
    pub fn at(path: PathBuf) -> Self {
        Self { path, _lock: None }
    }

    /// Whether its driver is still at work.
    pub fn is_in_progress(&self) -> bool {
        let taken = |file: File| flock(&file, FlockOperation::NonBlockingLockExclusive).is_err();
        File::open(self.path.join(LOCK)).is_ok_and(taken)
    }

    /// The run's name.
    pub fn id(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The run's folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the run was asked to do.
    pub fn summary(&self) -> Result<RunSummary> {
        let path = self.path.join(SUMMARY);
        let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, &e))?;
        serde_json::from_str(&text)
            .map_err(|e| Error::refused(format!("`{}` is damaged", path.display())).cause(e.to_string()).hint(REMEDY))
    }

    /// Writes the summary.
    pub fn write_summary(&self, summary: &RunSummary) -> Result<()> {
        write_json(&self.path.join(SUMMARY), summary)
    }

    /// The log of a node: what its process wrote to stderr.
    pub fn log(&self, key: &Key) -> PathBuf {
        self.path.join("logs").join(format!("{key}.log"))
    }

    /// Opens the log of a node for appending.
    pub fn open_log(&self, key: &Key) -> Result<File> {
        let path = self.log(key);
        OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io("open", &path, &e))
    }

    /// The tables that it wrote, as they were then: their names and folders.
    pub fn reports(&self) -> Result<Vec<(String, PathBuf)>> {
        let folders = files::entries(&self.path.join(REPORTS))?;
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(folders.into_iter().map(|path| (name(&path), path)).collect())
    }

    /// The order given to a node's process.
    pub fn job(&self, key: &Key) -> PathBuf {
        self.path.join("jobs").join(format!("{key}.json"))
    }

    /// Opens the list of events for appending.
    pub fn open_events(&self) -> Result<EventLog> {
        let path = self.path.join("events.jsonl");
        let file =
            OpenOptions::new().create(true).append(true).open(&path).map_err(|e| Error::io("open", &path, &e))?;
        Ok(EventLog { path, file })
    }

    /// The events, oldest first.
    pub fn events(&self) -> Result<Vec<Value>> {
        let path = self.path.join("events.jsonl");
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, &e))?;
        // A line that a killed driver left unfinished, or that something damaged, is no event.
        Ok(bytes.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
    }
}

/// `events.jsonl`, open for appending.
#[derive(Debug)]
pub struct EventLog {
    path: PathBuf,
    file: File,
}

impl EventLog {
    /// Appends one event.
    pub fn append(&mut self, event: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_string(event).map_err(|e| Error::internal(e.to_string()))?;
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("write", &self.path, &e))
    }
}

/// `20261120-153001` in UTC. Civil date from days since 1970: Hinnant, "chrono-Compatible Low-Level Date Algorithms".
fn stamp(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}-{:02}{:02}{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_civil_dates() {
        assert_eq!(stamp(0), "19700101-000000");
        assert_eq!(stamp(951_782_399), "20000228-235959");
        assert_eq!(stamp(951_782_400), "20000229-000000");
        assert_eq!(stamp(1_795_188_601), "20261120-153001");
    }

    #[test]
    fn the_last_run_is_the_one_that_began_last() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        // One from the time before runs had numbers, though its name lies in the future.
        let old = dir.path().join("runs/29991231-235959-old");
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join(LOCK), "").unwrap();
        fs::write(old.join(SUMMARY), "{}").unwrap();
        // In one second: names that sort otherwise than the runs began, and more than nine of the same name.
        let scripts = ["z.rhai", "a.rhai", "a-1.rhai"].into_iter().chain(["b.rhai"; 12]);
        let mut begun = vec![RunFolder::at(old).id()];
        for script in scripts {
            let id = store.create_run(script, &[]).unwrap().0.id();
            assert_eq!(store.run("last").unwrap().id(), id);
            begun.push(id);
        }
        assert_eq!(store.runs().unwrap().iter().map(RunFolder::id).collect::<Vec<_>>(), begun);
    }

    #[test]
    fn runs_are_found_by_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        let (first, _) = store.create_run("experiments/a.rhai", &[]).unwrap();
        let (second, summary) = store.create_run("experiments/a.rhai", &[("x".into(), "1".into())]).unwrap();
        assert_ne!(first.id(), second.id());
        assert_eq!(store.run(&first.id()).unwrap().id(), first.id());
        assert_eq!(second.summary().unwrap().settings, summary.settings);
        assert!(store.run("1999").is_err());
    }
}
