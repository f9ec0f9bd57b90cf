//! Short-lived children that take the risk of loading a library.

use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::{Problem, ProblemKind};

/// Makes the command that handles a file in a child process.
pub type ChildCommand<'a> = dyn Fn(&Path) -> Command + Sync + 'a;

/// Before the answer on the child's standard output, where a library's constructors may have written too.
const MARK: &str = "workbench-answer:";

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
    let mut out = io::stdout().lock();
    writeln!(out, "\n{MARK}{}", serde_json::to_string(answer)?)?;
    out.flush()
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
    let mut child =
        command(file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(|error| {
            problem(ProblemKind::Unreadable, format!("no process could be started for it: {error}"))
        })?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let status = wait(&mut child, patience)
        .map_err(|error| problem(ProblemKind::Unreadable, format!("its process was lost: {error}")))?;
    let (said, complained) = (stdout.join().unwrap_or_default(), stderr.join().unwrap_or_default());
    let Some(status) = status else {
        let message = format!("{doing} did not end within {} s", patience.as_secs_f32());
        return Err(problem(ProblemKind::Hang, message));
    };
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

/// Reads a pipe to its end on a thread of its own, so that a talkative child does not block on a full pipe.
fn collect(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(pipe) = pipe {
            // What was read before an error is all there is.
            let _ = pipe.take(16 << 20).read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The child's end, or nothing if it had to be killed.
fn wait(child: &mut Child, patience: Duration) -> io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > patience {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
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
