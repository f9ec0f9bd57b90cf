//! What a node offers to the plugin that it runs.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::Value;
use workbench_api::{
    abi::{Dtype as AbiDtype, Level, NamedTensor, Tensor, TensorInfo},
    error::{Error as ApiError, ErrorKind as ApiErrorKind},
    job::Statistic,
};
use workbench_model::{Checkpoint, WeightSource, checkpoint::Dtype, statistics::SiteStatistics};
use workbench_quant::{Grid, Parameters};

use super::streams::BatchStream;
use crate::{
    error::{Error, Result},
    exec::{Job, NodeEvent, NodeReporter, interrupted},
    graph::NodeKind,
    plugin::{CodesView, Heartbeat, HostServices, Loaded, Running, Scope},
    progress::Progress as _,
};

/// Codes of a linear, as a plugin put them.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    pub codes: Vec<i8>,
    pub parameters: Parameters,
    pub grid: Grid,
}

/// A dense tensor: dtype, shape, bytes.
pub(super) type Dense = (Dtype, Vec<usize>, Vec<u8>);

/// What a plugin has put so far.
#[derive(Debug, Default)]
pub(super) struct Output {
    pub tensors: BTreeMap<String, Dense>,
    pub codes: BTreeMap<String, Codes>,
    pub config_patch: Value,
    /// The last value of each metric.
    pub metrics: BTreeMap<String, (u64, f64)>,
}

/// The services of one node.
pub(super) struct Services<'a> {
    pub models: BTreeMap<String, &'a Checkpoint>,
    /// The config.json of a model without weights.
    pub blank_config: Option<Value>,
    pub statistics: BTreeMap<String, SiteStatistics>,
    /// By the name that plugins ask for.
    pub streams: BTreeMap<&'static str, BatchStream>,
    pub scratch: PathBuf,
    pub seed: u64,
    pub threads: usize,
    pub reporter: &'a NodeReporter,
    /// Whether the plugin hears that it should stop. Between two blocks of a quantization the host itself stops: what a plugin
    /// cut short there would be lost.
    stoppable: bool,
    unit: &'static str,
    output: Mutex<Output>,
}

impl<'a> Services<'a> {
    /// Services for a plugin with these parameters.
    pub(super) fn new(
        job: &Job,
        parameters: &Value,
        scratch: &Path,
        reporter: &'a NodeReporter,
        unit: &'static str,
    ) -> Self {
        Self {
            models: BTreeMap::new(),
            blank_config: None,
            statistics: BTreeMap::new(),
            streams: BTreeMap::new(),
            scratch: scratch.to_owned(),
            seed: parameters["seed"].as_u64().unwrap_or(0),
            threads: job.threads,
            reporter,
            stoppable: job.kind != NodeKind::Quantize,
            unit,
            output: Mutex::default(),
        }
    }

    pub(super) fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stream(&self, name: &str) -> Result<&BatchStream, ApiError> {
        self.streams.get(name).ok_or_else(|| ApiError::input(format!("this node has no stream `{name}`")))
    }

