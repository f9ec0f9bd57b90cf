//! A child that leads a process group of its own.

use std::{
    io::{self, Write},
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use super::{
    inside::STOP,
    tree::{below, end_orphans, kill, ours},
};

/// A child process with all that it starts. Dropped, it ends.
#[derive(Debug)]
pub(crate) struct Leader {
    child: Child,
    pid: Pid,
    /// Held open: the child ends when it closes. A word that comes over it asks the child to stop.
    lifeline: Option<ChildStdin>,
    reaped: bool,
}

impl Leader {
    /// Starts a command, with pipes at its standard input, output and error.
    ///
    /// # Errors
    /// The system starts no such process.
    pub(crate) fn start(command: &mut Command) -> io::Result<Self> {
        // A group of its own also keeps the terminal's Ctrl-C away: whoever started it decides what ends.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut ours = ours();
        let mut child = command.spawn()?;
        let raw = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = raw else {
            let _ = child.kill();
            return Err(io::Error::other("the process has no number"));
        };
        ours.push(pid);
        Ok(Self { pid, lifeline: child.stdin.take(), child, reaped: false })
    }

    /// Its process number, which stays its own until it is reaped.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Its standard output and standard error; the first caller gets them.
    pub(crate) fn pipes(&mut self) -> (Option<ChildStdout>, Option<ChildStderr>) {
        (self.child.stdout.take(), self.child.stderr.take())
    }

    /// Asks it to stop where it can be continued. One that does not listen goes on.
    pub(crate) fn ask_to_stop(&mut self) {
        if let Some(lifeline) = &mut self.lifeline {
            // A child that is gone needs no word.
            let _ = lifeline.write_all(STOP);
        }
    }

    /// Kills it with its group and everything below it.
    pub(crate) fn kill(&self) {
        // Seen before its death scatters them.
        let below = below(self.pid);
        let _ = kill_process_group(self.pid, Signal::KILL);
        below.into_iter().for_each(kill);
    }

    /// Whether it ends within a time.
    pub(crate) fn ends_within(&self, patience: Duration) -> bool {
        let since = Instant::now();
        let mut pause = Duration::from_micros(200);
        while !has_exited(self.pid) {
            if since.elapsed() > patience {
                return false;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        true
    }

    /// Waits for its end, and ends what it has left behind.
    ///
    /// # Errors
    /// The process got lost.
    pub(crate) fn reap(&mut self) -> io::Result<ExitStatus> {
        await_exit(self.pid);
        end_rest(self.pid);
        self.reaped = true;
        let status = self.child.wait();
        ours().retain(|other| *other != self.pid);
        status
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            // One that waits for a device may take its time; nobody waits with it.
            if self.ends_within(Duration::from_secs(2)) {
                let _ = self.reap();
            }
        }
    }
}

/// Whether a child has ended. It stays to be reaped, and its number and group remain its own until then.
fn has_exited(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    !matches!(waitid(WaitId::Pid(pid), options), Ok(None) | Err(rustix::io::Errno::INTR))
}

/// Blocks until a child ends, without reaping it.
pub(crate) fn await_exit(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
}

/// Ends what a child has left behind that has ended and is not yet reaped.
pub(crate) fn end_rest(pid: Pid) {
    let _ = kill_process_group(pid, Signal::KILL);
    end_orphans();
}
