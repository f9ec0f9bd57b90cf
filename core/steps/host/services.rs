//! The host object: what a plugin can ask during one call, and what it puts.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::{Value, json};
use workbench_api::{
    abi::{Dtype as AbiDtype, Level, NamedTensor, Tensor, TensorInfo},
    error::{Error as ApiError, ErrorKind},
    job::Statistic,
};
use workbench_model::{Checkpoint, WeightSource, arch::block_of, checkpoint::Dtype, statistics::SiteStatistics};
use workbench_quant::{Grid, QuantParams, QuantizedWeight};

use super::{
    super::artifact::{Put, merge},
    curve::Recorder,
    streams::BatchStream,
};
use crate::{
    exec::NodeReporter,
    plugin::{CodesView, HostServices},
    progress::Progress as _,
};

/// A model that a plugin can read.
#[derive(Clone, Copy)]
pub(in crate::steps) enum Model<'a> {
    Weights(&'a Checkpoint),
    /// A config.json without weights.
    Blank(&'a Value),
}

/// What a plugin can read during one call.
#[derive(Default)]
pub(in crate::steps) struct Inputs<'a> {
    /// By the name that plugins ask for: `model`, `teacher`.
    pub models: BTreeMap<&'static str, Model<'a>>,
    /// By site. Empty: the node has no calibration data.
    pub statistics: BTreeMap<String, &'a SiteStatistics>,
    /// By the name that plugins ask for.
    pub streams: BTreeMap<&'static str, BatchStream<'a>>,
    /// What answers calls, by method.
    pub methods: BTreeMap<&'static str, &'a dyn Method>,
}

/// A service that the interface has no method for.
pub(in crate::steps) trait Method: Send + Sync {
    /// Answers a request.
    fn answer(&self, request: &Value) -> Result<Value, ApiError>;
}

impl<'a> Inputs<'a> {
    /// The model that the job is about, and nothing else.
    pub(in crate::steps) fn of(model: Model<'a>) -> Self {
        Self { models: BTreeMap::from([("model", model)]), ..Self::default() }
    }
}

/// What stays the same from call to call.
pub(super) struct Setting<'a> {
    pub scratch: PathBuf,
    pub curve: Recorder<'a>,
    pub seed: u64,
    pub threads: usize,
    pub reporter: &'a NodeReporter,
    /// Whether the plugin hears that it should stop. Between two blocks of a quantization the host itself stops: what a plugin
    /// cut short there would be lost.
    pub stoppable: bool,
    /// What the plugin's progress counts.
    pub unit: &'static str,
}

/// The services of one call.
pub(super) struct Services<'a> {
    setting: &'a Setting<'a>,
    inputs: Inputs<'a>,
    /// The part of the model that the call is about; several calls of one node count their steps each from the first.
    part: Option<&'a str>,
    put: Mutex<Put>,
    /// By model, the block of the tensor that was asked for last.
    blocks: Mutex<BTreeMap<String, Option<usize>>>,
}

impl<'a> Services<'a> {
    pub(super) fn new(setting: &'a Setting<'a>, inputs: Inputs<'a>, part: Option<&'a str>) -> Self {
        let put = Put::into_folder(setting.scratch.clone());
        Self { setting, inputs, part, put: Mutex::new(put), blocks: Mutex::default() }
    }

