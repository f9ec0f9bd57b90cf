//! Calibration: the tokens of the calibration set pass through the decoder block by block, and each site is looked at as it
//! is passed.
//!
//! A block is loaded, used and dropped, so memory holds one block, the hidden states of the calibration set and the inputs of
//! its widest site, however deep the model is. In true sequential order ([`Order::Sequential`]) all tokens pass one piece of
//! a block, the linears that read its result are quantized, and only then they run: each linear runs once, on inputs that
//! everything upstream has already been quantized for.

mod look;
mod pass;
mod statistics;

pub use look::{InputScale, Look, Seen};
pub use pass::{Pass, Room, SiteWork};
pub use statistics::{Wanted, statistics, wants};

use serde::{Deserialize, Serialize};

/// Which model the activations that are looked at come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The quantized model so far, up to the linears that read the site: what it will receive at deployment. Introduced as
    /// "true sequential" by GPTQ's authors.
    #[default]
    Sequential,
    /// The model with all blocks before this one quantized.
    Block,
    /// The model as it was given.
    FullPrecision,
}

impl Order {
    /// The names that scripts use.
    pub const NAMES: [&'static str; 3] = ["sequential", "block", "full_precision"];
}
