//! Shells stand for what plugins do.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, test_kill_process};

use super::{Leader, below, drain};

fn shell(script: &str) -> Leader {
    Leader::start(Command::new("sh").args(["-c", script])).unwrap()
}

/// The number that a script wrote into a file.
fn noted(file: &Path) -> Pid {
    let since = Instant::now();
    loop {
        let number = fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok());
        if let Some(pid) = number.and_then(Pid::from_raw) {
            return pid;
        }
        assert!(since.elapsed() < Duration::from_secs(20), "{} was not written", file.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process runs: a zombie that nobody reaps here does not.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    test_kill_process(pid).is_ok() && !stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim().starts_with('Z'))
}

fn ends(pid: Pid) -> bool {
    let since = Instant::now();
    while runs(pid) && since.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(5));
    }
    !runs(pid)
}

#[test]
fn what_a_process_leaves_in_its_group_ends_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut leader = shell(&format!("sleep 600 & echo $! > {}; exit 3", file.display()));
    assert_eq!(leader.reap().unwrap().code(), Some(3));
    assert!(ends(noted(&file)));
}

#[test]
fn what_left_the_group_is_found_below() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut leader = shell(&format!("setsid sh -c 'echo $$ > {}; sleep 600; true' & wait", file.display()));
    let stray = noted(&file);
    assert!(below(leader.pid()).contains(&stray), "{:?}", below(leader.pid()));
    leader.kill();
    assert!(leader.reap().unwrap().code().is_none());
    assert!(ends(stray));
}

#[test]
fn dropping_a_process_ends_it() {
    let leader = shell("trap '' TERM INT HUP; sleep 600 & wait");
    let pid = leader.pid();
    drop(leader);
    assert!(!runs(pid));
}

#[test]
fn a_pipe_that_others_hold_open_is_read_no_longer_than_its_writer_lives() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let stray = format!("setsid sh -c 'echo $$ > {}; exec sleep 600' &", file.display());
    let mut leader = shell(&format!("{stray} printf 'all of it'; exit 0"));
    let gone = Arc::new(AtomicBool::new(false));
    let found: Arc<Mutex<Vec<u8>>> = Arc::default();
    let into = Arc::clone(&found);
    let pipe: OwnedFd = leader.pipes().0.unwrap().into();
    let reader = drain(pipe, Arc::clone(&gone), move |bytes| into.lock().unwrap().extend(bytes));
    assert!(leader.ends_within(Duration::from_secs(20)));
    gone.store(true, Ordering::Release);
    let since = Instant::now();
    reader.join().unwrap();
    assert!(since.elapsed() < Duration::from_secs(20));
    assert_eq!(*found.lock().unwrap(), b"all of it");
    rustix::process::kill_process(noted(&file), Signal::KILL).unwrap();
}
