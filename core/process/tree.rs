//! What a process has started, and what that has started.

use std::{
    fs,
    path::Path,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, waitpid};

/// How long stragglers are hunted. SIGKILL takes effect at once, except on a process that waits for a device.
const PATIENCE: Duration = Duration::from_secs(2);

/// Children that this program itself has started and not yet reaped.
static OURS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// Whether orphans come to this process.
static ADOPTING: AtomicBool = AtomicBool::new(false);

pub(super) fn ours() -> MutexGuard<'static, Vec<Pid>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn kill(process: Pid) {
    // One that is gone needs no signal, and one of another user cannot have any.
    let _ = kill_process(process, Signal::KILL);
}

/// Has orphans below this process become its children, so that [`end_orphans`] finds them. A process that has children already
/// was started in the place of another one, whose children are none of our business: then orphans stay with the system.
pub(crate) fn adopt_orphans() {
    #[cfg(target_os = "linux")]
    if children(getpid()).is_empty() && rustix::process::set_child_subreaper(Some(getpid())).is_ok() {
        ADOPTING.store(true, Ordering::Relaxed);
    }
}

/// Kills and reaps every child of this process that it has not started itself, and what is below those.
pub(crate) fn end_orphans() {
    if !ADOPTING.load(Ordering::Relaxed) {
        return;
    }
    let since = Instant::now();
    loop {
        // Held, so that no child is taken for an orphan between its start and its entry in the list.
        let ours = ours();
        let strays: Vec<Pid> = children(getpid()).into_iter().filter(|child| !ours.contains(child)).collect();
        if strays.is_empty() || since.elapsed() > PATIENCE {
            return;
        }
        for stray in &strays {
            below(*stray).into_iter().chain([*stray]).for_each(kill);
        }
        for stray in &strays {
            let _ = waitpid(Some(*stray), WaitOptions::NOHANG);
        }
        drop(ours);
        thread::sleep(Duration::from_millis(1));
    }
}

/// The processes below one.
pub(crate) fn below(process: Pid) -> Vec<Pid> {
    let mut found = vec![process];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        for child in children(parent) {
            if !found.contains(&child) {
                found.push(child);
            }
        }
        next += 1;
    }
    found.split_off(1)
}

/// The children of a process: of each of its threads where the kernel lists them, else by looking at everybody's parent.
fn children(process: Pid) -> Vec<Pid> {
    static LISTED: OnceLock<bool> = OnceLock::new();
    if !LISTED.get_or_init(|| Path::new("/proc/thread-self/children").exists()) {
        return numbers("/proc").filter(|other| parent(*other) == Some(process)).collect();
    }
    let folder = format!("/proc/{}/task", process.as_raw_nonzero());
    let list = |thread: Pid| fs::read_to_string(format!("{folder}/{}/children", thread.as_raw_nonzero()));
    let lists: Vec<String> = numbers(&folder).filter_map(|thread| list(thread).ok()).collect();
    lists.iter().flat_map(|list| list.split_whitespace()).filter_map(number).collect()
}

fn number(text: &str) -> Option<Pid> {
    Pid::from_raw(text.parse().ok()?)
}

/// The entries of a folder that are numbers.
fn numbers(folder: &str) -> impl Iterator<Item = Pid> {
    fs::read_dir(folder).into_iter().flatten().flatten().filter_map(|entry| number(entry.file_name().to_str()?))
}

fn parent(process: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", process.as_raw_nonzero())).ok()?;
    // The name in parentheses may hold anything, parentheses too.
    number(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?)
}
