//! The host's half of the contract: what a node process implements, and how it calls a plugin.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};
use abi_stable::{sabi_trait::TD_Opaque, sabi_types::RRef};
use serde_json::Value;

use crate::abi::{
    Codes, HostInterface, HostInterface_TO, HostRef, Level, NamedTensor, PluginError, PluginModuleRef, PluginObject,
    Reply, Tensor, TensorInfo,
};
use crate::descriptor::Descriptor;
use crate::error::{Context, Error, ErrorKind};
pub use crate::heartbeat::Heartbeat;
use crate::job::{Job, Needs, Report};

/// A quantized linear as a plugin put it: views of the plugin's memory, checked to be of the types they claim.
pub struct CodesView<'a> {
    /// `[out_features, in_features]` row by row.
    pub codes: &'a [i8],
    /// `[out_features, in_features]`.
    pub shape: [usize; 2],
    /// `[rows, groups]` row by row.
    pub scales: &'a [f32],
    /// `[rows, groups]`.
    pub scale_shape: [usize; 2],
    /// As `scales`.
    pub zero_points: Option<&'a [i32]>,
    /// The second scale of NVFP4.
    pub global_scale: Option<f32>,
    /// JSON of workbench-quant's `Grid`.
    pub grid: Value,
    /// Whatever else a checkpoint stores with a linear.
    pub extra: &'a [NamedTensor<'a>],
}

/// What a node process offers to the plugin that it runs.
///
/// All methods take `&self`, since views that were handed out live on while later calls come, and calls may come from
/// several of the plugin's threads. What a node does not offer answers with an error that says so.
pub trait HostServices: Send + Sync {
    /// An input's config.json.
    ///
    /// # Errors
    /// There is no such input.
    fn config(&self, input: &str) -> Result<Value, Error>;

    /// Names of an input's tensors, sorted.
    ///
    /// # Errors
    /// There is no such input.
    fn tensor_names(&self, input: &str) -> Result<Vec<String>, Error>;

    /// Dtype and shape of a tensor, without reading it; `None` if there is none of that name.
    ///
    /// # Errors
    /// There is no such input.
    fn tensor_info(&self, input: &str, name: &str) -> Result<Option<TensorInfo>, Error>;

    /// A tensor: a view of the mapped file where it is stored dense, else its dequantized values.
    ///
    /// # Errors
    /// There is no such tensor, or it cannot be read.
    fn tensor(&self, input: &str, name: &str) -> Result<Tensor<'_>, Error>;

    /// A statistic of a site ([`Statistic`](crate::job::Statistic) names the kinds); `None` without calibration data.
    ///
    /// # Errors
    /// The statistic was not asked for in the job's needs.
    fn statistics(&self, site: &str, kind: &str) -> Result<Option<Tensor<'_>>, Error> {
        let _ = (site, kind);
        Ok(None)
    }

    /// The next batch of a stream; `None` at its end.
    ///
    /// # Errors
    /// There is no such stream.
    fn next_batch(&self, stream: &str) -> Result<Option<Vec<NamedTensor<'_>>>, Error> {
        Err(Error::input(format!("this node has no stream `{stream}`")))
    }

    /// Starts a stream again.
    ///
    /// # Errors
    /// There is no such stream, or it cannot be started again.
    fn rewind(&self, stream: &str) -> Result<(), Error> {
        Err(Error::input(format!("this node has no stream `{stream}`")))
    }

    /// Takes a tensor of the resulting model.
    ///
    /// # Errors
    /// The resulting model has no place for it, or it cannot be stored.
    fn put_tensor(&self, name: &str, tensor: &Tensor<'_>) -> Result<(), Error> {
        let _ = tensor;
        Err(Error::unsupported(format!("this node takes no tensors, but the plugin put `{name}`")))
    }

    /// Takes a quantized linear of the resulting model.
    ///
    /// # Errors
    /// The resulting model has no place for it, or it cannot be stored.
    fn put_codes(&self, module: &str, codes: &CodesView<'_>) -> Result<(), Error> {
        let _ = codes;
        Err(Error::unsupported(format!("this node takes no codes, but the plugin put those of `{module}`")))
    }

    /// Merges JSON into the resulting model's config.json; `null` removes a key.
    ///
    /// # Errors
    /// The result of this node has no configuration of its own.
    fn patch_config(&self, patch: &Value) -> Result<(), Error> {
        let _ = patch;
        Err(Error::unsupported("this node writes no configuration"))
    }

    /// One value of a curve.
    fn metric(&self, step: u64, name: &str, value: f64);

    /// How far the job is.
    fn progress(&self, done: u64, total: u64);

    /// A line for the node's log.
    fn log(&self, level: Level, message: &str);

    /// Whether the plugin should stop.
    fn cancelled(&self) -> bool;

    /// The seed of everything that draws numbers.
    fn seed(&self) -> u64;

    /// How many threads the node may use.
    fn threads(&self) -> usize;

    /// A folder that survives a kill of the node.
    ///
    /// # Errors
    /// The node has none.
    fn scratch(&self) -> Result<PathBuf, Error> {
        Err(Error::unsupported("this node has no scratch folder"))
    }

    /// A service that the interface has no method for.
    ///
    /// # Errors
    /// The host knows no such service.
    fn call(
        &self,
        method: &str,
        request: &Value,
        tensors: &[NamedTensor<'_>],
    ) -> Result<(Value, Vec<NamedTensor<'_>>), Error> {
        let _ = (request, tensors);
        Err(Error::unsupported(format!("this workbench has no service `{method}`"))
            .with_hint("a newer workbench may have it"))
    }
}

