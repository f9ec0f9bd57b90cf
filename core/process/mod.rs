//! Processes that run somebody else's code, and that end together with whatever they have started.
//!
//! A plugin may fork, leave its group, hold pipes open, print what it likes, and hang in its exit handlers. So each process
//! that loads one leads a group of its own ([`Leader`]) and reports over a pipe that nothing else in it can reach
//! ([`set_aside`]). Its end is the end of its process, not that of its pipes; what is left of its group is killed then, and so
//! is what had left the group: orphans come back to the process above, which has asked for them ([`adopt_orphans`]). It ends
//! when its standard input closes, so that nothing outlives the process that started it; a word that comes over it asks it to
//! stop where it can be continued.

mod inside;
mod leader;
mod pipe;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use inside::{leave, report, set_aside};
pub(crate) use leader::{Leader, await_exit, end_rest};
pub(crate) use pipe::drain;
pub(crate) use tree::{adopt_orphans, below};
