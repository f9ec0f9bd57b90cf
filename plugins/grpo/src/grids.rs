//! The grids of a job, as the policy has them, and how far its codes have moved.

use workbench_api::job::Model;
use workbench_api::sdk::Error;
use workbench_model::decoder::{WeightQuantizer, WeightScales};
use workbench_plugin_model::model_error;
use workbench_train::{Grids, Student};

/// Reads the grids of a job. Scales of weights are taken from the weights of each step.
pub(crate) fn of(job: &Model) -> Result<Grids, Error> {
    let mut grids = Grids { kv_cache: job.kv_cache()?, ..Grids::default() };
    for linear in job.coded() {
        if let Some(grid) = linear.input_grid()? {
            grids.inputs.insert(linear.module.clone(), grid);
        }
        if !linear.grid.is_null() {
            let (grid, scales) = (linear.grid()?, WeightScales::Dynamic);
            grids.weights.insert(linear.weight.clone(), WeightQuantizer { grid, scales, stops_at_clipped: false });
        }
    }
    Ok(grids)
}

/// The codes that a policy begins with.
pub(crate) struct Codes(Vec<(String, Vec<i8>)>);

impl Codes {
    /// Of all weights on grids.
    pub(crate) fn of(job: &Model, student: &Student<'_>) -> Result<Self, Error> {
        let weights = job.coded().filter(|linear| !linear.grid.is_null()).map(|linear| linear.weight.clone());
        let codes = |weight: String| {
            let codes = student.quantized(&weight).map_err(model_error)?.codes;
            Ok((weight, codes))
        };
        weights.map(codes).collect::<Result<_, Error>>().map(Self)
    }

    /// Whether there are any.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.iter().map(|(_, codes)| codes.len()).sum()
    }

    /// How many of them are others now.
    pub(crate) fn changed(&self, student: &Student<'_>) -> Result<usize, Error> {
        let mut changed = 0;
        for (weight, before) in &self.0 {
            let now = student.quantized(weight).map_err(model_error)?.codes;
            changed += now.iter().zip(before).filter(|(now, before)| now != before).count();
        }
        Ok(changed)
    }
}
