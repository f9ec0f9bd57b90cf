//! Rounding column by column, for methods that change later columns by the error of earlier ones.

use crate::error::GridError;
use crate::grid::{Grid, QuantParams};
use crate::kernel::{self, codec::AnyCodec, with_codec};

/// A grid with the scales of one tensor, laid out so that a column of many rows can be rounded at once.
pub struct ColumnRounder {
    codec: AnyCodec,
    rows: usize,
    columns: usize,
    width: usize,
    /// `[groups, rows]`.
    scales: Vec<f32>,
    /// As `scales`; zeros where the grid is symmetric.
    zero_points: Vec<f32>,
}

impl Grid {
    /// Prepares the rounding of a tensor of `[rows, columns]` with these parameters, column by column in any order.
    ///
    /// # Errors
    /// When the parameters are not those of a tensor of this shape.
    pub fn column_rounder(&self, p: &QuantParams, rows: usize, columns: usize) -> Result<ColumnRounder, GridError> {
        let layout = self.layout(rows, columns)?;
        p.check(self, &layout)?;
        let across = p.shape[1];
        let (effective, points) = (p.effective_scales(), p.float_zero_points());
        let broadcast = p.shape[0] == 1;
        let at = |row: usize| if broadcast { 0 } else { row / layout.height };
        let spread = |values: &[f32]| -> Vec<f32> {
            let by_group = (0..across).flat_map(|group| (0..rows).map(move |row| (group, row)));
            by_group.map(|(group, row)| values.get(at(row) * across + group).copied().unwrap_or(0.0)).collect()
        };
        let (scales, zero_points) = (spread(&effective), spread(&points));
        Ok(ColumnRounder { codec: self.codec(), rows, columns, width: layout.width, scales, zero_points })
    }
}

impl ColumnRounder {
    /// Rounds the values `x` of one column in the rows from `first` on: `codes` gets their codes, and `values` what these
    /// stand for. The result is that of [`Grid::quantize`] and [`Grid::dequantize`].
    ///
    /// # Panics
    /// When the column or a row is outside the tensor, or the slices differ in length.
    pub fn round(&self, column: usize, first: usize, x: &[f32], codes: &mut [i8], values: &mut [f32]) {
        assert!(column < self.columns && first + x.len() <= self.rows);
        assert!(x.len() == codes.len() && x.len() == values.len());
        let start = column / self.width * self.rows + first;
        let (scales, points) = (&self.scales[start..start + x.len()], &self.zero_points[start..start + x.len()]);
        with_codec!(self.codec, codec => kernel::column(codec, x, scales, points, codes, values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Conventions, Matrix, QuantizationArgs, StorageDtype, preset, preset_names};

    /// Against the loops over rows, for the weights of every preset.
    #[test]
    fn columns_are_rounded_as_rows_are() {
        let (rows, columns) = (48, 256);
        let x: Vec<f32> = (0..rows * columns).map(|i| ((i * i % 9973) as f32 / 3000.0).sin() * 1.7).collect();
        let more = [
            QuantizationArgs { num_bits: 3, symmetric: false, ..QuantizationArgs::default() },
            QuantizationArgs { num_bits: 4, strategy: crate::Strategy::Channel, ..QuantizationArgs::default() },
        ];
        let presets = preset_names().filter_map(|name| preset(name)?.weights);
        let mut seen = 0;
        for args in presets.chain(more) {
            let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
            let matrix = Matrix::new(&x, rows, columns).unwrap();
            let p = grid.parameters(matrix).unwrap();
            // Codes are rounded for values that the scales were not made for, too.
            let moved: Vec<f32> = x.iter().map(|v| v * 1.3 - 0.1).collect();
            let codes = grid.quantize(Matrix::new(&moved, rows, columns).unwrap(), &p).unwrap();
            let mut values = vec![0.0; x.len()];
            grid.dequantize(&codes, rows, columns, &p, &mut values).unwrap();
            let rounder = grid.column_rounder(&p, rows, columns).unwrap();
            for column in (0..columns).rev() {
                for (first, count) in [(0, 7), (7, rows - 7)] {
                    let pick = |i: usize| (first + i) * columns + column;
                    let given: Vec<f32> = (0..count).map(|i| moved[pick(i)]).collect();
                    let (mut found, mut back) = (vec![0; count], vec![0.0; count]);
                    rounder.round(column, first, &given, &mut found, &mut back);
                    for i in 0..count {
                        assert_eq!(found[i], codes[pick(i)], "{args} {column}");
                        assert_eq!(back[i].to_bits(), values[pick(i)].to_bits(), "{args} {column}");
                    }
                }
            }
            seen += 1;
        }
        assert!(seen > 8, "{seen}");
    }
}
