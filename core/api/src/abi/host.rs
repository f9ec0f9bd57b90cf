//! The host object: everything that a plugin can ask of the process it runs in.

use abi_stable::std_types::{ROption, RResult, RStr, RString, RVec};
use abi_stable::{StableAbi, sabi_trait, sabi_types::RRef};

use super::{Dtype, PluginError, Tensor};

/// Weight of a log line.
#[repr(u8)]
#[derive(StableAbi, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The run cannot go on.
    Error,
    /// Something that the user should know.
    Warn,
    /// A step that was taken.
    Info,
    /// For whoever debugs the method.
    Debug,
}

/// Dtype and shape of a tensor that was not read.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Type of the elements as stored.
    pub dtype: Dtype,
    /// Sizes, outermost dimension first.
    pub shape: RVec<usize>,
}

/// A tensor with the name under which a batch or a reply holds it.
#[repr(C)]
#[derive(StableAbi)]
pub struct NamedTensor<'a> {
    /// For example `input_ids`.
    pub name: RString,
    /// The values.
    pub tensor: Tensor<'a>,
}

/// One batch of a stream.
pub type Batch<'a> = RVec<NamedTensor<'a>>;

/// A quantized linear.
#[repr(C)]
#[derive(StableAbi)]
pub struct Codes<'a> {
    /// `[out_features, in_features]`, I8: integer codes, or bit patterns of FP8 and FP4.
    pub codes: Tensor<'a>,
    /// `[rows, groups]`, F32, already rounded to the dtype in which they will be stored.
    pub scales: Tensor<'a>,
    /// As `scales`, I32; absent where the grid is symmetric.
    pub zero_points: ROption<Tensor<'a>>,
    /// The second scale of NVFP4.
    pub global_scale: ROption<f32>,
    /// The grid's JSON.
    pub grid: RString,
    /// Whatever else a checkpoint stores with a linear (`g_idx` of a dynamic activation order).
    pub extra: RVec<NamedTensor<'a>>,
}

/// What a call by name returns.
#[repr(C)]
#[derive(StableAbi)]
pub struct Reply<'a> {
    /// JSON.
    pub value: RString,
    /// Tensors that belong to it.
    pub tensors: RVec<NamedTensor<'a>>,
}

/// The host as a plugin sees it. `input` names a model: `model`, `teacher`, …
#[sabi_trait]
pub trait HostInterface: Send + Sync {
    /// An input's config.json.
    fn config(&self, input: RStr<'_>) -> RResult<RString, PluginError>;
    /// Names of an input's tensors.
    fn tensor_names(&self, input: RStr<'_>) -> RResult<RVec<RString>, PluginError>;
    /// Dtype and shape of a tensor.
    fn tensor_info(&self, input: RStr<'_>, name: RStr<'_>) -> RResult<ROption<TensorInfo>, PluginError>;
    /// A tensor, without copying it where it is stored as it is read.
    fn tensor<'a>(&'a self, input: RStr<'_>, name: RStr<'_>) -> RResult<Tensor<'a>, PluginError>;
    /// A calibration statistic, or nothing where the node has no calibration data.
    fn statistics<'a>(&'a self, site: RStr<'_>, kind: RStr<'_>) -> RResult<ROption<Tensor<'a>>, PluginError>;
    /// The next batch of a stream, or nothing at its end.
    fn next_batch<'a>(&'a self, stream: RStr<'_>) -> RResult<ROption<RVec<NamedTensor<'a>>>, PluginError>;
    /// Starts a stream again.
    fn rewind(&self, stream: RStr<'_>) -> RResult<(), PluginError>;
    /// A tensor of the resulting model.
    fn put_tensor(&self, name: RStr<'_>, tensor: Tensor<'_>) -> RResult<(), PluginError>;
    /// A quantized linear of the resulting model.
    fn put_codes(&self, module: RStr<'_>, codes: Codes<'_>) -> RResult<(), PluginError>;
    /// Merges JSON into the resulting model's config.json; `null` removes a key.
    fn patch_config(&self, patch: RStr<'_>) -> RResult<(), PluginError>;
    /// One value of a curve.
    fn metric(&self, step: u64, name: RStr<'_>, value: f64);
    /// How far the job is.
    fn progress(&self, done: u64, total: u64);
    /// A line for the node's log.
    fn log(&self, level: Level, message: RStr<'_>);
    /// Whether the plugin should stop.
    fn cancelled(&self) -> bool;
    /// The seed of everything that draws numbers.
    fn seed(&self) -> u64;
    /// How many threads the node may use.
    fn threads(&self) -> usize;
    /// A folder that survives a kill of the node, for a plugin's own checkpoints.
    fn scratch(&self) -> RResult<RString, PluginError>;
    /// Any service by its name: what later hosts offer needs no new interface.
    #[sabi(last_prefix_field)]
    fn call<'a>(
        &'a self,
        method: RStr<'_>,
        request: RStr<'_>,
        tensors: RVec<NamedTensor<'_>>,
    ) -> RResult<Reply<'a>, PluginError>;
}

/// A borrow of the host object.
pub type HostRef<'a> = HostInterface_TO<'a, RRef<'a, ()>>;
