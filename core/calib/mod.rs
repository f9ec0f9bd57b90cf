//! Calibration: the tokens of the calibration set pass through the decoder block by block, and each site is observed as it
//! is passed.
//!
//! A block is loaded, used and dropped, so memory holds one block, the hidden states of the calibration set, the inputs of its
//! widest site and, where a cache has static scales, keys and values, however deep the model is. In true sequential order
//! ([`Order::Sequential`]) all tokens pass one sublayer of a block, the linears that read its result are quantized, and only then they run: each linear runs once, on inputs that
//! everything upstream has already been quantized for. (A mixture routes its tokens anew for each group of experts that is
//! observed together, and runs gate and up of an expert once more for the site behind them.)

mod experts;
mod layerwise;
mod observer;
mod statistics;

pub use layerwise::{LayerwiseCalibration, SiteVisitor};
pub use observer::{InputScale, Observation, SiteObserver};
pub use statistics::{Found, Kept, Wanted, statistics, wants};

pub use crate::graph::params::Order;
