//! The host as a plugin calls it.

use std::path::PathBuf;

use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};
use serde::Serialize;
use serde_json::{Value, json};

use crate::abi::{Codes, Element, HostRef, Level, NamedTensor, PluginError, Tensor, TensorInfo};
use crate::error::{Context, Error};
use crate::job::{Facts, Linear, Statistic};
use crate::rollouts::{Completions, Judgement, REWARDS};

/// The model that a job is about, where no other input is named.
const MODEL: &str = "model";

/// Everything a plugin can ask of the process it runs in. May be used from several threads.
///
/// The host takes a plugin that never calls it for one that hangs: long computations call [`Host::progress`] or
/// [`Host::check_cancelled`] now and then.
pub struct Host<'h> {
    host: HostRef<'h>,
}

/// A quantized linear.
#[derive(Default)]
pub struct QuantizedLinear {
    /// `[out_features, in_features]` row by row: integer codes, or bit patterns of FP8 and FP4.
    pub codes: Vec<i8>,
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// `[rows, groups]` row by row, already rounded to the dtype in which they will be stored.
    pub scales: Vec<f32>,
    /// `[rows, groups]`.
    pub scale_shape: [usize; 2],
    /// As `scales`; absent where the grid is symmetric.
    pub zero_points: Option<Vec<i32>>,
    /// The second scale of NVFP4.
    pub global_scale: Option<f32>,
    /// The grid that the codes are on: JSON of workbench-quant's `Grid`.
    pub grid: Value,
    /// Whatever else a checkpoint stores with a linear (`g_idx` of a dynamic activation order).
    pub extra: Vec<(String, Tensor<'static>)>,
    /// Loss, damping, what had to be repaired.
    pub facts: Facts,
}

/// One batch: tensors by name.
pub struct Batch<'a>(RVec<NamedTensor<'a>>);

impl<'a> Batch<'a> {
    /// A tensor of the batch.
    ///
    /// # Errors
    /// The batch has none of that name.
    pub fn get(&self, name: &str) -> Result<&Tensor<'a>, Error> {
        self.0.iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.tensor).ok_or_else(|| {
            let names: Vec<&str> = self.names().collect();
            Error::input(format!("the batch has no `{name}`; it has {}", names.join(", ")))
        })
    }

    /// Names of the batch's tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|tensor| tensor.name.as_str())
    }
}

/// The service that hands out codes, see [`Host::codes`]: given `module`, it answers with `global_scale` and with the tensors `codes`,
/// `scales` and, where the grid is asymmetric, `zero_points`.
pub(crate) const CODES: &str = "codes";

/// A matrix of a batch: its shape and its values.
fn matrix<T: Element>(batch: &Batch<'_>, name: &str) -> Result<([usize; 2], Vec<T>), Error> {
    let tensor = batch.get(name)?;
    let (rows, columns) = tensor.matrix_shape()?;
    Ok(([rows, columns], tensor.values::<T>()?.to_vec()))
}

fn result<T>(result: RResult<T, PluginError>) -> Result<T, Error> {
    result.into_result().map_err(Error::from_abi)
}

impl<'h> Host<'h> {
    pub(crate) fn new(host: HostRef<'h>) -> Self {
        Self { host }
    }

    /// The model's config.json.
    ///
    /// # Errors
    /// The host cannot read it.
    pub fn config(&self) -> Result<Value, Error> {
        self.config_of(MODEL)
    }

    /// The config.json of another input, for example `teacher`.
    ///
    /// # Errors
    /// There is no such input.
    pub fn config_of(&self, input: &str) -> Result<Value, Error> {
        let text = result(self.host.config(RStr::from_str(input)))?;
        serde_json::from_str(&text).context(|| format!("reading the configuration of `{input}`"))
    }

    /// Names of the model's tensors, sorted.
    ///
    /// # Errors
    /// The host cannot read the model.
    pub fn tensor_names(&self) -> Result<Vec<String>, Error> {
        self.tensor_names_of(MODEL)
    }

    /// Names of another input's tensors.
    ///
    /// # Errors
    /// There is no such input.
    pub fn tensor_names_of(&self, input: &str) -> Result<Vec<String>, Error> {
        Ok(result(self.host.tensor_names(RStr::from_str(input)))?.into_iter().map(RString::into_string).collect())
    }

