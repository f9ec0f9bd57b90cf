//! Whether a plugin still lives, as far as its host can tell.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// When a plugin last called its host, for whoever watches over a node that may hang.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    /// Milliseconds from `start` to the last beat.
    last: AtomicU64,
    /// Calls that the host has not returned from: their time is the host's, not the plugin's.
    inside: AtomicUsize,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { start: Instant::now(), last: AtomicU64::new(0), inside: AtomicUsize::new(0) }
    }
}

impl Heartbeat {
    /// Says that the plugin lives.
    pub fn beat(&self) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.fetch_max(now, Ordering::Relaxed);
    }

    /// How long the plugin has kept silent; zero while the host serves one of its calls. Readable from any thread.
    pub fn silence(&self) -> Duration {
        if self.inside.load(Ordering::Relaxed) > 0 {
            return Duration::ZERO;
        }
        self.start.elapsed().saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }

    /// Marks a call as served until the guard is dropped, which is a beat.
    pub(crate) fn serving(&self) -> Serving<'_> {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Serving(self)
    }
}

/// A call that the host has not returned from.
pub(crate) struct Serving<'a>(&'a Heartbeat);

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.beat();
        self.0.inside.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_time_is_no_silence() {
        let (heartbeat, wait) = (Heartbeat::default(), Duration::from_millis(30));
        std::thread::sleep(wait);
        assert!(heartbeat.silence() >= wait);
        let serving = heartbeat.serving();
        assert_eq!(heartbeat.silence(), Duration::ZERO);
        drop(serving);
        std::thread::sleep(wait);
        assert!(heartbeat.silence() >= wait);
    }
}