    fn model(&self, input: &str) -> Result<&'a Checkpoint, ApiError> {
        self.models.get(input).copied().ok_or_else(|| {
            let known: Vec<&str> = self.models.keys().map(String::as_str).collect();
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
        match &self.blank_config {
            Some(config) if input == "model" => Ok(config.clone()),
            _ => Ok(self.model(input)?.config_json().clone()),
        }
    }

    fn tensor_names(&self, input: &str) -> Result<Vec<String>, ApiError> {
        match &self.blank_config {
            Some(_) if input == "model" => Ok(Vec::new()),
            _ => Ok(self.model(input)?.names()),
        }
    }

    fn tensor_info(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, ApiError> {
        if self.blank_config.is_some() && input == "model" {
            return Ok(None);
        }
        let model = self.model(input)?;
        let Some(shape) = model.shape(name) else { return Ok(None) };
        // What is not stored dense is handed out as its values.
        let dtype = model.dtype(name).and_then(abi_dtype).unwrap_or(AbiDtype::F32);
        Ok(Some(TensorInfo { dtype, shape: shape.into_iter().collect() }))
    }

    fn tensor(&self, input: &str, name: &str) -> Result<Tensor<'_>, ApiError> {
        let model = self.model(input)?;
        if let Some(dtype) = model.dtype(name).and_then(abi_dtype) {
            let raw = model.raw(name).map_err(model_error)?;
            return match raw.bytes {
                Cow::Borrowed(bytes) => Tensor::from_bytes(dtype, raw.shape, bytes),
                Cow::Owned(bytes) => Tensor::from_bytes(dtype, raw.shape, &bytes).map(Tensor::into_owned),
            };
        }
        let shape = model.shape(name).ok_or_else(|| ApiError::input(format!("the model has no tensor `{name}`")))?;
        Tensor::from_vec(&shape, model.values(name).map_err(model_error)?)
    }

    fn statistics(&self, site: &str, kind: &str) -> Result<Option<Tensor<'_>>, ApiError> {
        if self.statistics.is_empty() {
            return Ok(None);
        }
        let Some(found) = self.statistics.get(site) else {
            return Err(ApiError::input(format!("statistics of `{site}` were not asked for")));
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
        self.output().tensors.insert(name.to_owned(), (dtype, tensor.shape().to_vec(), tensor.bytes().to_vec()));
        Ok(())
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
        let parameters = Parameters {
            scales: view.scales.to_vec(),
            zero_points: view.zero_points.map(<[i32]>::to_vec),
            global_scale: view.global_scale,
            shape: view.scale_shape,
        };
        let codes = Codes { codes: view.codes.to_vec(), parameters, grid };
        self.output().codes.insert(module.to_owned(), codes);
        Ok(())
    }

    fn patch_config(&self, patch: &Value) -> Result<(), ApiError> {
        merge(&mut self.output().config_patch, patch);
        Ok(())
    }

    fn metric(&self, step: u64, name: &str, value: f64) {
        self.output().metrics.insert(name.to_owned(), (step, value));
        self.reporter.metric(step, name, value);
    }

    fn progress(&self, done: u64, total: u64) {
        self.reporter.progress(done, total, self.unit);
    }

    fn log(&self, level: Level, message: &str) {
        let word = match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        self.reporter.log(word, message);
        match level {
            Level::Error => tracing::error!(target: "plugin", "{message}"),
            Level::Warn => tracing::warn!(target: "plugin", "{message}"),
            Level::Info => tracing::info!(target: "plugin", "{message}"),
            Level::Debug => tracing::debug!(target: "plugin", "{message}"),
        }
    }

    fn cancelled(&self) -> bool {
        self.stoppable && self.reporter.cancelled()
    }

    fn seed(&self) -> u64 {
        self.seed
    }

    fn threads(&self) -> usize {
        self.threads
    }

    fn scratch(&self) -> Result<PathBuf, ApiError> {
        Ok(self.scratch.clone())
    }
}

/// JSON merge patch, RFC 7396, except that a `null` stays in the patch so that it can remove a key later.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// A config.json with a patch applied: what the patch sets to `null` is gone.
pub(super) fn patched(config: &Value, patch: &Value) -> Value {
    let (Value::Object(config), Value::Object(patch)) = (config, patch) else {
        return if patch.is_null() { config.clone() } else { patch.clone() };
    };
    let mut result = config.clone();
    for (key, change) in patch {
        if change.is_null() {
            result.shift_remove(key);
        } else {
            let old = result.get(key).cloned().unwrap_or_default();
            result.insert(key.clone(), patched(&old, change));
        }
    }
    Value::Object(result)
}

/// The job's plugin with its parameters, under watch while it works.
pub(super) struct Plugin<'a> {
    running: Running,
    scope: Scope,
    job: &'a Job,
    reporter: &'a NodeReporter,
}

impl<'a> Plugin<'a> {
    pub(super) fn open(job: &'a Job, parameters: &Value, reporter: &'a NodeReporter) -> Result<Self> {
        let path = job.plugin.as_ref().ok_or_else(|| Error::internal("the job names no plugin"))?;
        reporter.send(&NodeEvent::Plugin { name: job.method.clone(), timeout: Some(60) });
        let loaded = Loaded::open(path).map_err(Error::from)?;
        let running = loaded.create(parameters).map_err(plugin_error)?;
        reporter.send(&NodeEvent::PluginEnded);
        Ok(Self { running, scope: loaded.descriptor().scope, job, reporter })
    }

    /// How much of the model one job of it spans.
    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// What a piece of work wants to have ready.
    pub(super) fn needs(&self, work: &workbench_api::job::Job) -> Result<workbench_api::job::Needs> {
        self.running.needs(work).map_err(plugin_error)
    }

    /// Lets the plugin do a piece of work, and returns the facts that it reports.
    pub(super) fn run(&self, work: &workbench_api::job::Job, services: &Services<'_>) -> Result<Value> {
        let heartbeat = Heartbeat::default();
        // It may have something to keep before it returns; what it has finished nonetheless is carried through.
        let _held = self.reporter.hold()?;
        self.reporter.send(&NodeEvent::Plugin { name: self.job.method.clone(), timeout: self.job.plugin_timeout });
        let report = watched(&heartbeat, self.reporter, || self.running.run(work, services, &heartbeat));
        self.reporter.send(&NodeEvent::PluginEnded);
        report.map(|r| Value::Object(r.facts)).map_err(|error| match error.kind {
            ApiErrorKind::Cancelled if self.reporter.cancelled() => interrupted(),
            _ => plugin_error(error),
        })
    }
}

/// Passes the plugin's heartbeat on to the driver while `work` runs.
fn watched<T>(heartbeat: &Heartbeat, reporter: &NodeReporter, work: impl FnOnce() -> T) -> T {
    const PAUSE: Duration = Duration::from_millis(200);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                thread::park_timeout(PAUSE);
                if heartbeat.silence() < 2 * PAUSE {
                    reporter.send(&NodeEvent::Beat);
                }
            }
        });
        let result = work();
        over.store(true, Ordering::Relaxed);
        watcher.thread().unpark();
        result
    })
}

pub(super) fn plugin_error(error: ApiError) -> Error {
    let mut message = Error::refused(error.message);
    for context in error.context.into_iter() {
        message = message.context(context);
    }
    message.maybe_hint(error.hint)
}
