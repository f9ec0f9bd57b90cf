//! What the user has asked a run to do by signals.

use std::sync::atomic::{AtomicUsize, Ordering};

/// How often a run was asked to end. The first time it starts nothing more and what runs stops where it can be continued, the
/// second time what runs is ended, the third time nobody waits for that.
#[derive(Debug, Default)]
pub struct Interrupt {
    asked: AtomicUsize,
}

impl Interrupt {
    /// Asks once more, as Ctrl-C does.
    pub fn ask(&self) {
        self.asked.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks to end at once, as a system does that shuts down: what runs is ended.
    pub fn ask_at_once(&self) {
        let _ = self.asked.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |asked| Some((asked + 1).max(2)));
    }

    /// How often it was asked.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_ends_at_once_asks_twice() {
        let interrupt = Interrupt::default();
        interrupt.ask();
        assert_eq!(interrupt.asked(), 1);
        interrupt.ask_at_once();
        assert_eq!(interrupt.asked(), 2);
        interrupt.ask_at_once();
        assert_eq!(interrupt.asked(), 3);
    }
}
