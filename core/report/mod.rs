//! From items to tables that can be trusted: estimates with intervals, paired tests, and the files that show them.
//!
//! The caller fills an [`input::Table`] from its records; [`Analysis::new`] aggregates and tests; the renderers turn the
//! analysis into text. They compute nothing, so that no two outputs can disagree, and equal input gives equal bytes.

mod aggregate;
mod analysis;
mod cells;
mod compare;
mod csv;
mod curve;
mod footer;
mod format;
mod html;
pub mod input;
mod labels;
mod markdown;
mod progressions;
mod provenance;
mod sheet;
pub mod stats;
mod tables;
mod tensorboard;
mod terminal;
mod text;
mod verdict;
mod whose;

pub use aggregate::{Group, MetricKey};
pub use analysis::{Analysis, Cell};
pub use compare::{Comparison, Method, Pair, Paired};
pub use csv::{CsvColumns, CsvWriter, comparisons_csv, csv};
pub use curve::curve;
pub use html::html;
pub use markdown::markdown;
pub use tables::{Tables, Written};
pub use tensorboard::{EVENTS_FILE, tensorboard};
pub use terminal::{Terminal, terminal};
pub use verdict::Verdict;

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The baseline is not a row of the table.
    #[error("the baseline is row {row}, but the table has {rows} rows")]
    Baseline {
        /// Index that was asked for.
        row: usize,
        /// Rows that there are.
        rows: usize,
    },
    /// Polars refused an aggregation.
    #[error("cannot aggregate the items of the table")]
    Frame(#[from] polars::error::PolarsError),
    /// A file could not be written.
    #[error("cannot write the table to {}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

#[cfg(test)]
mod tests;
