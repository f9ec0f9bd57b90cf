//! Evaluation: tasks, the protocols that score them, and the items they record.
//!
//! Every evaluation yields items (a block of text, a question), each with a weight and sums by metric: the estimate is the
//! quotient of the totals, and statistics pair items of different models by their identifiers. Nothing is averaged before
//! it is recorded.

mod choice;
mod divergence;
mod generate;
mod loaded;
mod measured;
mod memory;
mod numbers;
mod perplexity;
mod quantizers;
mod style;
pub mod task;
#[cfg(test)]
mod tests;
mod walk;
mod windows;

pub use choice::choice;
pub use divergence::divergence;
pub use generate::generate;
pub use loaded::Loaded;
pub use measured::{Item, Measured, MetricInfo, Unit};
pub use memory::{Scored, scoring_memory};
pub use perplexity::perplexity;
pub use windows::{Window, Windows, windows, windows_of};

/// Rows of logits that exist at one time.
const CHUNK: usize = 512;
