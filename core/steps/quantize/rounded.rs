//! A weight that the host itself rounds to nearest, a few rows at a time: a vocabulary has more rows than memory should hold
//! in f32.

use workbench_model::{Checkpoint, ModelError, WeightSource};
use workbench_quant::{Grid, GridError, Matrix, QuantParams, QuantizedWeight};

use crate::error::{Error, Result};

/// Values that are widened at once.
const PIECE: usize = 1 << 22;

/// The scales of a weight `[rows, columns]`. Its codes and values follow from them and from the checkpoint, so neither is kept.
pub(super) struct Rounded {
    tensor: String,
    shape: [usize; 2],
    /// Values that are widened at once.
    sublayer: usize,
    grid: Grid,
    parameters: QuantParams,
}

impl Rounded {
    /// Chooses the scales of a tensor.
    ///
    /// # Errors
    /// The tensor cannot be read, or does not fit the grid.
    pub(super) fn new(checkpoint: &Checkpoint, tensor: String, grid: &Grid) -> Result<Self> {
        Self::in_pieces(checkpoint, tensor, grid, PIECE)
    }

    /// The same, `values` of them at a time.
    fn in_pieces(checkpoint: &Checkpoint, tensor: String, grid: &Grid, values: usize) -> Result<Self> {
        let Some(&[rows, columns]) = checkpoint.shape(&tensor).as_deref() else {
            return Err(Error::refused(format!("the model has no matrix `{tensor}`")));
        };
        let (shape, parameters) = ([rows, columns], QuantParams::default());
        let mut state = Self { tensor, shape, sublayer: values, grid: grid.clone(), parameters };
        let height = if grid.rows_are_independent() { state.sublayer(checkpoint) } else { rows };
        for first in (0..rows).step_by(height.max(1)) {
            let count = height.min(rows - first);
            let values = state.values_of(checkpoint, first, count)?;
            let matrix = Matrix::new(&values, count, columns).and_then(|matrix| grid.parameters(matrix));
            let next = matrix.map_err(|error| state.error(&error))?;
            append(&mut state.parameters, next);
        }
        Ok(state)
    }

    pub(super) fn grid(&self) -> &Grid {
        &self.grid
    }

    /// The codes of the whole weight.
    ///
    /// # Errors
    /// The tensor cannot be read.
    pub(super) fn codes(&self, checkpoint: &Checkpoint) -> Result<QuantizedWeight> {
        let [rows, columns] = self.shape;
        let height = self.sublayer(checkpoint);
        let mut codes = Vec::with_capacity(rows * columns);
        for first in (0..rows).step_by(height) {
            let count = height.min(rows - first);
            let values = self.values_of(checkpoint, first, count)?;
            let sublayer =
                self.grid.parameters_of_rows(&self.parameters, self.shape, first, count).and_then(|parameters| {
                    let matrix = Matrix::new(&values, count, columns)?;
                    self.grid.quantize(matrix, &parameters)
                });
            codes.extend(sublayer.map_err(|error| self.error(&error))?);
        }
        checkpoint.drop_pages([self.tensor.as_str()]);
        Ok(QuantizedWeight { grid: self.grid.clone(), shape: self.shape, codes, parameters: self.parameters.clone() })
    }

    /// The checkpoint with the values of the codes in place of the weight's.
    pub(super) fn over<'a>(&'a self, checkpoint: &'a Checkpoint) -> impl WeightSource + 'a {
        Overlay { rounded: self, checkpoint }
    }

    /// Rows of a piece. What is not stored row by row is decoded as a whole, and so only once.
    fn sublayer(&self, checkpoint: &Checkpoint) -> usize {
        let [rows, columns] = self.shape;
        if !checkpoint.has_rows(&self.tensor) {
            return rows.max(1);
        }
        // Rows that share a scale stay together; all that share one can be cut anywhere.
        let tile = self.grid.tile(rows, columns).ok().map(|[height, _]| height);
        let together = tile.filter(|tile| *tile < rows).unwrap_or(1);
        (self.sublayer / columns.max(1)).next_multiple_of(together).max(together)
    }

    fn values_of(&self, checkpoint: &Checkpoint, first: usize, count: usize) -> Result<Vec<f32>> {
        if count == self.shape[0] {
            return Ok(checkpoint.values(&self.tensor)?);
        }
        let rows: Vec<u32> = (first..first + count).map(|row| row as u32).collect();
        Ok(checkpoint.rows(&self.tensor, &rows)?)
    }

