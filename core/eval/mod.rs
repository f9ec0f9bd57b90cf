//! Evaluation: tasks, the protocols that score them, and the items they record.
//!
//! Every evaluation yields items (a block of text, a question), each with a weight and sums by metric: the estimate is the
//! quotient of the totals, and statistics pair items of different models by their identifiers. Nothing is averaged before
//! it is recorded. What a model is asked for is an [`Engine`]'s business, what is measured a [`Method`]'s.

mod choice;
mod divergence;
mod engine;
mod generate;
mod kept;
mod loaded;
mod local;
mod measured;
mod memory;
mod metrics;
mod numbers;
mod perplexity;
mod quantizers;
pub mod rewards;
mod style;
pub mod task;
#[cfg(test)]
mod tests;
mod walk;
mod windows;

pub use choice::choice;
pub use divergence::divergence;
pub use engine::{Answer, Engine, Limits, Sequence, TokenScore};
pub use generate::generate;
#[cfg(test)]
pub(crate) use generate::judge;
pub use kept::{Conduct, Notes};
pub use loaded::Loaded;
pub use measured::{Item, Measured, MetricInfo, Unit};
pub use memory::{PROGRAM, Scored, TOKEN, generating_memory, scoring_memory};
pub use metrics::{Method, Metric};
pub use perplexity::perplexity;
pub use windows::{Window, Windows, windows, windows_of};

/// Rows of logits that exist at one time: enough for several tasks of each thread, or their products would run on one.
const CHUNK: usize = 512;
