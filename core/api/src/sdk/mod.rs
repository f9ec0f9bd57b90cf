//! What a plugin author writes against: one trait per kind, the host as an ordinary object, ordinary errors.

#[doc(hidden)]
pub mod export;
mod guard;
mod host;
mod plugin;
pub mod rescale;
mod silent;

pub use crate::abi::{Dtype, Element, Level, NamedTensor, Tensor, TensorInfo};
pub use crate::error::{Context, Error, ErrorKind};
pub use crate::example::{Example, ExampleCodes, ExampleModel, ExampleTensor, Expected};
pub use crate::job::{Block, Facts, Job, Linear, Model, Needs, Statistic, StatisticNeed, Stream};
pub use host::{Batch, Host, QuantizedLinear};
pub use plugin::{BlockQuantizer, Plugin, Quantizer, Trainer, Transform};
pub use silent::{SILENT_CHANNELS, note_silent};
