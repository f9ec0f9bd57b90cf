//! What stands between a plugin and the store: results that are not finite, do not fit or were not asked for stop here,
//! each with one sentence that names the tensor.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use workbench_api::abi::{Dtype, Level, NamedTensor, Tensor, TensorInfo};
use workbench_api::descriptor::Scope;
use workbench_api::error::{Error, ErrorKind};
use workbench_api::host::{CodesView, HostServices};
use workbench_api::job::{Job, Linear};
use workbench_quant::{Dynamic, Grid, GridError, QuantParams, Strategy};

/// Services behind checks.
pub(super) struct Gate<'a> {
    services: &'a dyn HostServices,
    /// What can have codes.
    linears: Vec<&'a Linear>,
    scope: Scope,
    /// Whether the job is to quantize: codes are due for every linear with a grid, on that grid. A trainer whose job has no
    /// grids may bring its own.
    quantizes: bool,
    /// Whether the plugin carries rounding rules that were compared with the host's.
    rounds: bool,
    put: Mutex<Put>,
    refusal: Mutex<Option<Error>>,
}

/// Names of what arrived.
#[derive(Default)]
struct Put {
    /// Linears with codes.
    codes: BTreeSet<String>,
    tensors: BTreeSet<String>,
}

impl<'a> Gate<'a> {
    pub(super) fn new(job: &'a Job, services: &'a dyn HostServices, rounds: bool) -> Self {
        let (linears, scope, quantizes) = match job {
            Job::Linear(linear) => (vec![linear], Scope::Linear, true),
            Job::Block(block) => (block.linears.iter().collect(), Scope::Block, true),
            Job::Transform(model) => (model.linears.iter().collect(), Scope::Transform, false),
            Job::Train(model) => (model.coded().collect(), Scope::Train, model.quantizes()),
        };
        Self { services, linears, scope, quantizes, rounds, put: Mutex::default(), refusal: Mutex::default() }
    }

    fn put(&self) -> MutexGuard<'_, Put> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
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
        let put = self.put();
        let missing = |what: String| Err(Error::new(ErrorKind::Other, what));
        if self.scope == Scope::Train && put.codes.is_empty() && put.tensors.is_empty() {
            return missing("it reported success, and put neither weights nor codes".to_owned());
        }
        let due = |linear: &&Linear| !linear.grid.is_null() && !put.codes.contains(&linear.module);
        match self.linears.iter().copied().filter(|_| self.quantizes).find(due) {
            Some(linear) => missing(format!("it put no codes of `{}`", linear.module)),
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
        if self.scope == Scope::Transform {
            return refuse(
                ErrorKind::Unsupported,
                "a transform puts tensors, and leaves rounding to others".to_owned(),
            );
        }
        let linear = self.linears.iter().copied().find(|linear| linear.module == module);
        if linear.is_none() && self.quantizes {
            return refuse(ErrorKind::Other, "the job is not about this linear".to_owned());
        }
        if linear.is_some_and(|linear| linear.grid.is_null()) && self.quantizes {
            return refuse(ErrorKind::Other, "the job leaves this linear alone: it has no grid".to_owned());
        }
        let grid = match Grid::deserialize(&codes.grid) {
            Ok(grid) => grid,
            Err(error) => return refuse(ErrorKind::Other, format!("their grid cannot be read: {error}")),
        };
        let asked = linear.filter(|_| self.quantizes);
        if asked.is_some_and(|linear| Grid::deserialize(&linear.grid).is_ok_and(|asked| asked != grid)) {
            return refuse(ErrorKind::Other, "they are on another grid than the one asked for".to_owned());
        }
        if grid.args().dynamic != Dynamic::No || grid.args().strategy == Strategy::AttnHead {
            return refuse(ErrorKind::Other, format!("their grid ({}) is one of activations", grid.args()));
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
        let weight_is_put = self.put().tensors.contains(&weight);
        if weight_is_put {
            return refuse(ErrorKind::Other, format!("`{weight}` was put as a tensor too"));
        }
        check_against_grid(&grid, codes).or_else(|error| match error {
            GridError::Value(what) => refuse(ErrorKind::Numeric, what),
            other => refuse(ErrorKind::Other, other.to_string()),
        })
    }

    fn check_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        let refuse = |kind, what: &str| Err(self.refuse(kind, format!("tensor `{name}`: {what}")));
        if self.scope == Scope::Linear {
            return refuse(ErrorKind::Unsupported, "a quantizer of linears puts codes and nothing else");
        }
        let on_grid = |linear: &&Linear| linear.weight == name && !linear.grid.is_null();
        if self.scope == Scope::Train && self.linears.iter().copied().any(|linear| on_grid(&linear)) {
            return refuse(ErrorKind::Other, "its linear has a grid, on which it is to be put as codes");
        }
        let coded = name.strip_suffix(".weight").is_some_and(|module| self.put().codes.contains(module));
        if coded {
            return refuse(ErrorKind::Other, "its linear has codes already");
        }
        if let Some(info) = self.services.tensor_info("model", name)?
            && info.shape.as_slice() != tensor.shape()
        {
            let message = format!("tensor `{name}`: its shape is {:?}, the model's {:?}", tensor.shape(), info.shape);
            return Err(self.refuse(ErrorKind::Other, message));
        }
        let floats = matches!(tensor.dtype(), Dtype::F64 | Dtype::F32 | Dtype::F16 | Dtype::BF16);
        if floats {
            let values = tensor.to_f32()?;
            let first_of = |(piece, values): (usize, &[f32])| {
                values.iter().position(|value| !value.is_finite()).map(|at| piece * PIECE + at)
            };
            if let Some(index) = values.par_chunks(PIECE).enumerate().find_map_first(first_of) {
                let message = format!("tensor `{name}`: value {index} of {} is {}", values.len(), values[index]);
                return Err(self.refuse(ErrorKind::Numeric, message));
            }
        }
        Ok(())
    }
}

/// Values that one thread looks at.
const PIECE: usize = 1 << 16;

/// Whether codes, scales and zero-points are what their grid can hold.
fn check_against_grid(grid: &Grid, codes: &CodesView<'_>) -> Result<(), GridError> {
    let parameters = QuantParams {
        scales: codes.scales.to_vec(),
        zero_points: codes.zero_points.map(<[i32]>::to_vec),
        global_scale: codes.global_scale,
        shape: codes.scale_shape,
    };
    grid.check_weight(codes.codes, codes.shape, &parameters)
}

impl HostServices for Gate<'_> {
    fn put_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        self.check_tensor(name, tensor)?;
        self.services.put_tensor(name, tensor)?;
        self.put().tensors.insert(name.to_owned());
        Ok(())
    }

    fn put_codes(&self, module: &str, codes: &CodesView<'_>) -> Result<(), Error> {
        self.check_codes(module, codes)?;
        self.services.put_codes(module, codes)?;
        self.put().codes.insert(module.to_owned());
        Ok(())
    }

    fn patch_config(&self, patch: &Value) -> Result<(), Error> {
        if self.quantizes {
            let who = if self.scope == Scope::Train { "a trainer on grids" } else { "a quantizer" };
            let message = format!("{who} writes no configuration: what it makes is the model's own, rounded");
            return Err(self.refuse(ErrorKind::Unsupported, message));
        }
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
