//! What a node's process says, until it is gone.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
};

use super::{NodeEvent, log::NodeLog};
use crate::{
    error::Error,
    graph::Key,
    process::{Leader, await_exit, drain, end_rest},
};

/// What became known of a node's process.
#[derive(Debug)]
pub(super) enum Line {
    Message(NodeEvent),
    /// It will say nothing more.
    Silent,
    /// What it writes cannot be kept.
    Unlogged(Error),
    /// It has ended, and so has everything that it started.
    Gone,
}

/// A line longer than this is no event of ours, which are cut to far less.
const LONGEST: usize = 1 << 20;

/// Reads events and log of a process to their ends, and then says that it is gone. Its pipes alone would not tell: whatever a
/// plugin has started may hold them open.
pub(super) fn follow(leader: &mut Leader, mut log: NodeLog, key: &Key, sender: &Sender<(Key, Line)>) {
    let gone = Arc::new(AtomicBool::new(false));
    let (stdout, stderr) = leader.pipes();
    let say = |key: &Key, sender: &Sender<(Key, Line)>| {
        let (key, sender) = (key.clone(), sender.clone());
        // Without an executor nobody is left to be told.
        move |line: Line| drop(sender.send((key.clone(), line)))
    };
    let said = say(key, sender);
    let mut lines = Lines::default();
    let events = stdout.map(|pipe| {
        drain(pipe, Arc::clone(&gone), move |bytes| {
            lines.add(bytes, |line| {
                if let Ok(event) = serde_json::from_slice(line) {
                    said(Line::Message(event));
                }
            });
        })
    });
    let lost = say(key, sender);
    let output = stderr.map(|pipe| {
        drain(pipe, Arc::clone(&gone), move |bytes| {
            if let Err(error) = log.write(bytes) {
                lost(Line::Unlogged(error));
            }
        })
    });
    let silent = say(key, sender);
    let events = thread::spawn(move || {
        events.map(JoinHandle::join);
        silent(Line::Silent);
    });
    let (pid, emit) = (leader.pid(), say(key, sender));
    thread::spawn(move || {
        await_exit(pid);
        end_rest(pid);
        gone.store(true, Ordering::Release);
        output.map(JoinHandle::join);
        let _ = events.join();
        emit(Line::Gone);
    });
}

/// Bytes as lines. A line that is too long is left out.
#[derive(Debug, Default)]
struct Lines {
    begun: Vec<u8>,
    too_long: bool,
}

impl Lines {
    fn add(&mut self, bytes: &[u8], mut line: impl FnMut(&[u8])) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (piece, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |whole| (whole, true));
            if self.begun.len() + piece.len() > LONGEST {
                self.too_long = true;
                self.begun.clear();
            }
            if !self.too_long {
                self.begun.extend(piece);
            }
            if ends {
                if !self.too_long {
                    line(&self.begun);
                }
                self.begun.clear();
                self.too_long = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for piece in [&b"on"[..], b"e\ntw", b"o\n\nthree\nrest"] {
            lines.add(piece, |line| found.push(String::from_utf8(line.to_vec()).unwrap()));
        }
        assert_eq!(found, ["one", "two", "", "three"]);
    }

    #[test]
    fn a_line_without_an_end_is_not_kept() {
        let mut found = Vec::new();
        let mut lines = Lines::default();
        for _ in 0..40 {
            lines.add(&vec![b'x'; LONGEST / 16], |line| found.push(line.len()));
            assert!(lines.begun.len() <= LONGEST);
        }
        lines.add(b"\nshort\n", |line| found.push(line.len()));
        assert_eq!(found, [5]);
    }
}