/// A plugin's root module, as the host calls it.
pub struct Module(PluginModuleRef);

impl Module {
    /// A root module whose layout was checked.
    pub fn new(module: PluginModuleRef) -> Self {
        Self(module)
    }

    /// What the plugin says about itself.
    ///
    /// # Errors
    /// The plugin failed, or what it says is no descriptor.
    pub fn descriptor(&self) -> Result<Descriptor, Error> {
        let text = (self.0.descriptor())().into_result().map_err(Error::from_abi)?;
        serde_json::from_str(&text).context(|| "reading the plugin's descriptor".to_owned())
    }

    /// An instance with the given parameters.
    ///
    /// # Errors
    /// The plugin refuses the parameters, or fails.
    pub fn create(&self, parameters: &Value) -> Result<Instance, Error> {
        let text = parameters.to_string();
        let object = (self.0.create())(RStr::from_str(&text)).into_result().map_err(Error::from_abi)?;
        Ok(Instance(object))
    }
}

/// A plugin with its parameters, as the host calls it.
pub struct Instance(PluginObject);

impl Instance {
    /// What the job wants to have ready.
    ///
    /// # Errors
    /// The plugin does not know the job, or fails.
    pub fn needs(&self, job: &Job) -> Result<Needs, Error> {
        let job = serde_json::to_string(job)?;
        let text = self.0.needs(RStr::from_str(&job)).into_result().map_err(Error::from_abi)?;
        serde_json::from_str(&text).context(|| "reading what the plugin needs".to_owned())
    }

    /// Does the job with the given services, keeping the heartbeat.
    ///
    /// # Errors
    /// The plugin's own error; a panic in it is one too.
    pub fn run(&self, job: &Job, services: &dyn HostServices, heartbeat: &Heartbeat) -> Result<Report, Error> {
        let job = serde_json::to_string(job)?;
        heartbeat.beat();
        let adapter = Adapter { services, heartbeat };
        let host: HostRef<'_> = HostInterface_TO::from_ptr(RRef::new(&adapter), TD_Opaque);
        let text = self.0.run(RStr::from_str(&job), host).into_result().map_err(Error::from_abi)?;
        serde_json::from_str(&text).context(|| "reading the plugin's report".to_owned())
    }
}

/// Puts a host's services behind the binary interface: converts, keeps the heartbeat, and stops panics, which must not
/// unwind into the plugin.
struct Adapter<'a> {
    services: &'a dyn HostServices,
    heartbeat: &'a Heartbeat,
}

impl Adapter<'_> {
    fn serve<T>(&self, service: impl FnOnce() -> Result<T, Error>) -> RResult<T, PluginError> {
        let _serving = self.heartbeat.serving();
        catch_unwind(AssertUnwindSafe(service))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Host, "the host panicked while it served the plugin")))
            .map_err(Error::into_abi)
            .into()
    }

    fn tell(&self, service: impl FnOnce()) {
        let _ = self.serve(|| {
            service();
            Ok(())
        });
    }
}

fn parse(json: RStr<'_>) -> Result<Value, Error> {
    serde_json::from_str(json.as_str()).context(|| "reading the plugin's JSON".to_owned())
}

