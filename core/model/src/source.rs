//! Where a decoder takes its weights from.

use crate::ModelError;

/// Dense weights by their Hugging Face name, widened to f32. A checkpoint is one; so is a set of tensors in memory.
pub trait WeightSource {
    /// The shape of a tensor, or `None` if there is no tensor of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// The tensor's values in row-major order, dequantized where it is stored as codes.
    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError>;

    /// Some rows of a matrix, one after the other. For the embeddings of a few tokens nobody should widen the whole table.
    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        let columns = self.shape(name).and_then(|shape| shape.last().copied()).unwrap_or(1);
        pick(name, &self.values(name)?, columns, rows)
    }

    /// The numbers of a tensor that is stored in bfloat16, in row-major order and as they are; `None` for any other. A linear multiplies
    /// them without widening them first.
    fn stored_bf16(&self, _name: &str) -> Result<Option<&[[u8; 2]]>, ModelError> {
        Ok(None)
    }

    /// Whether [`rows`](Self::rows) reads those rows alone, and not the whole matrix.
    fn has_rows(&self, _name: &str) -> bool {
        false
    }

    /// A block has been read and is not needed for now: pages of a file that it was read from can be given back.
    fn release_block(&self, _index: usize) {}
}

/// Some rows of a matrix of `columns` columns.
pub(crate) fn pick(name: &str, values: &[f32], columns: usize, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
    let mut found = Vec::with_capacity(rows.len() * columns);
    for row in rows {
        let start = *row as usize * columns;
        found.extend_from_slice(values.get(start..start + columns).ok_or_else(|| no_row(name, *row))?);
    }
    Ok(found)
}

/// The error for a row that a matrix does not have.
pub fn no_row(name: &str, row: u32) -> ModelError {
    candle_core::Error::Msg(format!("`{name}` has no row {row}")).into()
}