    fn error(&self, error: &GridError) -> Error {
        Error::refused(format!("rounding `{}`", self.tensor)).cause(error.to_string()).maybe_hint(error.hint())
    }

    /// Rounds some rows, of which `values` holds the originals.
    fn round(&self, rows: &[u32], values: &mut [f32]) -> Result<(), GridError> {
        let columns = self.shape[1];
        for (row, values) in rows.iter().zip(values.chunks_mut(columns.max(1))) {
            let parameters = self.grid.parameters_of_rows(&self.parameters, self.shape, *row as usize, 1)?;
            self.grid.fake_quantize(values, 1, columns, &parameters)?;
        }
        Ok(())
    }
}

/// Puts the parameters of the next rows behind those of the rows before.
fn append(all: &mut QuantParams, next: QuantParams) {
    all.scales.extend(next.scales);
    if let Some(points) = next.zero_points {
        all.zero_points.get_or_insert_default().extend(points);
    }
    all.global_scale = next.global_scale;
    all.shape = [all.shape[0] + next.shape[0], next.shape[1]];
}

struct Overlay<'a> {
    rounded: &'a Rounded,
    checkpoint: &'a Checkpoint,
}

impl WeightSource for Overlay<'_> {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.checkpoint.values(name)?;
        if name == self.rounded.tensor {
            let [rows, columns] = self.rounded.shape;
            let rounded = self.rounded.grid.fake_quantize(&mut values, rows, columns, &self.rounded.parameters);
            rounded.map_err(|error| failed(name, &error))?;
        }
        Ok(values)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let mut values = self.checkpoint.rows(name, rows)?;
        if name == self.rounded.tensor {
            self.rounded.round(rows, &mut values).map_err(|error| failed(name, &error))?;
        }
        Ok(values)
    }

    fn has_rows(&self, name: &str) -> bool {
        self.checkpoint.has_rows(name)
    }
}

fn failed(name: &str, error: &GridError) -> ModelError {
    candle_core::Error::Msg(format!("rounding `{name}`: {error}")).into()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;
    use workbench_quant::{Conventions, Scheme, StorageDtype};

    use super::*;

    #[test]
    fn pieces_make_what_the_whole_makes() {
        let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments/demo/model");
        let checkpoint = Checkpoint::open(&demo).unwrap();
        let name = "model.embed_tokens.weight";
        let (weight, shape) = (checkpoint.values(name).unwrap(), checkpoint.shape(name).unwrap());
        for value in [
            json!({"scheme": "W8A16", "strategy": "channel"}),
            json!({"scheme": "W4A16_ASYM", "group_size": 32}),
            json!({"scheme": "W4A16", "group_size": 32, "observer": "mse"}),
            json!({"scheme": "W8A16", "strategy": "tensor"}),
            json!({"scheme": "FP8_BLOCK", "input_activations": null}),
            json!("NVFP4A16"),
            json!("MXFP4A16"),
        ] {
            let args = Scheme::from_value(&value).unwrap().weights.unwrap();
            let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default()).unwrap();
            let whole = Matrix::new(&weight, shape[0], shape[1]).unwrap();
            let (codes, parameters) = grid.round_to_nearest(whole).unwrap();
            let mut values = vec![0.0; weight.len()];
            grid.dequantize(&codes, shape[0], shape[1], &parameters, &mut values).unwrap();
            // 37 rows at a time, or as many more as share a scale.
            let state = Rounded::in_pieces(&checkpoint, name.to_owned(), &grid, 37 * shape[1]).unwrap();
            let found = state.codes(&checkpoint).unwrap();
            assert!(found.codes == codes && found.parameters == parameters, "{value}");
            let over = state.over(&checkpoint);
            assert!(over.values(name).unwrap() == values, "{value}");
            let rows = over.rows(name, &[2000, 3, 77]).unwrap();
            let expected = [2000, 3, 77].map(|row| &values[row * shape[1]..(row + 1) * shape[1]]).concat();
            assert!(rows == expected, "{value}");
            assert!(over.values("model.norm.weight").unwrap() == checkpoint.values("model.norm.weight").unwrap());
        }
    }
}
