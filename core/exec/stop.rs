//! How a node hears that it should stop, and when it does.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};

/// What a node was asked, and whether it may be cut short.
///
/// A node that is asked to stop ends at once: whatever it has on disk is written to survive a kill, and a later process goes on
/// from there. Where more than that would be lost, in the middle of a block or of a training step, it [holds](Self::hold) the
/// process, comes to a point that can be continued from, and [looks](Held::check).
#[derive(Debug, Default)]
pub struct Stop(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    asked: bool,
    /// The process ends, as nothing kept it when it was asked.
    ending: bool,
    held: usize,
}

impl Stop {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the node to stop. `true` says that nothing keeps it from ending now.
    pub fn ask(&self) -> bool {
        let mut state = self.state();
        state.asked = true;
        state.ending |= state.held == 0;
        state.ending
    }

    /// Whether it was asked to stop.
    pub fn asked(&self) -> bool {
        self.state().asked
    }

    /// Keeps the process from ending until what is returned is dropped, unless it has to be killed. Whoever holds it and does
    /// not look was too close to its end, and is carried through.
    ///
    /// # Errors
    /// The process is ending.
    pub fn hold(&self) -> Result<Held<'_>> {
        let mut state = self.state();
        if state.ending {
            return Err(interrupted());
        }
        state.held += 1;
        Ok(Held(self))
    }
}

/// A process that comes to a point which can be continued from before it ends.
#[derive(Debug)]
pub struct Held<'a>(&'a Stop);

impl Held<'_> {
    /// Looks whether to stop, at a point that can be continued from.
    ///
    /// # Errors
    /// The node was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.0.asked() { Err(interrupted()) } else { Ok(()) }
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.state().held -= 1;
    }
}

/// What the work of a node ends with that was asked to stop.
pub fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "it was asked to stop")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_decides_when_to_stop() {
        let stop = Stop::default();
        let outer = stop.hold().unwrap();
        let inner = stop.hold().unwrap();
        outer.check().unwrap();
        assert!(!stop.asked() && !stop.ask(), "it is in the middle of something");
        drop(inner);
        assert_eq!(outer.check().unwrap_err().kind, ErrorKind::Interrupted);
        drop(outer);
        // It did not look: then what it began is carried through.
        drop(stop.hold().unwrap());
        assert!(stop.ask() && stop.asked(), "nothing keeps it any more");
        assert!(stop.hold().is_err(), "nothing new is begun");
    }
}
