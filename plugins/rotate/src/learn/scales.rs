//! How a rounded value follows the values that it is rounded from.
//!
//! Rounding has no useful derivative, and what takes its place decides what rotations learn. Let s be the step of a row, taken
//! from its range, and q = x + s ε.
//!
//! Passing gradients straight through, q moves as x does: s ε is a constant. A rotation then learns to meet the errors that it
//! happens to have at kinder places, and nothing tells it that a narrower range makes all of them smaller; with scales per
//! token there are new errors at the next batch.
//!
//! With ε the constant, q moves with s besides: ∂q/∂x = 1 + ε ∂s/∂x, and only the extremes of a row move s. This is the
//! derivative of everything but the rounding itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use workbench_quant::Grid;

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

/// A value's place, and what its gradient gets on top of what passes straight through.
pub(crate) type Term = (usize, f32);

impl Scales {
    /// The terms of extremes, given values `x` of `columns` a row, the rounded ones and the gradient by these.
    pub(crate) fn terms(self, grid: &Grid, x: &[f32], rounded: &[f32], gradient: &[f32], columns: usize) -> Vec<Term> {
        let mut terms = Vec::new();
        if self == Self::Constant || x.is_empty() {
            return terms;
        }
        let rows = x.len() / columns;
        // Rounding has been through the same tiles.
        let [height, width] = grid.tile(rows, columns).unwrap_or([1, columns]);
        for top in (0..rows).step_by(height) {
            for left in (0..columns).step_by(width) {
                let mut found = Extremes { low: (0.0, None), high: (0.0, None), along: 0.0 };
                for row in top..(top + height).min(rows) {
                    let range = row * columns + left..row * columns + (left + width).min(columns);
                    found.see(range.start, &x[range.clone()], &rounded[range.clone()], &gradient[range]);
                }
                found.terms(grid.args().symmetric, &mut terms);
            }
        }
        terms
    }
}

/// What a rectangle's scale hangs on. Zero always lies in the range.
struct Extremes {
    low: (f32, Option<usize>),
    high: (f32, Option<usize>),
    /// The gradient along the errors, Σ g (q - x).
    along: f64,
}

impl Extremes {
    fn see(&mut self, start: usize, x: &[f32], rounded: &[f32], gradient: &[f32]) {
        for (i, ((x, rounded), gradient)) in x.iter().zip(rounded).zip(gradient).enumerate() {
            if *x < self.low.0 {
                self.low = (*x, Some(start + i));
            }
            if *x > self.high.0 {
                self.high = (*x, Some(start + i));
            }
            self.along += f64::from(*gradient) * f64::from(rounded - x);
        }
    }

    fn terms(&self, symmetric: bool, terms: &mut Vec<Term>) {
        // The step is proportional to the range, so that the errors change by their share of its change.
        if symmetric {
            let (extreme, at) = if -self.low.0 > self.high.0 { self.low } else { self.high };
            terms.extend(at.map(|at| (at, (self.along / f64::from(extreme)) as f32)));
            return;
        }
        let share = (self.along / f64::from(self.high.0 - self.low.0)) as f32;
        terms.extend(self.high.1.map(|at| (at, share)));
        terms.extend(self.low.1.map(|at| (at, -share)));
    }
}
