//! What a plugin author writes against: one trait per kind, the host as an ordinary object, ordinary errors.
//!
//! # What codes mean
//!
//! A quantized linear ([`QuantizedLinear`]) is read as
//!
//! ```text
//! weight = (code - zero_point) · scale                     integers; the zero-point is 0 where the grid is symmetric
//! weight = element(code) · scale                           FP8, FP4 and the MX formats
//! weight = element(code) · scale / global_scale            NVFP4
//! ```
//!
//! with one scale (and zero-point) for each rectangle that the grid's strategy cuts the weight into, `[rows, groups]` row by row.
//! The host refuses what is none of the grid's:
//!
//! - codes outside of -2^(b-1) ..= 2^(b-1) - 1 for integers of b bits; bit patterns of NaN (FP8) and more than four bits (FP4);
//! - zero-points outside of the same range. They are integers, as the codes are: a zero-point is the code of the weight 0;
//! - scales that are not positive and finite, and scales that the dtype in which they are stored would round:
//!   `Grid::round_scale` of workbench-quant rounds them, and gives a group of zeros the least scale there is.
//!
//! ```
//! use workbench_quant::{Conventions, Grid, Matrix, QuantParams, QuantizationArgs, StorageDtype, Strategy};
//!
//! # fn main() -> Result<(), workbench_api::sdk::Error> {
//! // Four bits with a zero-point a row, scales in bfloat16. A plugin reads its grid by `linear.grid()?`.
//! let args = QuantizationArgs { num_bits: 4, symmetric: false, strategy: Strategy::Channel, ..Default::default() };
//! let grid = Grid::new(&args, StorageDtype::Bf16, Conventions::default())?;
//! assert_eq!((grid.code_range(), grid.zero_point_range()), (Some((-8, 7)), (-8, 7)));
//!
//! // A range that the plugin chose itself, from -1 to 2, in 15 steps: of .2, which bfloat16 does not have.
//! let scale = grid.round_scale((2.0 - -1.0) / 15.0);
//! assert_eq!(scale, 0.2001953125);
//! let zero_point = (-8.0 - -1.0 / scale).round_ties_even() as i32;
//! let parameters =
//!     QuantParams { scales: vec![scale], zero_points: Some(vec![zero_point]), shape: [1, 1], ..Default::default() };
//! grid.check_parameters(&parameters)?;
//!
//! let weight = [-1.0, 0.0, 2.0];
//! let codes = grid.quantize(Matrix::new(&weight, 1, 3)?, &parameters)?;
//! assert_eq!((zero_point, &codes[..]), (-3, &[-8, -3, 7][..]));
//! let mut read = [0.0; 3];
//! grid.dequantize(&codes, 1, 3, &parameters, &mut read)?;
//! assert_eq!(read, [(-8.0 - -3.0) * scale, 0.0, (7.0 - -3.0) * scale]);
//! # Ok(())
//! # }
//! ```

#[doc(hidden)]
pub mod export;
mod guard;
mod host;
mod plugin;
pub mod rescale;
mod silent;

pub use crate::abi::{Dtype, Element, Level, NamedTensor, Tensor, TensorInfo};
pub use crate::accepts::Accepts;
pub use crate::descriptor::StartsFrom;
pub use crate::error::{Context, Error, ErrorKind};
pub use crate::example::{Example, ExampleCodes, ExampleModel, ExampleTensor, Expected};
pub use crate::job::{Block, Facts, Job, Linear, Mapping, Model, Needs, Pair, Role, Statistic, StatisticNeed, Stream};
pub(crate) use host::CODES;
pub use host::{Batch, Host, QuantizedLinear};
pub use plugin::{BlockQuantizer, Plugin, Quantizer, Trainer, Transform};
pub use silent::{LEFT_ALONE, SILENT_CHANNELS, note_left_alone, note_silent};
