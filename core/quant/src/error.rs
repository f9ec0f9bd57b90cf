//! What can be wrong with quantization arguments, schemes, grids and the tensors given to them.

use std::fmt;

/// Quantization arguments or a scheme that cannot mean anything, with the key at fault and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ArgsError {
    /// The key at fault, dotted where it is nested, for example `weights.group_size`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What the user can do about it.
    pub hint: Option<String>,
}

impl ArgsError {
    pub(crate) fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.to_owned(), message: message.into(), hint: None }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same error one level further out: `group_size` becomes `weights.group_size`.
    pub(crate) fn inside(mut self, outer: &str) -> Self {
        self.key = if self.key.is_empty() { outer.to_owned() } else { format!("{outer}.{}", self.key) };
        self
    }
}

/// An error that shows its hint too, for formats that carry only one line of text.
#[derive(Debug)]
pub(crate) struct OneLine(pub(crate) ArgsError);

impl fmt::Display for OneLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.hint {
            Some(hint) => write!(f, "{} ({hint})", self.0.message),
            None => f.write_str(&self.0.message),
        }
    }
}

/// An error of a grid: the arguments do not describe one, or the tensor does not fit it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// The quantization arguments contradict themselves.
    #[error(transparent)]
    Args(#[from] ArgsError),
    /// A group size does not divide the number of columns.
    #[error("group_size {group_size} does not divide the {columns} columns of the tensor")]
    GroupSize {
        /// The group size that was asked for.
        group_size: usize,
        /// Length of a row.
        columns: usize,
    },
    /// A NaN or an infinity in the input.
    #[error("value {value} at row {row}, column {column} is not finite")]
    NonFinite {
        /// Row of the first such value.
        row: usize,
        /// Column of it.
        column: usize,
        /// The value itself.
        value: f32,
    },
    /// Slices, shapes or parameters that do not belong together.
    #[error("{0}")]
    Shape(String),
    /// A code, scale or zero-point that no tensor on the grid has.
    #[error("{0}")]
    Value(String),
}

impl GridError {
    /// What the user can do about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Args(error) => error.hint.clone(),
            Self::GroupSize { columns, .. } => {
                Some(format!("group sizes that divide {columns}: {}", List(&dividing_group_sizes(*columns))))
            }
            Self::NonFinite { .. } => {
                Some("check the weights, or the activations that were observed, for overflow".into())
            }
            Self::Shape(_) | Self::Value(_) => None,
        }
    }
}

/// The group sizes that divide a row of `columns` values, in ascending order: multiples of 8 where there are any, else
/// every divisor above 1. Of rows beyond 65536 values only the sizes up to there.
pub fn dividing_group_sizes(columns: usize) -> Vec<usize> {
    let divisors: Vec<usize> = (2..=columns.min(1 << 16)).filter(|size| columns.is_multiple_of(*size)).collect();
    let round: Vec<usize> = divisors.iter().copied().filter(|size| size.is_multiple_of(8)).collect();
    if round.is_empty() { divisors } else { round }
}

/// Numbers with commas between them.
struct List<'a>(&'a [usize]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, value) in self.0.iter().enumerate() {
            write!(f, "{}{value}", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

/// The name among `known` that `given` was probably meant to be.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}
