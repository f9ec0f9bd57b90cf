//! What stands between a plugin and the store: results that are not finite, do not fit or were not asked for stop here,
//! each with one sentence that names the tensor.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::Value;
use workbench_api::abi::{Dtype, Level, NamedTensor, Tensor, TensorInfo};
use workbench_api::error::{Error, ErrorKind};
use workbench_api::host::{CodesView, HostServices};
use workbench_api::job::{Job, Linear};
use workbench_quant::Grid;

/// Services behind checks.
pub(super) struct Gate<'a> {
    services: &'a dyn HostServices,
    linears: &'a [Linear],
    /// Whether codes must be on the grids of the job: a trainer brings its own.
    grids_are_given: bool,
    /// Whether every linear with a grid must get codes.
    codes_are_due: bool,
    /// Whether the plugin carries rounding rules that were compared with the host's.
    rounds: bool,
    coded: Mutex<BTreeSet<String>>,
    refusal: Mutex<Option<Error>>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(job: &'a Job, services: &'a dyn HostServices, rounds: bool) -> Self {
        let (linears, quantizes) = match job {
            Job::Linear(linear) => (std::slice::from_ref(linear), true),
            Job::Block(block) => (block.linears.as_slice(), true),
            Job::Transform(model) | Job::Train(model) => (model.linears.as_slice(), false),
        };
        Self {
            services,
            linears,
            grids_are_given: quantizes,
            codes_are_due: quantizes,
            rounds,
            coded: Mutex::default(),
            refusal: Mutex::default(),
        }
    }

    /// The first thing that was refused, or that is missing at the end.
    pub(super) fn verdict(&self) -> Result<(), Error> {
        match &*self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Whether a job that reports success has put all that it owes.
    pub(super) fn complete(&self) -> Result<(), Error> {
        let coded = self.coded.lock().unwrap_or_else(PoisonError::into_inner);
        let due = |linear: &&Linear| self.codes_are_due && !linear.grid.is_null() && !coded.contains(&linear.module);
        match self.linears.iter().find(due) {
            Some(linear) => Err(Error::new(ErrorKind::Other, format!("it put no codes of `{}`", linear.module))),
            None => Ok(()),
        }
    }

    fn refuse(&self, kind: ErrorKind, message: String) -> Error {
        let error = Error::new(kind, message);
        self.refusal.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.clone());
        error
    }

    fn check_codes(&self, module: &str, codes: &CodesView<'_>) -> Result<(), Error> {
        let refuse = |kind, what: String| Err(self.refuse(kind, format!("codes of `{module}`: {what}")));
        if !self.rounds {
            return refuse(
                ErrorKind::Unsupported,
                "the plugin declares that it rounds nothing (GRID_VERSION 0)".to_owned(),
            );
        }
        let linear = self.linears.iter().find(|linear| linear.module == module);
        if linear.is_none() && self.grids_are_given {
            return refuse(ErrorKind::Other, "the job is not about this linear".to_owned());
        }
        let grid = match Grid::deserialize(&codes.grid) {
            Ok(grid) => grid,
            Err(error) => return refuse(ErrorKind::Other, format!("their grid cannot be read: {error}")),
        };
        let asked = linear.filter(|_| self.grids_are_given);
        if asked.is_some_and(|linear| Grid::deserialize(&linear.grid).is_ok_and(|asked| asked != grid)) {
            return refuse(ErrorKind::Other, "they are on another grid than the one asked for".to_owned());
        }
        let weight = linear.map_or_else(|| format!("{module}.weight"), |linear| linear.weight.clone());
        let Some(info) = self.services.tensor_info("model", &weight)? else {
            return refuse(ErrorKind::Other, format!("the model has no tensor `{weight}`"));
        };
        if info.shape.as_slice() != codes.shape {
            return refuse(
                ErrorKind::Other,
                format!("their shape is {:?}, that of `{weight}` {:?}", codes.shape, info.shape),
            );
        }
        if let Some(index) = codes.scales.iter().position(|scale| !scale.is_finite()) {
            return refuse(ErrorKind::Numeric, format!("scale {index} is {}", codes.scales[index]));
        }
        if let Some(scale) = codes.global_scale.filter(|scale| !scale.is_finite()) {
            return refuse(ErrorKind::Numeric, format!("the global scale is {scale}"));
        }
        check_against_grid(&grid, codes).or_else(|what| refuse(ErrorKind::Other, what))
    }

    fn check_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        if let Some(info) = self.services.tensor_info("model", name)?
            && info.shape.as_slice() != tensor.shape()
        {
            let message = format!("tensor `{name}`: its shape is {:?}, the model's {:?}", tensor.shape(), info.shape);
            return Err(self.refuse(ErrorKind::Other, message));
        }
        let floats = matches!(tensor.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if floats {
            let values = tensor.to_f32()?;
            if let Some(index) = values.iter().position(|value| !value.is_finite()) {
                let message = format!("tensor `{name}`: value {index} of {} is {}", values.len(), values[index]);
                return Err(self.refuse(ErrorKind::Numeric, message));
            }
        }
        Ok(())
    }
}

