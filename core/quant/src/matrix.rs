//! Borrowed matrices and how the groups of a strategy lie on them.

use crate::args::{QuantizationArgs, Strategy};
use crate::error::{ArgsError, GridError};

/// A borrowed row-major matrix: a weight is [out, in], an activation [tokens, features].
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
}

impl<'a> Matrix<'a> {
    /// Views `values` as `rows` rows of `columns` values.
    ///
    /// # Errors
    /// When the slice has another length.
    pub fn new(values: &'a [f32], rows: usize, columns: usize) -> Result<Self, GridError> {
        check_len("values", values.len(), rows, columns)?;
        Ok(Self { values, rows, columns })
    }

    /// The values, row by row.
    pub fn values(&self) -> &'a [f32] {
        self.values
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Length of a row.
    pub fn columns(&self) -> usize {
        self.columns
    }
}

/// Refuses a slice whose length is not rows * columns.
pub(crate) fn check_len(what: &str, len: usize, rows: usize, columns: usize) -> Result<(), GridError> {
    if rows.checked_mul(columns) == Some(len) {
        Ok(())
    } else {
        Err(GridError::Shape(format!("{what}: {len} values do not make {rows} rows of {columns}")))
    }
}

/// Which rectangle of a matrix shares a scale. Every strategy is one: a row is 1 x columns, a tensor rows x columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Rows of a rectangle, at least 1.
    pub(crate) height: usize,
    /// Columns of a rectangle, at least 1.
    pub(crate) width: usize,
    /// Whether one row of scales may serve all rows, as static activation scales do.
    pub(crate) broadcasts: bool,
}

impl Layout {
    pub(crate) fn new(args: &QuantizationArgs, rows: usize, columns: usize) -> Result<Self, GridError> {
        let (height, width) = match args.strategy {
            Strategy::Tensor => (rows, columns),
            Strategy::Channel | Strategy::Token => (1, columns),
            Strategy::Group | Strategy::TensorGroup => {
                let size = args.group_size.unwrap_or(columns);
                if size == 0 || !columns.is_multiple_of(size) {
                    return Err(GridError::GroupSize { group_size: size, columns });
                }
                (1, size)
            }
            Strategy::Block => {
                let [height, width] = args.block_structure.unwrap_or([rows, columns]);
                (height, width)
            }
            Strategy::AttnHead => {
                return Err(ArgsError::new("strategy", "strategy `attn_head` belongs to a KV cache, not to a matrix")
                    .with_hint("write `strategy: \"tensor\"`")
                    .into());
            }
        };
        Ok(Self { rows, columns, height: height.max(1), width: width.max(1), broadcasts: args.strategy.has_groups() })
    }

    /// Shape of the scales: [rectangles down, rectangles across].
    pub(crate) fn shape(&self) -> [usize; 2] {
        [self.rows.div_ceil(self.height), self.columns.div_ceil(self.width)]
    }

    /// Whether the matrix holds no value.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows == 0 || self.columns == 0
    }

    /// Rows that one task handles: enough work to pay for handing it over.
    pub(crate) fn rows_per_task(&self) -> usize {
        const VALUES_PER_TASK: usize = 1 << 15;
        (VALUES_PER_TASK / self.columns.max(1)).max(1)
    }

    /// Whether the matrix is worth sharing among threads at all.
    pub(crate) fn is_large(&self) -> bool {
        self.rows > 1 && self.rows * self.columns >= 1 << 16
    }
}
