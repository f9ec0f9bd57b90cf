//! Processes on this machine.

use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    time::{Duration, Instant},
};

use super::{
    Executor, Job, JobUpdate, NodeEvent, Update,
    follow::{Line, follow},
    log::NodeLog,
    machine::tree_memory,
};
use crate::{
    error::{Error, Result},
    graph::{Key, MemoryNeed, NodeKind, digest::Stamp},
    process::Leader,
    store::RunFolder,
};

/// How the nodes of a run use this machine.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nodes at a time.
    pub jobs: usize,
    /// Threads of each node.
    pub threads: usize,
    /// Bytes of memory for all nodes together, and at most for one.
    pub memory: u64,
    /// Seconds without a call to the host after which a plugin counts as hung.
    pub plugin_timeout: Option<u64>,
}

impl Options {
    /// A job with its share.
    fn share(&self, job: Job) -> Job {
        // Training steps of large models are long; a limit for them has to be asked for.
        let usual = (job.kind != NodeKind::Train).then_some(600);
        let plugin_timeout = self.plugin_timeout.or(usual);
        Job { threads: self.threads, memory_limit: self.memory, plugin_timeout, ..job }
    }
}

/// Runs each job as `workbench node RUN KEY` on this machine.
#[derive(Debug)]
pub struct LocalExecutor {
    program: PathBuf,
    options: Options,
    running: BTreeMap<Key, Running>,
    sender: Sender<(Key, Line)>,
    receiver: Receiver<(Key, Line)>,
    last_watch: Instant,
}

#[derive(Debug)]
struct Running {
    leader: Leader,
    memory_limit: u64,
    /// What it is expected to need.
    memory: u64,
    /// What it reads, most of it mapped into its memory, as it was when it began.
    reads: Vec<(PathBuf, Option<Stamp>)>,
    library: Option<PathBuf>,
    /// The plugin at work, the silence it may keep, and when it was last heard of.
    plugin: Option<(String, Option<Duration>)>,
    heard: Instant,
    /// Since when nothing more is to be expected of it but its end, and whether it has said how its work ended.
    leaving: Option<(Instant, bool)>,
    /// Why the executor ended it.
    verdict: Option<String>,
}

impl Running {
    /// Ends it, for a reason unless there is one already or none is needed.
    fn end(&mut self, reason: Option<String>) {
        if self.verdict.is_none() {
            self.verdict = reason;
        }
        self.leader.kill();
    }

    /// Which of the files that it has mapped is another one now: that ends a process in any way.
    fn changed(&self) -> Option<String> {
        let is_another = |(path, before): &&(PathBuf, Option<Stamp>)| {
            let Some(before) = before else { return false };
            Stamp::of(path).map_or(true, |now| now.shows_write_since(before))
        };
        let (path, _) = self.reads.iter().find(is_another)?;
        let whose = if self.library.as_ref() == Some(path) { "its plugin's library" } else { "what it reads" };
        Some(format!("{whose}, `{}`, changed while it ran", path.display()))
    }

    /// Why it should be ended now. An inner `None` is no reason of its own: what it said counts.
    fn fault(&self) -> Option<Option<String>> {
        let name = self.plugin.as_ref().map(|(name, _)| name.as_str());
        if let Some((since, said)) = self.leaving
            && since.elapsed() > GRACE
        {
            let closed = || format!("it closed the pipe over which it reports{}", culprit(name));
            return Some((!said).then(closed));
        }
        let used = tree_memory(self.leader.pid(), self.memory_limit);
        if used > self.memory_limit {
            let (used, limit, at_work) = (mib(used), mib(self.memory_limit), culprit(name));
            return Some(Some(format!("it used {used} of memory, more than its limit of {limit}{at_work}")));
        }
        let (name, patience) = self.plugin.as_ref()?;
        let patience = (*patience).filter(|patience| self.heard.elapsed() > *patience)?;
        Some(Some(format!("plugin `{name}` did not call the host for {} s", patience.as_secs())))
    }
}

/// How long a node may take to end that has nothing more to say.
const GRACE: Duration = Duration::from_secs(5);

const WATCH_INTERVAL: Duration = Duration::from_millis(100);

impl LocalExecutor {
    /// An executor that starts the given program, usually the running one.
    pub fn new(program: PathBuf, options: Options) -> Self {
        let (sender, receiver) = channel();
        Self { program, options, running: BTreeMap::new(), sender, receiver, last_watch: Instant::now() }
    }

