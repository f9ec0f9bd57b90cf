//! A quantized weight: codes, and all that says what they stand for.

use crate::args::Strategy;
use crate::error::GridError;
use crate::grid::{Grid, QuantParams};
use crate::matrix::Matrix;

/// A weight `[out_features, in_features]` as codes on a grid.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeight {
    /// Which numbers the codes stand for.
    pub grid: Grid,
    /// Rows and columns of the weight.
    pub shape: [usize; 2],
    /// Integer codes, or the bit patterns of floating-point ones, row by row.
    pub codes: Vec<i8>,
    /// Scales and zero-points.
    pub parameters: QuantParams,
}

impl QuantizedWeight {
    /// Rounds a weight to the nearest points of a grid.
    ///
    /// # Errors
    /// As for [`Grid::parameters`].
    pub fn round_to_nearest(weight: Matrix<'_>, grid: &Grid) -> Result<Self, GridError> {
        let (codes, parameters) = grid.round_to_nearest(weight)?;
        Ok(Self { grid: grid.clone(), shape: [weight.rows(), weight.columns()], codes, parameters })
    }

    /// The values that it stands for, row by row.
    ///
    /// # Errors
    /// Codes or scales do not fit the shape.
    pub fn dequantize(&self) -> Result<Vec<f32>, GridError> {
        let [rows, columns] = self.shape;
        let mut values = vec![0.0; rows * columns];
        self.grid.dequantize(&self.codes, rows, columns, &self.parameters, &mut values)?;
        Ok(values)
    }

    /// The values of `count` rows from `first` on.
    ///
    /// # Errors
    /// They lie outside of the weight, or cut rectangles that share a scale other than within one of them.
    pub fn dequantize_rows(&self, first: usize, count: usize) -> Result<Vec<f32>, GridError> {
        let mut values = vec![0.0; count * self.shape[1]];
        self.dequantize_rows_into(first, count, &mut values)?;
        Ok(values)
    }

    /// The same into a slice that can be used again for the next rows.
    ///
    /// # Errors
    /// As there, or the slice has another length than the rows.
    pub fn dequantize_rows_into(&self, first: usize, count: usize, values: &mut [f32]) -> Result<(), GridError> {
        let own = self.grid.parameters_of_rows(&self.parameters, self.shape, first, count)?;
        let columns = self.shape[1];
        let codes = self.codes.get(first * columns..(first + count) * columns).unwrap_or_default();
        self.grid.dequantize(codes, count, columns, &own, values)
    }

    /// Whether it is one: shapes fit, codes, scales and zero-points are numbers that the grid can hold, and scales are ones
    /// that the dtype in which they are stored does not round.
    ///
    /// # Errors
    /// [`GridError::Shape`] with what does not fit, [`GridError::Value`] with the first number that cannot be.
    pub fn check(&self) -> Result<(), GridError> {
        self.grid.check_weight(&self.codes, self.shape, &self.parameters)
    }
}

impl Grid {
    /// [`QuantizedWeight::check`] of parts that lie elsewhere.
    ///
    /// # Errors
    /// As there.
    pub fn check_weight(
        &self,
        codes: &[i8],
        [rows, columns]: [usize; 2],
        parameters: &QuantParams,
    ) -> Result<(), GridError> {
        if codes.len() != rows * columns {
            return Err(GridError::Shape(format!("{} codes cannot be {rows} x {columns}", codes.len())));
        }
        self.check_stored(parameters, [rows, columns])?;
        self.check_codes(codes)?;
        self.check_rounding(&parameters.scales)
    }