    /// What the plugin put.
    pub(super) fn into_put(self) -> Put {
        self.put.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives back the pages of the block before, where a plugin goes on to another one. What it still reads of them comes in again.
    fn passed(&self, input: &str, model: &Checkpoint, name: &str) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, block) = (blocks.get(input).copied().flatten(), block_of(name));
        if let Some(before) = last.filter(|_| last != block) {
            model.drop_block_pages(before);
        }
        blocks.insert(input.to_owned(), block);
    }

    /// The codes of a linear of the model that the job is about, as `workbench_api::sdk::Host::codes` reads them.
    fn codes(&self, module: &str) -> Result<(Value, Vec<NamedTensor<'_>>), ApiError> {
        let none = || ApiError::input(format!("the weight of `{module}` is no codes"));
        let Model::Weights(model) = self.model("model")? else { return Err(none()) };
        self.passed("model", model, module);
        let weight = model.quantized_linear(module).map_err(model_error)?.ok_or_else(none)?;
        let QuantizedWeight { shape, codes, parameters, .. } = weight;
        let named = |name: &str, tensor: Result<Tensor<'static>, ApiError>| -> Result<NamedTensor<'static>, ApiError> {
            Ok(NamedTensor { name: name.into(), tensor: tensor? })
        };
        let mut tensors = vec![
            named("codes", Tensor::from_vec(&shape, codes))?,
            named("scales", Tensor::from_vec(&parameters.shape, parameters.scales))?,
        ];
        if let Some(points) = parameters.zero_points {
            tensors.push(named("zero_points", Tensor::from_vec(&parameters.shape, points))?);
        }
        Ok((json!({ "global_scale": parameters.global_scale }), tensors))
    }

    fn put(&self) -> MutexGuard<'_, Put> {
        self.put.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, name: &str) -> Result<&BatchStream<'a>, ApiError> {
        self.inputs.streams.get(name).ok_or_else(|| ApiError::input(format!("this node has no stream `{name}`")))
    }

    fn model(&self, input: &str) -> Result<Model<'a>, ApiError> {
        self.inputs.models.get(input).copied().ok_or_else(|| {
            let known: Vec<&str> = self.inputs.models.keys().copied().collect();
            ApiError::input(format!("this node has no model `{input}`"))
                .with_hint(format!("it has {}", known.join(", ")))
        })
    }
}

fn abi_dtype(dtype: Dtype) -> Option<AbiDtype> {
    match dtype {
        Dtype::F32 => Some(AbiDtype::F32),
        Dtype::F16 => Some(AbiDtype::F16),
        Dtype::BF16 => Some(AbiDtype::BF16),
        _ => None,
    }
}

