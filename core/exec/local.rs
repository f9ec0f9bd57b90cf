//! Processes on this machine.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    thread,
    time::{Duration, Instant},
};

use super::{Executor, Job, News, NodeEvent, Update, machine::anonymous_memory};
use crate::{
    error::{Error, Result},
    graph::Key,
    store::RunFolder,
};

/// Runs each job as `workbench node RUN KEY` on this machine.
#[derive(Debug)]
pub struct LocalExecutor {
    program: PathBuf,
    running: BTreeMap<Key, Running>,
    sender: Sender<(Key, Line)>,
    receiver: Receiver<(Key, Line)>,
    last_watch: Instant,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Held open: the node ends when it closes.
    _stdin: Option<ChildStdin>,
    memory_limit: u64,
    /// The plugin at work, the silence it may keep, and when it was last heard of.
    plugin: Option<(String, Option<Duration>)>,
    heard: Instant,
    /// Why the executor ended it.
    verdict: Option<String>,
}

#[derive(Debug)]
enum Line {
    Said(NodeEvent),
    Closed,
}

const WATCH_INTERVAL: Duration = Duration::from_millis(100);

impl LocalExecutor {
    /// An executor that starts the given program, usually the running one.
    pub fn new(program: PathBuf) -> Self {
        let (sender, receiver) = channel();
        Self { program, running: BTreeMap::new(), sender, receiver, last_watch: Instant::now() }
    }

    /// Ends nodes that use too much memory, and plugins that have been silent for too long.
    fn watch(&mut self) {
        if self.last_watch.elapsed() < WATCH_INTERVAL {
            return;
        }
        self.last_watch = Instant::now();
        for running in self.running.values_mut().filter(|r| r.verdict.is_none()) {
            let used = anonymous_memory(running.child.id()).unwrap_or(0);
            let watched = running.plugin.as_ref().and_then(|(name, patience)| Some((name, (*patience)?)));
            let silent = watched.filter(|(_, patience)| running.heard.elapsed() > *patience);
            let verdict = if used > running.memory_limit {
                let at_work = culprit(running.plugin.as_ref().map(|(name, _)| name.as_str()));
                let limit = mib(running.memory_limit);
                Some(format!("it used {} of memory, more than its limit of {limit}{at_work}", mib(used)))
            } else {
                silent.map(|(name, patience)| {
                    format!("plugin `{name}` did not call the host for {} s", patience.as_secs())
                })
            };
            if let Some(verdict) = verdict {
                running.verdict = Some(verdict);
                let _ = running.child.kill();
            }
        }
    }

    fn take(&mut self, key: Key, line: Line) -> Option<Update> {
        match line {
            Line::Said(said) => {
                let running = self.running.get_mut(&key)?;
                running.heard = Instant::now();
                match &said {
                    NodeEvent::Plugin { name, timeout } => {
                        running.plugin = Some((name.clone(), timeout.map(Duration::from_secs)));
                    }
                    NodeEvent::PluginEnded => running.plugin = None,
                    _ => {}
                }
                Some(Update { key, news: News::Said(said) })
            }
            Line::Closed => {
                let mut running = self.running.remove(&key)?;
                // A node that closed its output but does not end would block the run for ever.
                let _ = running.child.kill();
                let status = running.child.wait().ok();
                let plugin = running.plugin.map(|(name, _)| name);
                let reason = running.verdict.or_else(|| status.and_then(|s| describe(s, plugin.as_deref())));
                Some(Update { key, news: News::Ended(reason) })
            }
        }
    }
}

impl Executor for LocalExecutor {
    fn submit(&mut self, job: &Job, run: &RunFolder) -> Result<()> {
        job.write(run)?;
        let log = run.open_log(&job.key)?;
        let mut command = Command::new(&self.program);
        command
            .arg("node")
            .arg(run.path())
            .arg(job.key.as_str())
            .env("RAYON_NUM_THREADS", job.threads.to_string())
            .env("RUST_BACKTRACE", "0")
            // The allocator keeps the pages of freed memory for a second unless told otherwise. Most reuse comes sooner, and what
            // is kept in vain counts where memory is at its largest: 30 of 800 MiB in GPTQ on layers of Qwen3-0.6B.
            .env("MIMALLOC_PURGE_DELAY", "100")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // A group of its own keeps the terminal's Ctrl-C from reaching it: the driver decides what ends.
            .process_group(0);
        let mut child = command.spawn().map_err(|e| Error::io("start", &self.program, &e))?;
        let stdin = child.stdin.take();
        if let Some(stdout) = child.stdout.take() {
            read_lines(stdout, job.key.clone(), self.sender.clone());
        }
        let running = Running {
            child,
            _stdin: stdin,
            memory_limit: job.memory_limit,
            plugin: None,
            heard: Instant::now(),
            verdict: None,
        };
        self.running.insert(job.key.clone(), running);
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> Vec<Update> {
        let deadline = Instant::now() + patience;
        let mut updates = Vec::new();
        loop {
            self.watch();
            let wait = if updates.is_empty() {
                deadline.saturating_duration_since(Instant::now()).min(WATCH_INTERVAL)
            } else {
                Duration::ZERO
            };
            match self.receiver.recv_timeout(wait) {
                Ok((key, line)) => updates.extend(self.take(key, line)),
                Err(RecvTimeoutError::Timeout) if updates.is_empty() && Instant::now() < deadline => {}
                Err(_) => return updates,
            }
        }
    }

    fn cancel(&mut self, key: &Key) {
        if let Some(running) = self.running.get_mut(key) {
            running.verdict.get_or_insert_with(|| "it was cancelled".to_owned());
            let _ = running.child.kill();
        }
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        for running in self.running.values_mut() {
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }
}

fn read_lines(stdout: ChildStdout, key: Key, sender: Sender<(Key, Line)>) {
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
            // A plugin may print to standard output; what is no event is not for the driver.
            if let Ok(event) = serde_json::from_str(&line)
                && sender.send((key.clone(), Line::Said(event))).is_err()
            {
                return;
            }
        }
        let _ = sender.send((key, Line::Closed));
    });
}

fn culprit(plugin: Option<&str>) -> String {
    plugin.map(|name| format!(" while plugin `{name}` was at work")).unwrap_or_default()
}

/// Why a process ended that did not say so itself; `None` for an orderly end.
fn describe(status: ExitStatus, plugin: Option<&str>) -> Option<String> {
    let culprit = culprit(plugin);
    match (status.code(), status.signal()) {
        (Some(0), _) if plugin.is_none() => None,
        (Some(code), _) => Some(format!("its process exited with code {code}{culprit}")),
        (None, Some(signal)) => Some(format!("its process was ended by {}{culprit}", signal_name(signal))),
        (None, None) => Some(format!("its process ended{culprit}")),
    }
}

fn signal_name(signal: i32) -> String {
    let (name, meaning) = match signal {
        libc::SIGABRT => ("SIGABRT", "it aborted"),
        libc::SIGSEGV => ("SIGSEGV", "an invalid memory access"),
        libc::SIGBUS => ("SIGBUS", "a mapped file that was truncated, or an invalid memory access"),
        libc::SIGILL => ("SIGILL", "an illegal instruction"),
        libc::SIGFPE => ("SIGFPE", "an arithmetic fault"),
        libc::SIGKILL => ("SIGKILL", "killed from outside, perhaps for want of memory"),
        libc::SIGTERM => ("SIGTERM", "ended from outside"),
        other => return format!("signal {other}"),
    };
    format!("{name} ({meaning})")
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}