    /// Checks the scales and zero-points of a weight: their shapes, that there are zero-points and a tensor-wide scale where
    /// the grid has them and nowhere else, and [`Grid::check_parameters`].
    ///
    /// # Errors
    /// [`GridError::Shape`] with what does not fit, [`GridError::Value`] with the first number that cannot be.
    pub fn check_stored(&self, parameters: &QuantParams, [rows, columns]: [usize; 2]) -> Result<(), GridError> {
        let expected = self.parameters_shape(rows, columns)?;
        let other = |what: String| Err(GridError::Shape(what));
        let [down, across] = expected;
        if expected != parameters.shape || parameters.scales.len() != down * across {
            return other(format!("the shape of their scales is {:?}, the grid wants {expected:?}", parameters.shape));
        }
        let symmetric = self.args().symmetric;
        if symmetric == parameters.zero_points.is_some() {
            return other(format!("zero-points: the grid {}", if symmetric { "has none" } else { "wants them" }));
        }
        if parameters.zero_points.as_ref().is_some_and(|points| points.len() != down * across) {
            return other(format!("there are not as many zero-points as scales, {down} x {across}"));
        }
        let two_level = self.args().strategy == Strategy::TensorGroup;
        if two_level != parameters.global_scale.is_some() {
            return other(format!("a global scale: the grid {}", if two_level { "wants one" } else { "has none" }));
        }
        if let (Some(given), Some(found)) = (self.given_global_scale(), parameters.global_scale)
            && given.to_bits() != found.to_bits()
        {
            return other(format!("the global scale is {found}, the grid's {given}"));
        }
        self.check_parameters(parameters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conventions, QuantizationArgs, StorageDtype};

    fn weight() -> QuantizedWeight {
        let args = QuantizationArgs {
            num_bits: 4,
            symmetric: false,
            group_size: Some(4),
            strategy: Strategy::Group,
            ..Default::default()
        };
        let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
        let values: Vec<f32> = (0..24).map(|i| (i as f32 * 0.7).sin()).collect();
        QuantizedWeight::round_to_nearest(Matrix::new(&values, 3, 8).unwrap(), &grid).unwrap()
    }

    #[test]
    fn values_are_steps_times_scales() {
        let weight = weight();
        weight.check().unwrap();
        let points = weight.parameters.zero_points.as_ref().unwrap();
        for (index, value) in weight.dequantize().unwrap().into_iter().enumerate() {
            let group = index / 4;
            let step = f32::from(weight.codes[index]) - points[group] as f32;
            assert_eq!(value, step * weight.parameters.scales[group], "{index}");
        }
    }

    #[test]
    fn rows_are_those_of_the_whole() {
        let (weight, all) = (weight(), weight().dequantize().unwrap());
        assert_eq!(weight.dequantize_rows(1, 2).unwrap(), all[8..]);
        assert_eq!(weight.dequantize_rows(0, 1).unwrap(), all[..8]);
        assert!(weight.dequantize_rows(2, 2).is_err() && weight.dequantize_rows(3, 1).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let broken = |change: fn(&mut QuantizedWeight)| {
            let mut weight = weight();
            change(&mut weight);
            weight.check().unwrap_err().to_string()
        };
        assert_eq!(broken(|w| w.codes.truncate(9)), "9 codes cannot be 3 x 8");
        assert_eq!(broken(|w| w.shape = [4, 6]), "group_size 4 does not divide the 6 columns of the tensor");
        assert!(broken(|w| w.parameters.shape = [2, 3]).ends_with("[2, 3], the grid wants [3, 2]"));
        assert_eq!(broken(|w| w.parameters.zero_points = None), "zero-points: the grid wants them");
        assert!(broken(|w| w.parameters.zero_points = Some(vec![0])).starts_with("there are not as many"));
        assert_eq!(broken(|w| w.parameters.global_scale = Some(1.0)), "a global scale: the grid has none");
        assert_eq!(broken(|w| w.codes[5] = 8), "code 5 is 8, outside -8..=7");
        assert!(broken(|w| w.parameters.scales[1] = 0.1).contains("which bfloat16 holds as"));
        assert!(broken(|w| w.parameters.scales[0] = -1.0).contains("not a positive number"));
    }
}