fn model_error(error: workbench_model::ModelError) -> ApiError {
    let hint = error.hint().map(str::to_owned);
    let error = ApiError::input(error.to_string());
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

impl HostServices for Services<'_> {
    fn config(&self, input: &str) -> Result<Value, ApiError> {
        Ok(match self.model(input)? {
            Model::Weights(model) => model.config_json().clone(),
            Model::Blank(config) => config.clone(),
        })
    }

    fn tensor_names(&self, input: &str) -> Result<Vec<String>, ApiError> {
        Ok(match self.model(input)? {
            Model::Weights(model) => model.names(),
            Model::Blank(_) => Vec::new(),
        })
    }

    fn tensor_info(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, ApiError> {
        let Model::Weights(model) = self.model(input)? else { return Ok(None) };
        let Some(shape) = model.shape(name) else { return Ok(None) };
        // What is not stored dense is handed out as its values.
        let dtype = model.dtype(name).and_then(abi_dtype).unwrap_or(AbiDtype::F32);
        Ok(Some(TensorInfo { dtype, shape: shape.into_iter().collect() }))
    }

    fn tensor(&self, input: &str, name: &str) -> Result<Tensor<'_>, ApiError> {
        let none = || ApiError::input(format!("the model has no tensor `{name}`"));
        let Model::Weights(model) = self.model(input)? else { return Err(none()) };
        self.passed(input, model, name);
        if let Some(dtype) = model.dtype(name).and_then(abi_dtype) {
            let raw = model.raw(name).map_err(model_error)?;
            return match raw.bytes {
                Cow::Borrowed(bytes) => Tensor::from_bytes(dtype, raw.shape, bytes),
                Cow::Owned(bytes) => Tensor::from_bytes(dtype, raw.shape, &bytes).map(Tensor::into_owned),
            };
        }
        let shape = model.shape(name).ok_or_else(none)?;
        Tensor::from_vec(&shape, model.values(name).map_err(model_error)?)
    }

    fn statistics(&self, site: &str, kind: &str) -> Result<Option<Tensor<'_>>, ApiError> {
        if self.inputs.statistics.is_empty() {
            return Ok(None);
        }
        let Some(found) = self.inputs.statistics.get(site) else {
            let message =
                format!("there are no statistics of `{site}`: they were not asked for, or no token reached it");
            return Err(ApiError::input(message));
        };
        let n = found.features();
        let is = |wanted: Statistic| kind == wanted.name();
        let vector = match kind {
            _ if is(Statistic::Absmax) => found.absmax(),
            _ if is(Statistic::Min) => found.min().map(<[f32]>::to_vec),
            _ if is(Statistic::Max) => found.max().map(<[f32]>::to_vec),
            _ if is(Statistic::MeanAbs) => found.mean_abs(),
            _ if is(Statistic::Count) => return Tensor::from_vec(&[1], vec![found.count() as f64]).map(Some),
            _ if is(Statistic::Gram) => None,
            _ => return Err(ApiError::unsupported(format!("this workbench collects no statistic `{kind}`"))),
        };
        match (vector, found.gram()) {
            (Some(values), _) => Tensor::from_vec(&[n], values).map(Some),
            (None, Some(gram)) if is(Statistic::Gram) => Tensor::from_slice(&[n, n], gram).map(Some),
            _ => Err(ApiError::input(format!("the statistic `{kind}` of `{site}` was not asked for"))),
        }
    }

    fn next_batch(&self, stream: &str) -> Result<Option<Vec<NamedTensor<'_>>>, ApiError> {
        self.stream(stream)?.next()
    }

    fn rewind(&self, stream: &str) -> Result<(), ApiError> {
        self.stream(stream)?.rewind();
        Ok(())
    }

    fn put_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), ApiError> {
        let dtype = match tensor.dtype() {
            AbiDtype::F32 => Dtype::F32,
            AbiDtype::F16 => Dtype::F16,
            AbiDtype::BF16 => Dtype::BF16,
            other => return Err(ApiError::input(format!("`{name}` cannot be stored as {other:?}"))),
        };
        let put = self.put().dense(name, dtype, tensor.shape(), tensor.bytes());
        put.map_err(|e| ApiError::new(ErrorKind::Host, e.to_string()))
    }

    fn put_codes(&self, module: &str, view: &CodesView<'_>) -> Result<(), ApiError> {
        if let Some(extra) = view.extra.first() {
            return Err(ApiError::unsupported(format!(
                "this workbench stores no `{}` beside the codes of `{module}`",
                extra.name
            )));
        }
        let grid: Grid = serde_json::from_value(view.grid.clone())
            .map_err(|e| ApiError::input(format!("the grid of `{module}` is not understood: {e}")))?;
        let parameters = QuantParams {
            scales: view.scales.to_vec(),
            zero_points: view.zero_points.map(<[i32]>::to_vec),
            global_scale: view.global_scale,
            shape: view.scale_shape,
        };
        let weight = QuantizedWeight { grid, shape: view.shape, codes: view.codes.to_vec(), parameters };
        self.put().weights.insert(module.to_owned(), weight);
        Ok(())
    }

    fn patch_config(&self, patch: &Value) -> Result<(), ApiError> {
        merge(&mut self.put().config_patch, patch);
        Ok(())
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.put().metrics.insert(name.to_owned(), (step, value));
        match self.part {
            Some(part) => self.setting.curve.add(step, &format!("{part}/{name}"), value),
            None => self.setting.curve.add(step, name, value),
        }
        self.setting.reporter.metric(step, name, value);
    }

    fn progress(&self, done: u64, total: u64) {
        self.setting.reporter.progress(done, total, self.setting.unit);
    }

    fn log(&self, level: Level, message: &str) {
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        self.setting.reporter.log(word, message);
        match level {
            Level::Error => tracing::error!(target: "plugin", "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", "{message}"),
            Level::Info => tracing::info!(target: "plugin", "{message}"),
            Level::Debug => tracing::debug!(target: "plugin", "{message}"),
        }
    }

    fn cancelled(&self) -> bool {
        self.setting.stoppable && self.setting.reporter.cancelled()
    }

    fn seed(&self) -> u64 {
        self.setting.seed
    }

    fn threads(&self) -> usize {
        self.setting.threads
    }

    fn call(
        &self,
        method: &str,
        request: &Value,
        _tensors: &[NamedTensor<'_>],
    ) -> Result<(Value, Vec<NamedTensor<'_>>), ApiError> {
        match (method, self.inputs.methods.get(method)) {
            (_, Some(found)) => Ok((found.answer(request)?, Vec::new())),
            ("codes", None) => self.codes(request["module"].as_str().unwrap_or_default()),
            _ => Err(ApiError::unsupported(format!("this workbench has no service `{method}`"))
                .with_hint("a newer workbench may have it")),
        }
    }

    fn scratch(&self) -> Result<PathBuf, ApiError> {
        Ok(self.setting.scratch.clone())
    }
}
