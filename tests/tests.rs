//! The program as a person drives it, and the rules between its parts.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod invariants;
mod program;