    /// Dtype and shape of one of the model's tensors; `None` if there is none of that name.
    ///
    /// # Errors
    /// The host cannot read the model.
    pub fn tensor_info(&self, name: &str) -> Result<Option<TensorInfo>, Error> {
        self.tensor_info_of(MODEL, name)
    }

    /// Dtype and shape of a tensor of another input.
    ///
    /// # Errors
    /// There is no such input.
    pub fn tensor_info_of(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, Error> {
        Ok(result(self.host.tensor_info(RStr::from_str(input), RStr::from_str(name)))?.into_option())
    }

    /// One of the model's tensors, as stored; [`Tensor::to_f32`] widens it.
    ///
    /// # Errors
    /// There is no such tensor, or it cannot be read.
    pub fn tensor(&self, name: &str) -> Result<Tensor<'_>, Error> {
        self.tensor_of(MODEL, name)
    }

    /// A tensor of another input.
    ///
    /// # Errors
    /// There is no such tensor, or it cannot be read.
    pub fn tensor_of(&self, input: &str, name: &str) -> Result<Tensor<'_>, Error> {
        result(self.host.tensor(RStr::from_str(input), RStr::from_str(name)))?
            .checked()
            .context(|| format!("reading the tensor `{name}`"))
    }

    /// A calibration statistic of a site; `None` where the node has no calibration data. The plugin must have asked for
    /// it in its needs.
    ///
    /// # Errors
    /// The statistic was not asked for.
    pub fn statistics(&self, site: &str, kind: Statistic) -> Result<Option<Tensor<'_>>, Error> {
        result(self.host.statistics(RStr::from_str(site), RStr::from_str(kind.name())))?
            .into_option()
            .map(Tensor::checked)
            .transpose()
    }

    /// A calibration statistic that the method cannot do without.
    ///
    /// # Errors
    /// There is no calibration data.
    pub fn required_statistics(&self, site: &str, kind: Statistic) -> Result<Tensor<'_>, Error> {
        self.statistics(site, kind)?.ok_or_else(|| {
            Error::input(format!("no calibration statistic `{}` of `{site}`", kind.name()))
                .with_hint("give the node a calibration dataset: `calibration: dataset(…)`")
        })
    }

    /// The next batch of a stream; `None` at its end.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn next_batch(&self, stream: &str) -> Result<Option<Batch<'_>>, Error> {
        let Some(batch) = result(self.host.next_batch(RStr::from_str(stream)))?.into_option() else {
            return Ok(None);
        };
        let tensors = batch
            .into_iter()
            .map(|named| Ok(NamedTensor { tensor: named.tensor.checked()?, name: named.name }))
            .collect::<Result<_, Error>>()?;
        Ok(Some(Batch(tensors)))
    }

    /// Starts a stream again.
    ///
    /// # Errors
    /// There is no such stream.
    pub fn rewind(&self, stream: &str) -> Result<(), Error> {
        result(self.host.rewind(RStr::from_str(stream)))
    }

    /// Puts a tensor of the resulting model.
    ///
    /// # Errors
    /// The values are not finite, or the host has no place for the tensor.
    pub fn put_tensor(&self, name: &str, tensor: Tensor<'_>) -> Result<(), Error> {
        result(self.host.put_tensor(RStr::from_str(name), tensor))
    }

    /// Puts a quantized linear. Its facts are not sent: they belong into the job's report.
    ///
    /// # Errors
    /// Shapes or values do not fit the linear and its grid.
    pub fn put_codes(&self, module: &str, linear: &QuantizedLinear) -> Result<(), Error> {
        let codes = Codes {
            codes: Tensor::from_slice(&linear.shape, &linear.codes).context(|| format!("codes of `{module}`"))?,
            scales: Tensor::from_slice(&linear.scale_shape, &linear.scales)
                .context(|| format!("scales of `{module}`"))?,
            zero_points: match &linear.zero_points {
                Some(points) => ROption::RSome(
                    Tensor::from_slice(&linear.scale_shape, points).context(|| format!("zero-points of `{module}`"))?,
                ),
                None => ROption::RNone,
            },
            global_scale: linear.global_scale.into(),
            grid: linear.grid.to_string().into(),
            extra: linear
                .extra
                .iter()
                .map(|(name, tensor)| {
                    let tensor = Tensor::from_bytes(tensor.dtype(), tensor.shape(), tensor.bytes())?;
                    Ok(NamedTensor { name: name.as_str().into(), tensor })
                })
                .collect::<Result<_, Error>>()?,
        };
        result(self.host.put_codes(RStr::from_str(module), codes))
    }

    /// The codes of a linear of the model that the job is about, on the grid that the job has for it: what
    /// [`put_codes`](Self::put_codes) takes, before anything was learned.
    ///
    /// # Errors
    /// The linear's weight is no codes, or cannot be read; the host is an older one.
    pub fn codes(&self, linear: &Linear) -> Result<QuantizedLinear, Error> {
        let module = &linear.module;
        let (value, tensors) = self.call(CODES, &json!({ "module": module }), Vec::new())?;
        let read = || -> Result<QuantizedLinear, Error> {
            let ([rows, columns], codes) = matrix::<i8>(&tensors, "codes")?;
            let (scale_shape, scales) = matrix::<f32>(&tensors, "scales")?;
            let has_points = tensors.names().any(|name| name == "zero_points");
            let zero_points = has_points.then(|| matrix::<i32>(&tensors, "zero_points")).transpose()?;
            if let Some((shape, _)) = zero_points.as_ref().filter(|(shape, _)| *shape != scale_shape) {
                return Err(Error::input(format!("zero-points of shape {shape:?} beside scales of {scale_shape:?}")));
            }
            Ok(QuantizedLinear {
                codes,
                shape: [rows, columns],
                scales,
                scale_shape,
                zero_points: zero_points.map(|(_, points)| points),
                global_scale: serde_json::from_value(value["global_scale"].clone())?,
                grid: linear.grid.clone(),
                ..QuantizedLinear::default()
            })
        };
        read().context(|| format!("reading the codes of `{module}`"))
    }

    /// Merges JSON into the resulting model's config.json; `null` removes a key.
    ///
    /// # Errors
    /// The result of this node has no configuration of its own.
    pub fn patch_config(&self, patch: &impl Serialize) -> Result<(), Error> {
        result(self.host.patch_config(RStr::from_str(&serde_json::to_string(patch)?)))
    }

    /// One value of a curve.
    pub fn metric(&self, step: u64, name: &str, value: f64) {
        self.host.metric(step, RStr::from_str(name), value);
    }

    /// How far the job is.
    pub fn progress(&self, done: u64, total: u64) {
        self.host.progress(done, total);
    }

    /// A line for the node's log.
    pub fn log(&self, level: Level, message: &str) {
        self.host.log(level, RStr::from_str(message));
    }

    /// Whether the plugin should stop.
    pub fn cancelled(&self) -> bool {
        self.host.cancelled()
    }

    /// Returns to the host if it asked the plugin to stop.
    ///
    /// # Errors
    /// The host asked to stop.
    pub fn check_cancelled(&self) -> Result<(), Error> {
        if self.cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// The seed of everything that draws numbers.
    pub fn seed(&self) -> u64 {
        self.host.seed()
    }

    /// How many threads the node may use. A thread pool of the plugin's own must hold no more.
    pub fn threads(&self) -> usize {
        self.host.threads()
    }

    /// A folder for checkpoints; it survives a kill of the node, and a later attempt finds it again.
    ///
    /// # Errors
    /// The node has none.
    pub fn scratch(&self) -> Result<PathBuf, Error> {
        Ok(PathBuf::from(result(self.host.scratch())?.as_str()))
    }

    /// What completions of a prompt are worth, each in its turn.
    ///
    /// # Errors
    /// The node has no prompts, or they cannot be judged.
    pub fn rewards(&self, completions: &Completions) -> Result<Vec<Judgement>, Error> {
        let (answer, _) = self.call(REWARDS, &serde_json::to_value(completions)?, Vec::new())?;
        serde_json::from_value(answer).context(|| "reading what completions are worth".to_owned())
    }

    /// A service that the interface has no method for.
    ///
    /// # Errors
    /// The host knows no such service, or refuses the request.
    pub fn call(
        &self,
        method: &str,
        request: &Value,
        tensors: Vec<NamedTensor<'_>>,
    ) -> Result<(Value, Batch<'_>), Error> {
        let request = request.to_string();
        let reply = result(self.host.call(RStr::from_str(method), RStr::from_str(&request), tensors.into()))?;
        let value = serde_json::from_str(&reply.value).context(|| format!("reading the answer to `{method}`"))?;
        Ok((value, Batch(reply.tensors)))
    }
}
