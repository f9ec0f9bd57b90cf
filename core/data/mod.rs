//! Texts and how they become token sequences: for calibration, for training, for running-text evaluation.

mod documents;
mod sequences;
mod text;

pub use documents::{Document, documents};
pub use sequences::{Sequences, TokenOptions, begins_with_bos, sequences, sequences_of};
pub use text::TextPieces;
