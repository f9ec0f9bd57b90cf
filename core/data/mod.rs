//! Texts and how they become token sequences: for calibration, for training, for running-text evaluation.
//!
//! Lines of every file end in `\n`, `\r\n` or `\r`, as those of Python's text files do. What stands within a cell or a value belongs to
//! the data and is kept as it is, whatever ends its lines: so do pandas and datasets. Only a text that is no table is itself made
//! of lines, which end in `\n` from then on.

mod affixes;
mod demo;
mod documents;
mod encoded_prompts;
mod format;
mod lines;
mod parquet;
mod prompts;
mod rows;
mod sequences;
#[cfg(test)]
pub(crate) mod tests;
mod text;

pub use affixes::{affixes, begins_itself, spelled};
pub use documents::{Document, documents};
pub use encoded_prompts::{EncodedPrompt, EncodedPrompts, encoded_prompts};
pub use format::Format;
pub(crate) use format::{decode, plain_lines};
pub(crate) use lines::Lines;
pub use prompts::{Prompt, has_column, prompts};
pub(crate) use rows::{data_bytes, table_rows};
pub use sequences::{Sequences, is_one_text, sequences, sequences_of};
pub use text::TextPieces;
