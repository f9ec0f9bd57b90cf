//! What such a process does itself, before it runs anything foreign and when it ends.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    os::fd::{AsFd, OwnedFd},
    sync::{Mutex, OnceLock, PoisonError, mpsc::channel},
    thread,
    time::Duration,
};

use rustix::{
    io::fcntl_dupfd_cloexec,
    process::{Signal, getpgrp, getpid, kill_process_group},
    stdio::{dup2_stdin, dup2_stdout, stderr},
};

use super::tree::{adopt_orphans, end_orphans};

/// Where reports go: what was standard output when the process began.
static REPORTS: OnceLock<Mutex<File>> = OnceLock::new();

/// Descriptors from here on are out of the way of code that closes or replaces low ones.
const OUT_OF_THE_WAY: i32 = 100;

/// What the process above sends over standard input to ask this one to stop.
pub(super) const STOP: &[u8] = b"stop\n";

/// Sets the pipes to the process above aside: reports no longer share standard output with whatever prints there, and standard
/// input, whose end ends this process with code `lost` and on which `asked_to_stop` is called, is nobody's to read. What is printed from now on goes where standard
/// error goes. Programs that a plugin starts inherit neither pipe.
///
/// # Errors
/// The system gives no more descriptors.
pub(crate) fn set_aside(lost: u8, asked_to_stop: impl FnMut() + Send + 'static) -> io::Result<()> {
    adopt_orphans();
    let reports = File::from(copy(io::stdout())?);
    let lifeline = File::from(copy(io::stdin())?);
    dup2_stdout(stderr())?;
    dup2_stdin(File::open("/dev/null")?)?;
    let _ = REPORTS.set(Mutex::new(reports));
    thread::spawn(move || {
        await_end(lifeline, asked_to_stop);
        // Nobody is left to end what this process has started.
        end_orphans();
        if getpgrp() == getpid() {
            let _ = kill_process_group(getpgrp(), Signal::KILL);
        }
        leave(lost)
    });
    Ok(())
}

fn copy(of: impl AsFd) -> rustix::io::Result<OwnedFd> {
    fcntl_dupfd_cloexec(&of, OUT_OF_THE_WAY).or_else(|_| fcntl_dupfd_cloexec(&of, 3))
}

fn await_end(mut pipe: File, mut asked_to_stop: impl FnMut()) {
    let mut words = [0_u8; 64];
    loop {
        match pipe.read(&mut words) {
            Ok(0) => return,
            Ok(_) => asked_to_stop(),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Sends a line to the process above.
///
/// # Errors
/// It is gone.
pub(crate) fn report(line: &str) -> io::Result<()> {
    match REPORTS.get() {
        Some(reports) => send(&mut *reports.lock().unwrap_or_else(PoisonError::into_inner), line),
        None => send(&mut io::stdout().lock(), line),
    }
}

/// In one piece, so that lines of several threads do not mix.
fn send(to: &mut impl Write, line: &str) -> io::Result<()> {
    to.write_all(format!("{line}\n").as_bytes()).and_then(|()| to.flush())
}

/// Ends this process and what it has started, without running the exit handlers of libraries: they may hang.
pub(crate) fn leave(code: u8) -> ! {
    end_orphans();
    flush();
    // SAFETY: the call takes a number and does not return; nothing of this process is needed any more.
    #[allow(unsafe_code)]
    unsafe {
        libc::_exit(i32::from(code))
    }
}

/// Writes out what C code has printed and the C library still holds. A thread that hangs in there may hold its locks: hence
/// another thread and little patience.
fn flush() {
    let (done, flushed) = channel();
    thread::spawn(move || {
        // SAFETY: a null pointer stands for all open streams.
        #[allow(unsafe_code)]
        unsafe {
            libc::fflush(std::ptr::null_mut());
        }
        let _ = done.send(());
    });
    let _ = flushed.recv_timeout(Duration::from_millis(500));
}