/// A plugin may hand over tensors whose bytes are fewer than their shape says: nothing is read before this.
fn checked(tensors: RVec<NamedTensor<'_>>) -> Result<Vec<NamedTensor<'_>>, Error> {
    tensors.into_iter().map(|t| Ok(NamedTensor { name: t.name, tensor: t.tensor.checked()? })).collect()
}

impl HostInterface for Adapter<'_> {
    fn config(&self, input: RStr<'_>) -> RResult<RString, PluginError> {
        self.serve(|| Ok(self.services.config(input.as_str())?.to_string().into()))
    }

    fn tensor_names(&self, input: RStr<'_>) -> RResult<RVec<RString>, PluginError> {
        self.serve(|| Ok(self.services.tensor_names(input.as_str())?.into_iter().map(RString::from).collect()))
    }

    fn tensor_info(&self, input: RStr<'_>, name: RStr<'_>) -> RResult<ROption<TensorInfo>, PluginError> {
        self.serve(|| Ok(self.services.tensor_info(input.as_str(), name.as_str())?.into()))
    }

    fn tensor<'a>(&'a self, input: RStr<'_>, name: RStr<'_>) -> RResult<Tensor<'a>, PluginError> {
        self.serve(|| self.services.tensor(input.as_str(), name.as_str()))
    }

    fn statistics<'a>(&'a self, site: RStr<'_>, kind: RStr<'_>) -> RResult<ROption<Tensor<'a>>, PluginError> {
        self.serve(|| Ok(self.services.statistics(site.as_str(), kind.as_str())?.into()))
    }

    fn next_batch<'a>(&'a self, stream: RStr<'_>) -> RResult<ROption<RVec<NamedTensor<'a>>>, PluginError> {
        self.serve(|| Ok(self.services.next_batch(stream.as_str())?.map(RVec::from).into()))
    }

    fn rewind(&self, stream: RStr<'_>) -> RResult<(), PluginError> {
        self.serve(|| self.services.rewind(stream.as_str()))
    }

    fn put_tensor(&self, name: RStr<'_>, tensor: Tensor<'_>) -> RResult<(), PluginError> {
        self.serve(|| {
            let tensor = tensor.checked().context(|| format!("the plugin put the tensor `{name}`"))?;
            self.services.put_tensor(name.as_str(), &tensor)
        })
    }

    fn put_codes(&self, module: RStr<'_>, codes: Codes<'_>) -> RResult<(), PluginError> {
        self.serve(|| {
            let at = || format!("the plugin put the codes of `{module}`");
            let (weights, scales) = (codes.codes.checked().context(at)?, codes.scales.checked().context(at)?);
            let zero_points = codes.zero_points.into_option().map(Tensor::checked).transpose().context(at)?;
            let ((rows, columns), (scale_rows, groups)) =
                (weights.matrix_shape().context(at)?, scales.matrix_shape().context(at)?);
            let zero_points = match &zero_points {
                Some(points) if points.shape() != scales.shape() => {
                    let (found, expected) = (points.shape(), scales.shape());
                    return Err(Error::input(format!(
                        "the zero-points of `{module}` have shape {found:?}, its scales {expected:?}"
                    )));
                }
                Some(points) => Some(points.values::<i32>().context(at)?),
                None => None,
            };
            let view = CodesView {
                codes: weights.values::<i8>().context(at)?,
                shape: [rows, columns],
                scales: scales.values::<f32>().context(at)?,
                scale_shape: [scale_rows, groups],
                zero_points,
                global_scale: codes.global_scale.into_option(),
                grid: parse(codes.grid.as_rstr()).context(at)?,
                extra: &checked(codes.extra).context(at)?,
            };
            self.services.put_codes(module.as_str(), &view)
        })
    }

    fn patch_config(&self, patch: RStr<'_>) -> RResult<(), PluginError> {
        self.serve(|| self.services.patch_config(&parse(patch)?))
    }

    fn metric(&self, step: u64, name: RStr<'_>, value: f64) {
        self.tell(|| self.services.metric(step, name.as_str(), value));
    }

    fn progress(&self, done: u64, total: u64) {
        self.tell(|| self.services.progress(done, total));
    }

    fn log(&self, level: Level, message: RStr<'_>) {
        self.tell(|| self.services.log(level, message.as_str()));
    }

    fn cancelled(&self) -> bool {
        match self.serve(|| Ok(self.services.cancelled())) {
            RResult::ROk(cancelled) => cancelled,
            RResult::RErr(_) => true,
        }
    }

    fn seed(&self) -> u64 {
        self.services.seed()
    }

    fn threads(&self) -> usize {
        self.services.threads()
    }

    fn scratch(&self) -> RResult<RString, PluginError> {
        self.serve(|| {
            let folder = self.services.scratch()?;
            let text = folder.to_str().ok_or_else(|| {
                Error::new(ErrorKind::Host, format!("the scratch folder `{}` is no UTF-8", folder.display()))
            })?;
            Ok(text.into())
        })
    }

    fn call<'a>(
        &'a self,
        method: RStr<'_>,
        request: RStr<'_>,
        tensors: RVec<NamedTensor<'_>>,
    ) -> RResult<Reply<'a>, PluginError> {
        self.serve(|| {
            let tensors = checked(tensors)?;
            let (value, tensors) = self.services.call(method.as_str(), &parse(request)?, &tensors)?;
            Ok(Reply { value: value.to_string().into(), tensors: tensors.into() })
        })
    }
}
