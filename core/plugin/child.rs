//! Short-lived children that take the risk of loading a library.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitCode, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::{Problem, ProblemKind};
use crate::process::{Leader, drain, leave, report, set_aside};

/// Makes the command that handles a file in a child process.
pub type ChildCommand<'a> = dyn Fn(&Path) -> Command + Sync + 'a;

/// Before the answer, which need not be the first thing on its pipe where the child is a test program.
const MARK: &str = "workbench-answer:";

/// The most that is kept of what a child says: its answer, and the end of its complaints.
const ANSWER: usize = 16 << 20;
const COMPLAINTS: usize = 64 << 10;

/// Exit code of a child whose parent is gone.
const LOST: u8 = 4;

/// This very program with a hidden subcommand and the file: `workbench __probe FILE`.
///
/// # Errors
/// The system does not tell where the program lies.
pub fn this_program(subcommand: &'static str) -> io::Result<impl Fn(&Path) -> Command + Sync> {
    let program = std::env::current_exe()?;
    Ok(move |file: &Path| {
        let mut command = Command::new(&program);
        command.arg(subcommand).arg(file);
        command
    })
}

/// Writes the child's answer for its parent.
pub(super) fn answer(answer: &impl Serialize) -> io::Result<()> {
    report(&format!("\n{MARK}{}", serde_json::to_string(answer)?))
}

/// The body of a child: what it finds is its answer, and nothing that a library does later can change that.
pub(super) fn answering<T: Serialize>(find: impl FnOnce() -> T) -> ExitCode {
    // A child is too short-lived to be asked to stop.
    if set_aside(LOST, || {}).is_err() {
        return ExitCode::FAILURE;
    }
    leave(u8::from(answer(&find()).is_err()))
}

/// Runs a child and reads its answer.
///
/// # Errors
/// The child cannot be started, dies, says nothing, or takes longer than the patience; the problem says what it died of
/// and quotes the end of what it wrote to stderr.
pub(super) fn ask<T: DeserializeOwned>(
    command: &ChildCommand<'_>,
    file: &Path,
    patience: Duration,
    doing: &str,
) -> Result<T, Problem> {
    let problem = |kind, message: String| Problem::new(file, kind, message);
    let mut leader = Leader::start(&mut command(file))
        .map_err(|error| problem(ProblemKind::Unreadable, format!("no process could be started for it: {error}")))?;
    let gone = Arc::new(AtomicBool::new(false));
    let (stdout, stderr) = leader.pipes();
    let said = Kept::of(stdout, &gone, |kept, bytes| {
        kept.extend(&bytes[..bytes.len().min(ANSWER.saturating_sub(kept.len()))]);
    });
    let complained = Kept::of(stderr, &gone, |kept, bytes| {
        kept.extend(bytes);
        kept.drain(..kept.len().saturating_sub(COMPLAINTS));
    });
    let in_time = leader.ends_within(patience);
    if !in_time {
        leader.kill();
    }
    let status = leader.reap();
    gone.store(true, Ordering::Release);
    let (said, complained) = (said.text(), complained.text());
    let status = status.map_err(|error| problem(ProblemKind::Unreadable, format!("its process was lost: {error}")))?;
    if !in_time {
        let message = format!("{doing} did not end within {} s", patience.as_secs_f32());
        return Err(problem(ProblemKind::Hang, message));
    }
    if let Some(json) = said.lines().rev().find_map(|line| line.strip_prefix(MARK)) {
        return serde_json::from_str(json)
            .map_err(|error| problem(ProblemKind::Faulty, format!("{doing} gave an unreadable answer: {error}")));
    }
    let mut message = format!("{doing} ended the process {}", death(status));
    if let Some(last) = complained.lines().rev().map(str::trim).find(|line| is_telling(line)) {
        message = format!("{message}, saying `{last}`");
    }
    Err(problem(ProblemKind::Crash, message))
}

/// Whether a line says something, and is none of a backtrace.
fn is_telling(line: &str) -> bool {
    let frame = line.split_once(": ").is_some_and(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
    !line.is_empty() && !frame && !["note: ", "at ", "stack backtrace:"].iter().any(|start| line.starts_with(start))
}

/// What a child writes to a pipe, as far as it is kept.
struct Kept {
    bytes: Arc<Mutex<VecDeque<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Kept {
    fn of(
        pipe: Option<impl Into<OwnedFd>>,
        gone: &Arc<AtomicBool>,
        mut keep: impl FnMut(&mut VecDeque<u8>, &[u8]) + Send + 'static,
    ) -> Self {
        let bytes: Arc<Mutex<VecDeque<u8>>> = Arc::default();
        let into = Arc::clone(&bytes);
        let take = move |found: &[u8]| keep(&mut into.lock().unwrap_or_else(PoisonError::into_inner), found);
        Self { bytes, reader: pipe.map(|pipe| drain(pipe, Arc::clone(gone), take)) }
    }

    /// All of it, once the writer is gone.
    fn text(self) -> String {
        self.reader.map(JoinHandle::join);
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(bytes.make_contiguous()).into_owned()
    }
}

/// How a process ended that gave no answer.
fn death(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => match signal {
            libc::SIGSEGV => "by a segmentation fault (SIGSEGV)".to_owned(),
            libc::SIGABRT => "by an abort (SIGABRT)".to_owned(),
            libc::SIGBUS => "by a bus error (SIGBUS)".to_owned(),
            libc::SIGILL => "by an illegal instruction (SIGILL)".to_owned(),
            libc::SIGFPE => "by an arithmetic fault (SIGFPE)".to_owned(),
            libc::SIGKILL => "by SIGKILL (out of memory?)".to_owned(),
            other => format!("by signal {other}"),
        },
        (None, code) => format!("with exit code {} and no answer", code.unwrap_or_default()),
    }
}
