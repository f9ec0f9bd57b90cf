//! Number grids, fake quantization and packing: the one place where a value is rounded.
//!
//! [`QuantizationArgs`] say what kind of grid a tensor gets, a [`Scheme`] which tensors of a model get which, a [`Grid`]
//! decides everything the arguments leave open and does the work on plain slices.

mod apply;
pub mod args;
mod check;
mod column;
pub mod conventions;
mod derive;
pub mod error;
pub mod float;
mod gradient;
mod grid;
mod kernel;
mod matrix;
pub mod observer;
pub mod pack;
mod preset;
mod scale;
mod scheme;
mod shares;
mod weight;

pub use args::{ActivationOrdering, Dynamic, NumberType, QuantizationArgs, ScaleDtype, Strategy, ZeroPointDtype};
pub use column::ColumnRounder;
pub use conventions::{ClampOrder, Compute, Conventions, MxRule, RangeConvention};
pub use error::{ArgsError, GridError, dividing_group_sizes};
pub use gradient::RangeTerm;
pub use grid::{Grid, QuantParams, StorageDtype};
pub use matrix::Matrix;
pub use preset::{preset, preset_names};
pub use scheme::{Format, Scheme, kv_cache_args};
pub use shares::{RangeShares, WeightRanges};
pub use weight::QuantizedWeight;

/// Version of the rounding rules in this crate. Every dylib carries its own copy of the crate, so the number travels in
/// the plugin probe and a host refuses a plugin whose number differs. Raise it whenever any code or scale could change.
pub const GRID_VERSION: u32 = 2;
