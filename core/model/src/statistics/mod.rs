//! Statistics of activations and logits: loops over many numbers, which belong into an optimised crate.

mod divergence;
mod gram;
mod site;

pub use divergence::{Divergence, divergences};
pub use site::{SiteStatistics, Wants};
