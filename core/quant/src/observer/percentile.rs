//! The range without its outermost values.
//!
//! The bounds of a rectangle are its percentiles 100 - p and p, interpolated between neighbours as numpy does by default. An
//! outlier then clips instead of making every step larger (Wu et al. 2020, arXiv:2004.09602, section 5.1).

use rayon::prelude::*;

use super::Options;
use crate::derive::{TensorRange, tensor_range};
use crate::error::GridError;
use crate::matrix::{Layout, Matrix};

/// The range of every rectangle.
pub(crate) fn range(x: Matrix<'_>, layout: &Layout, options: &Options) -> Result<TensorRange, GridError> {
    // Also finds values that are not finite.
    let full = tensor_range(x, layout, false)?;
    if layout.is_empty() {
        return Ok(full);
    }
    let [down, across] = layout.shape();
    let rectangle = |index: usize| {
        let (top, left) = (index / across * layout.height, index % across * layout.width);
        let rows = top..x.rows().min(top + layout.height);
        let columns = left..x.columns().min(left + layout.width);
        let row = |row: usize| &x.values()[row * x.columns()..][columns.clone()];
        let mut values: Vec<f32> = rows.flat_map(row).copied().collect();
        (quantile(&mut values, 1.0 - options.percentile / 100.0), quantile(&mut values, options.percentile / 100.0))
    };
    let (min, max) = (0..down * across).into_par_iter().map(rectangle).unzip();
    Ok(TensorRange { min, max, shape: full.shape })
}

/// The quantile of finite values, whose order changes.
fn quantile(values: &mut [f32], q: f64) -> f32 {
    let position = q * (values.len() - 1) as f64;
    let (_, low, above) = values.select_nth_unstable_by(position as usize, f32::total_cmp);
    let low = *low;
    let next = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    (f64::from(low) + position.fract() * (f64::from(next) - f64::from(low))) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conventions, Grid, QuantizationArgs, StorageDtype, Strategy};

    #[test]
    fn quantiles_are_those_of_a_sorted_list() {
        let values: Vec<f32> = (0..101).map(|i| ((i * 37) % 101) as f32).collect();
        for (q, expected) in [(0.0, 0.0), (0.001, 0.1), (0.5, 50.0), (0.995, 99.5), (1.0, 100.0)] {
            assert!((quantile(&mut values.clone(), q) - expected).abs() < 1e-4, "{q}");
        }
        assert_eq!(quantile(&mut [3.0], 0.3), 3.0);
    }

    #[test]
    fn each_rectangle_has_its_own_range() {
        // Two groups of 8 in two rows; numpy.percentile(group, [10, 90]) of 0..8 is .7 and 6.3.
        let values: Vec<f32> = (0..32).map(|i| (i % 8) as f32 + (i / 8) as f32 * 100.0).collect();
        let kwargs = [("percentile".to_owned(), serde_json::json!(90))];
        let args = QuantizationArgs {
            num_bits: 8,
            strategy: Strategy::Group,
            group_size: Some(8),
            observer: Some("percentile".into()),
            observer_kwargs: kwargs.into_iter().collect(),
            ..QuantizationArgs::default()
        };
        let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
        let x = Matrix::new(&values, 2, 16).unwrap();
        let found = range(x, &grid.layout(2, 16).unwrap(), &Options::from_args(&args).unwrap()).unwrap();
        for (group, (min, max)) in found.min.iter().zip(&found.max).enumerate() {
            let base = group as f32 * 100.0;
            assert!((min - base - 0.7).abs() < 1e-4 && (max - base - 6.3).abs() < 1e-4, "{min} {max}");
        }
    }

    #[test]
    fn one_outlier_does_not_make_the_steps_larger() {
        let mut values: Vec<f32> = (0..1000).map(|i| (i as f32 * 0.37).sin()).collect();
        let scale = |values: &[f32], name: &str| {
            let args = QuantizationArgs {
                num_bits: 8,
                strategy: Strategy::Tensor,
                observer: Some(name.into()),
                observer_kwargs: [("percentile".to_owned(), serde_json::json!(99.5))].into_iter().collect(),
                ..QuantizationArgs::default()
            };
            let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
            grid.parameters(Matrix::new(values, 10, 100).unwrap()).unwrap().scales[0]
        };
        let before = scale(&values, "percentile");
        values[17] = 1000.0;
        assert!(scale(&values, "percentile") < 1.01 * before);
        assert!(scale(&values, "minmax") > 100.0 * before);
    }
}
