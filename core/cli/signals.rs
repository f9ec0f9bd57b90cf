//! Ctrl-C and its relatives. What they mean depends on what the program is doing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use signal_hook::iterator::Signals;

use super::{diagnostic, style};
use crate::{
    error::{Error, ErrorKind, Result},
    exec::Interrupt,
    process,
};

/// A script thinks, a model is opened, a file is hashed: nothing would be lost.
const PREPARING: u8 = 0;
/// Nodes run: the driver decides.
const RUNNING: u8 = 1;
/// Tables are written and models are copied.
const ENDING: u8 = 2;
/// It was asked to end meanwhile.
const HURRYING: u8 = 3;

/// Hears signals on a thread of its own, so that nothing that the program does can keep them waiting.
#[derive(Debug)]
pub(super) struct Ears {
    phase: AtomicU8,
    interrupt: Arc<Interrupt>,
    json: bool,
}

impl Ears {
    /// Begins to listen.
    pub(super) fn listen(json: bool) -> Result<Arc<Self>> {
        let mut heard = vec![libc::SIGINT, libc::SIGTERM];
        // `nohup` has it ignored, so that a run outlives its terminal.
        heard.extend((!is_ignored(libc::SIGHUP)).then_some(libc::SIGHUP));
        let mut signals = Signals::new(heard).map_err(|e| Error::internal(format!("no signal handler: {e}")))?;
        let ears = Arc::new(Self { phase: AtomicU8::new(PREPARING), interrupt: Arc::default(), json });
        let listener = Arc::clone(&ears);
        thread::Builder::new()
            .name("signals".into())
            .spawn(move || signals.forever().for_each(|signal| listener.on_signal(signal)))
            .map_err(|e| Error::internal(format!("cannot start a thread: {e}")))?;
        Ok(ears)
    }

    /// What a run is asked.
    pub(super) fn interrupt(&self) -> Arc<Interrupt> {
        Arc::clone(&self.interrupt)
    }

    /// Signals go to the driver until what is returned is dropped.
    pub(super) fn while_running(&self) -> Running<'_> {
        self.phase.store(RUNNING, Ordering::Relaxed);
        Running(self)
    }

    /// From now on results are written, which one signal does not stop.
    pub(super) fn ending(&self) {
        self.phase.store(ENDING, Ordering::Relaxed);
    }

    fn on_signal(&self, signal: i32) {
        match self.phase.load(Ordering::Relaxed) {
            RUNNING if signal == libc::SIGINT => self.interrupt.ask(),
            RUNNING => self.interrupt.ask_at_once(),
            ENDING => {
                self.phase.store(HURRYING, Ordering::Relaxed);
                style::note("writing what is finished; press Ctrl-C again to leave it at that");
            }
            _ => {
                let error = interrupted();
                diagnostic::print(&error, self.json);
                process::leave(error.kind.exit_code())
            }
        }
    }
}

/// The error that a run ends with which was interrupted.
pub(super) fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the run was interrupted")
        .hint("run the same command again: what is finished is kept")
}

/// While it lives, signals go to the driver.
pub(super) struct Running<'a>(&'a Ears);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.phase.store(PREPARING, Ordering::Relaxed);
    }
}

fn is_ignored(signal: i32) -> bool {
    let mut current = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action the call changes nothing and fills `current`, which is valid when all zero.
    #[allow(unsafe_code)]
    unsafe {
        libc::sigaction(signal, std::ptr::null(), current.as_mut_ptr()) == 0
            && current.assume_init().sa_sigaction == libc::SIG_IGN
    }
}
