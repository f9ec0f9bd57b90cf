//! The crate against numbers of reference packages, against a slow obvious implementation, and against properties.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]
#![allow(clippy::print_stderr, reason = "a test that is skipped says so")]

mod edges;
mod fixtures;
mod full_fixtures;
mod golden;
mod golden_float;
mod golden_observers;
mod gradients;
mod packing;
mod properties;
mod reference;
mod schemes;
mod shares;
mod values;