    /// Ends nodes that use too much memory or do not end, and plugins that have been silent for too long.
    fn watch(&mut self) {
        if self.last_watch.elapsed() < WATCH_INTERVAL {
            return;
        }
        self.last_watch = Instant::now();
        for running in self.running.values_mut().filter(|r| r.verdict.is_none()) {
            if let Some(reason) = running.fault() {
                running.end(reason);
            }
        }
    }

    fn take(&mut self, key: Key, line: Line) -> Option<JobUpdate> {
        match line {
            Line::Message(said) => {
                let running = self.running.get_mut(&key)?;
                running.heard = Instant::now();
                match &said {
                    NodeEvent::Plugin { name, timeout } => {
                        running.plugin = Some((name.clone(), timeout.map(Duration::from_secs)));
                    }
                    NodeEvent::PluginEnded => running.plugin = None,
                    NodeEvent::Done { .. } | NodeEvent::Interrupted | NodeEvent::Failed { .. } => {
                        running.leaving.get_or_insert((Instant::now(), true));
                    }
                    _ => {}
                }
                Some(JobUpdate { key, update: Update::Message(said) })
            }
            Line::Silent => {
                let running = self.running.get_mut(&key)?;
                running.leaving.get_or_insert((Instant::now(), false));
                None
            }
            Line::Unlogged(error) => {
                // A log is worth a warning, not the work of hours.
                let said = NodeEvent::Log { level: "warn".to_owned(), message: error.to_string() };
                Some(JobUpdate { key, update: Update::Message(said) })
            }
            Line::Gone => {
                let mut running = self.running.remove(&key)?;
                let status = running.leader.reap().ok();
                let plugin = running.plugin.as_ref().map(|(name, _)| name.as_str());
                let died = || {
                    let how = describe(status?, plugin)?;
                    Some(running.changed().map_or_else(|| how.clone(), |changed| format!("{changed}: {how}")))
                };
                let reason = running.verdict.clone().or_else(died);
                Some(JobUpdate { key, update: Update::Ended(reason) })
            }
        }
    }
}

impl Executor for LocalExecutor {
    fn has_room(&self, memory: MemoryNeed) -> bool {
        let used: u64 = self.running.values().map(|running| running.memory).sum();
        // The watch on its real use decides about one that is expected to need more than there is.
        let fits =
            self.running.is_empty() || used.saturating_add(memory.within(self.options.memory)) <= self.options.memory;
        fits && self.running.len() < self.options.jobs.max(1)
    }

    fn submit(&mut self, job: Job, memory: MemoryNeed, run: &RunFolder) -> Result<()> {
        let job = self.options.share(job);
        job.write(run)?;
        let log = NodeLog::open(run, &job.key)?;
        let mut command = Command::new(&self.program);
        command
            .arg("node")
            .arg(run.path())
            .arg(job.key.as_str())
            .env("RAYON_NUM_THREADS", job.threads.to_string())
            .env("RUST_BACKTRACE", "0")
            // The allocator keeps the pages of freed memory for a second unless told otherwise. Most reuse comes sooner, and what
            // is kept in vain counts where memory is at its largest: 30 of 800 MiB in GPTQ on layers of Qwen3-0.6B.
            .env("MIMALLOC_PURGE_DELAY", "100");
        let stamped = |path: &Path| (path.to_owned(), Stamp::of(path).ok());
        let reads = job.files.iter().map(|file| stamped(&file.path)).collect();
        let mut leader = Leader::start(&mut command).map_err(|e| Error::io("start", &self.program, &e))?;
        follow(&mut leader, log, &job.key, &self.sender);
        let running = Running {
            leader,
            memory_limit: job.memory_limit,
            memory: memory.within(self.options.memory),
            reads,
            library: job.plugin.clone(),
            plugin: None,
            heard: Instant::now(),
            leaving: None,
            verdict: None,
        };
        self.running.insert(job.key.clone(), running);
        Ok(())
    }

    fn poll(&mut self, patience: Duration) -> Vec<JobUpdate> {
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

    fn interrupt(&mut self, key: &Key) {
        if let Some(running) = self.running.get_mut(key) {
            running.leader.ask_to_stop();
        }
    }

    fn cancel(&mut self, key: &Key) {
        if let Some(running) = self.running.get_mut(key) {
            running.end(Some("it was cancelled".to_owned()));
        }
    }
}

impl Drop for LocalExecutor {
    fn drop(&mut self) {
        // All at once, before one after the other is waited for.
        self.running.values().for_each(|running| running.leader.kill());
    }
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
