//! How long work tells how far it is, whoever listens.

/// Hears how far some work is.
pub trait Progress {
    /// So much of the work is done.
    fn progress(&self, done: u64, total: u64, unit: &str);
}

/// Nobody listens.
impl Progress for () {
    fn progress(&self, _: u64, _: u64, _: &str) {}
}