/// Whether codes are what their grid can hold.
fn check_against_grid(grid: &Grid, codes: &CodesView<'_>) -> Result<(), String> {
    let [rows, columns] = codes.shape;
    let expected = grid.parameters_shape(rows, columns).map_err(|error| error.to_string())?;
    if expected != codes.scale_shape {
        return Err(format!("the shape of their scales is {:?}, the grid wants {expected:?}", codes.scale_shape));
    }
    let Some((low, high)) = grid.code_range() else { return Ok(()) };
    let symmetric = grid.args().symmetric;
    if symmetric == codes.zero_points.is_some() {
        return Err(format!("zero-points: the grid {}", if symmetric { "has none" } else { "wants them" }));
    }
    match codes.codes.iter().position(|code| !(low..=high).contains(code)) {
        Some(index) => Err(format!("code {index} is {}, outside {low}..={high}", codes.codes[index])),
        None => Ok(()),
    }
}

impl HostServices for Gate<'_> {
    fn put_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        self.check_tensor(name, tensor)?;
        self.services.put_tensor(name, tensor)
    }

    fn put_codes(&self, module: &str, codes: &CodesView<'_>) -> Result<(), Error> {
        self.check_codes(module, codes)?;
        self.services.put_codes(module, codes)?;
        self.coded.lock().unwrap_or_else(PoisonError::into_inner).insert(module.to_owned());
        Ok(())
    }

    fn patch_config(&self, patch: &Value) -> Result<(), Error> {
        if !patch.is_object() {
            return Err(self.refuse(ErrorKind::Other, "a patch to the configuration must be an object".to_owned()));
        }
        self.services.patch_config(patch)
    }

    fn config(&self, input: &str) -> Result<Value, Error> {
        self.services.config(input)
    }

    fn tensor_names(&self, input: &str) -> Result<Vec<String>, Error> {
        self.services.tensor_names(input)
    }

    fn tensor_info(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, Error> {
        self.services.tensor_info(input, name)
    }

    fn tensor(&self, input: &str, name: &str) -> Result<Tensor<'_>, Error> {
        self.services.tensor(input, name)
    }

    fn statistics(&self, site: &str, kind: &str) -> Result<Option<Tensor<'_>>, Error> {
        self.services.statistics(site, kind)
    }

    fn next_batch(&self, stream: &str) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        self.services.next_batch(stream)
    }

    fn rewind(&self, stream: &str) -> Result<(), Error> {
        self.services.rewind(stream)
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.services.metric(step, name, value);
    }

    fn progress(&self, done: u64, total: u64) {
        self.services.progress(done, total);
    }

    fn log(&self, level: Level, message: &str) {
        self.services.log(level, message);
    }

    fn cancelled(&self) -> bool {
        self.services.cancelled()
    }

    fn seed(&self) -> u64 {
        self.services.seed()
    }

    fn threads(&self) -> usize {
        self.services.threads()
    }

    fn scratch(&self) -> Result<PathBuf, Error> {
        self.services.scratch()
    }

    fn call(
        &self,
        method: &str,
        request: &Value,
        tensors: &[NamedTensor<'_>],
    ) -> Result<(Value, Vec<NamedTensor<'_>>), Error> {
        self.services.call(method, request, tensors)
    }
}
