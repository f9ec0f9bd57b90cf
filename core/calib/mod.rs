//! Calibration: hidden states walk through the decoder block by block, and each site is looked at as it is passed.
//!
//! A block is loaded, used and dropped, so memory holds one block and the hidden states of the calibration set, however
//! deep the model is. `full_precision` is the mode in which nothing on the way is quantized; what is observed is the input
//! of a site in the model as it was given.

mod ranges;
mod statistics;
mod walk;

pub use ranges::{InputScales, input_scales};
pub use statistics::{Wanted, statistics};
pub use walk::{batches, walk};
