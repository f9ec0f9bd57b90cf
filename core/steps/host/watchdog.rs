//! Word to the driver that a plugin lives.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use crate::{
    exec::{NodeEvent, NodeReporter},
    plugin::Heartbeat,
};

/// Passes the plugin's heartbeat on to the driver while `work` runs.
pub(super) fn watched<T>(heartbeat: &Heartbeat, reporter: &NodeReporter, work: impl FnOnce() -> T) -> T {
    const PAUSE: Duration = Duration::from_millis(200);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                thread::park_timeout(PAUSE);
                if heartbeat.silence() < 2 * PAUSE {
                    reporter.send(&NodeEvent::Beat);
                }
            }
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    })
}
