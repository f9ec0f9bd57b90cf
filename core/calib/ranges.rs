//! Static input scales.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde_json::{Value, json};
use workbench_model::{Checkpoint, ModelError, Site};
use workbench_quant::{Grid, Matrix, Parameters, observer};

use super::walk::{batches, walk};
use crate::{
    error::{Error, Result},
    exec::NodeReporter,
};

/// Scales by site, and what the record says about them.
pub struct InputScales {
    pub parameters: BTreeMap<Site, Parameters>,
    pub facts: Value,
}

/// Observes the wanted sites of the model as it is (mode `full_precision`) and derives their static scales.
///
/// # Errors
/// A site that was never reached; an activation that is not finite, with its site.
pub fn input_scales(
    checkpoint: &Checkpoint,
    sites: &BTreeMap<Site, Grid>,
    sequences: &[Vec<u32>],
    reporter: &NodeReporter,
) -> Result<InputScales> {
    let grid_error = |site: Site, e: workbench_quant::GridError| {
        Error::refused(format!("cannot observe {site}")).cause(e.to_string()).maybe_hint(e.hint())
    };
    let mut observers = BTreeMap::new();
    for (site, grid) in sites {
        observers.insert(*site, observer::for_activations(grid, "minmax").map_err(|e| grid_error(*site, e))?);
    }
    walk(checkpoint, &batches(sequences)?, false, reporter, &mut |site, _, x| {
        let Some(observer) = observers.get_mut(&site) else { return Ok(()) };
        // Keys and values of all heads of a token make a row.
        let x = if x.rank() == 4 { &x.flatten_from(2).map_err(ModelError::from)? } else { x };
        with_matrix(x, |matrix| observer.observe(matrix).map_err(|e| grid_error(site, e)))
    })?;
    let mut parameters = BTreeMap::new();
    let mut ranges = serde_json::Map::new();
    for (site, grid) in sites {
        let Some((min, max)) = observers[site].range() else {
            return Err(Error::refused(format!("no calibration token reached {site}")));
        };
        let largest = |values: &[f32]| f64::from(values.iter().fold(0.0_f32, |a, b| a.max(b.abs())));
        ranges.insert(site.to_string(), json!([-largest(&min), largest(&max)]));
        parameters.insert(*site, grid.parameters_from_range(&min, &max).map_err(|e| grid_error(*site, e))?);
    }
    Ok(InputScales { parameters, facts: json!({ "mode": "full_precision", "ranges": ranges }) })
}

/// The rows of an activation `[.., features]` as a matrix.
pub(super) fn with_matrix<T>(x: &Tensor, look: impl FnOnce(Matrix<'_>) -> Result<T>) -> Result<T> {
    let (values, columns) = rows(x)?;
    let count = values.len() / columns.max(1);
    let matrix = Matrix::new(&values, count, columns).map_err(|e| Error::internal(e.to_string()))?;
    look(matrix)
}

fn rows(x: &Tensor) -> Result<(Vec<f32>, usize)> {
    let read = || -> candle_core::Result<(Vec<f32>, usize)> {
        Ok((x.flatten_all()?.to_vec1()?, x.dim(candle_core::D::Minus1)?))
    };
    Ok(read().map_err(ModelError::from)?)
}
