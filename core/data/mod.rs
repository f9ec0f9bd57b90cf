//! Texts and how they become token sequences: for calibration, for training, for running-text evaluation.

mod affixes;
mod documents;
mod format;
mod rows;
mod sequences;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use affixes::{affixes, begins_itself, spelled};
pub use documents::{Document, documents};
pub use format::Format;
pub(crate) use format::{decode, plain_lines};
pub use sequences::{Sequences, is_one_text, sequences, sequences_of};
pub use text::TextPieces;
