//! Observers of activations, which see one batch after another.

use super::{Memory, Method, Options, mse, percentile};
use crate::args::Strategy;
use crate::derive::{TensorRange, tensor_range};
use crate::error::{ArgsError, GridError};
use crate::grid::Grid;
use crate::matrix::{Layout, Matrix};

/// Gathers the range of an activation over batches.
pub trait RangeObserver: Send {
    /// Sees one batch, [tokens, features]. For the moving averages, what counts as one batch matters.
    ///
    /// # Errors
    /// When a value is not finite, the group size does not divide the features, or the batches disagree about them.
    fn observe(&mut self, x: Matrix<'_>) -> Result<(), GridError>;

    /// Smallest and largest value so far, for [`Grid::parameters_from_range`]: one of each for `tensor`, one per group for
    /// `group`. `None` before the first batch with a value in it.
    fn range(&self) -> Option<(Vec<f32>, Vec<f32>)>;
}

/// The observer for a static activation of this grid, by the name in its arguments; `default` where they name none.
///
/// # Errors
/// When the name or an option is unknown, or the strategy has no static scale for activations.
pub fn for_activations(grid: &Grid, default: &str) -> Result<Box<dyn RangeObserver>, GridError> {
    let mut args = grid.args().clone();
    args.observer.get_or_insert_with(|| default.to_owned());
    let options = Options::from_args(&args)?;
    if !matches!(args.strategy, Strategy::Tensor | Strategy::Group | Strategy::TensorGroup) {
        let message = format!("strategy `{}` has no static scale for activations", args.strategy.name());
        return Err(ArgsError::new("strategy", message).with_hint("write `strategy: \"tensor\"`").into());
    }
    Ok(Box::new(Running { grid: grid.clone(), options, range: None }))
}

struct Running {
    grid: Grid,
    options: Options,
    range: Option<(Vec<f32>, Vec<f32>)>,
}

impl RangeObserver for Running {
    fn observe(&mut self, x: Matrix<'_>) -> Result<(), GridError> {
        if x.values().is_empty() {
            return Ok(());
        }
        // A static scale serves every row: the rectangle is as high as the batch.
        let layout = Layout { height: x.rows(), ..self.grid.layout(x.rows(), x.columns())? };
        let TensorRange { min, max, .. } = match self.options.method {
            Method::MinMax => tensor_range(x, &layout, false)?,
            Method::Mse => mse::search(&self.grid, x, &layout, &self.options)?,
            Method::Percentile => percentile::range(x, &layout, &self.options)?,
        };
        self.range = Some(match self.range.take() {
            None => (min, max),
            Some((old, _)) if old.len() != min.len() => {
                let message = format!("a batch with {} ranges after one with {}", min.len(), old.len());
                return Err(GridError::Shape(message));
            }
            Some((old_min, old_max)) => {
                (self.combine(&old_min, &min, f32::min), self.combine(&old_max, &max, f32::max))
            }
        });
        Ok(())
    }

    fn range(&self) -> Option<(Vec<f32>, Vec<f32>)> {
        self.range.clone()
    }
}

impl Running {
    fn combine(&self, old: &[f32], new: &[f32], union: fn(f32, f32) -> f32) -> Vec<f32> {
        let weight = self.options.averaging_constant;
        let (keep, take) = ((1.0 - weight) as f32, weight as f32);
        let rule = self.grid.rule();
        let average = |old: f32, new: f32| rule.round(rule.round(old * keep) + rule.round(new * take));
        let pairs = old.iter().zip(new);
        pairs
            .map(|(old, new)| match self.options.memory {
                Memory::Last => *new,
                Memory::Union => union(*old, *new),
                Memory::Average => average(*old, *new),
            })
            .collect()
    }
}
