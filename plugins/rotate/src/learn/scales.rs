//! How a rounded value follows the values that it is rounded from.
//!
//! Passing gradients straight through, a rounding error is a constant. A rotation then learns to meet the errors that it happens to
//! have at kinder places, and nothing tells it that a narrower range makes all of them smaller; with scales per token there are new
//! errors at the next batch. With the errors in steps of the grid the constants, the extremes of a row move its scale
//! ([`Grid::range_terms`]): the derivative of everything but the rounding itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_quant::{Grid, GridError, RangeTerm};

/// What is constant where a gradient passes through rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Scales {
    /// The rounding errors in steps of the grid: scales follow the extremes of their rows.
    #[default]
    Follow,
    /// The rounding errors: scales are constants, as SpinQuant has them.
    Constant,
}

impl Scales {
    /// The terms of extremes, given values `x` of `columns` a row, the rounded ones and the gradient by these.
    pub(crate) fn terms(
        self,
        grid: &Grid,
        x: &[f32],
        rounded: &[f32],
        gradient: &[f32],
        columns: usize,
    ) -> Result<Vec<RangeTerm>, GridError> {
        match self {
            Self::Constant => Ok(Vec::new()),
            Self::Follow => grid.range_terms(x, rounded, gradient, [x.len() / columns.max(1), columns]),
        }
    }
}
