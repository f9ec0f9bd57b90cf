//! Reading what a process writes, though others may hold its pipe open.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, read},
};

/// How often a pipe without news looks whether its writer is gone.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How long a pipe is read whose writer is gone: somebody may have survived that never stops writing.
const REST: Duration = Duration::from_secs(2);

/// Hands over what comes out of a pipe, on a thread of its own, until the pipe closes; once `gone` is set, until nothing more
/// is in it.
pub(crate) fn drain(
    pipe: impl Into<OwnedFd>,
    gone: Arc<AtomicBool>,
    mut take: impl FnMut(&[u8]) + Send + 'static,
) -> JoinHandle<()> {
    let pipe = pipe.into();
    thread::spawn(move || {
        let mut buffer = vec![0_u8; 64 << 10];
        let mut gone_since = None;
        loop {
            let wait = if gone.load(Ordering::Acquire) {
                gone_since.get_or_insert_with(Instant::now);
                Timespec { tv_sec: 0, tv_nsec: 0 }
            } else {
                PAUSE
            };
            match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&wait)) {
                Ok(0) if gone_since.is_some() => return,
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(_) => return,
            }
            if gone_since.is_some_and(|since| since.elapsed() > REST) {
                return;
            }
            match read(&pipe, &mut buffer) {
                Ok(0) => return,
                Ok(count) => take(&buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => return,
            }
        }
    })
}
