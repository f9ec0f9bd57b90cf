//! Quantization arguments in the JSON shapes of the compressed-tensors checkpoint format.

mod dtype;
mod json;
mod schema;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use dtype::{ScaleDtype, ZeroPointDtype};
pub(crate) use json::RawArgs;

use crate::error::ArgsError;
use crate::observer;

/// Integer or floating-point codes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NumberType {
    /// Two's complement integers of `num_bits`.
    #[default]
    Int,
    /// FP8 E4M3 (`num_bits` 8) or FP4 E2M1 (`num_bits` 4).
    Float,
}

/// Which values share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The whole tensor.
    Tensor,
    /// A row of a weight (one output channel).
    Channel,
    /// `group_size` neighbours along the input dimension.
    Group,
    /// A row of an activation (one token).
    Token,
    /// A rectangle of `block_structure` rows and columns.
    Block,
    /// A group with a second, tensor-wide scale (NVFP4).
    TensorGroup,
    /// An attention head of a KV cache.
    AttnHead,
}

impl Strategy {
    /// The name in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tensor => "tensor",
            Self::Channel => "channel",
            Self::Group => "group",
            Self::Token => "token",
            Self::Block => "block",
            Self::TensorGroup => "tensor_group",
            Self::AttnHead => "attn_head",
        }
    }

    /// Whether a `group_size` belongs to it.
    pub fn has_groups(self) -> bool {
        matches!(self, Self::Group | Self::TensorGroup)
    }
}

/// When scales are derived: `false`, `true` or `"local"` in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Dynamic {
    /// Once, before the model runs.
    #[default]
    No,
    /// From every input anew.
    Yes,
    /// The group scales from every input, the tensor-wide scale once (NVFP4 activations).
    Local,
}

/// In which order GPTQ visits the columns. Only the orders that leave the stored layout alone exist on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActivationOrdering {
    /// By falling activation magnitude, with groups and scales in natural order.
    Weight,
    /// Another name of `weight`; kept as it was written.
    Static,
}

/// How one tensor (weights, or activations of one site) is quantized. Absent JSON keys take the format's defaults:
/// 8 bits, int, symmetric, static; the strategy follows from `group_size` where it is not given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RawArgs")]
pub struct QuantizationArgs {
    /// Bits of a code.
    pub num_bits: u8,
    /// Integer or floating-point codes.
    pub r#type: NumberType,
    /// Whether zero maps to code zero and no zero-point is stored.
    pub symmetric: bool,
    /// Neighbours along a row that share a scale, for the strategies `group` and `tensor_group`.
    pub group_size: Option<usize>,
    /// Which values share one scale.
    pub strategy: Strategy,
    /// Rows and columns of a block, for the strategy `block`.
    pub block_structure: Option<[usize; 2]>,
    /// When scales are derived.
    pub dynamic: Dynamic,
    /// Column order of GPTQ.
    pub actorder: Option<ActivationOrdering>,
    /// Dtype of the stored scale; `None` is the dtype of the tensor itself.
    pub scale_dtype: Option<ScaleDtype>,
    /// Dtype of the stored zero-point; `None` is int8.
    pub zp_dtype: Option<ZeroPointDtype>,
    /// Name of the range observer; `None` is the default of the place where the arguments stand.
    pub observer: Option<String>,
    /// Options of the observer.
    pub observer_kwargs: Map<String, Value>,
}

impl Default for QuantizationArgs {
    fn default() -> Self {
        Self {
            num_bits: 8,
            r#type: NumberType::Int,
            symmetric: true,
            group_size: None,
            strategy: Strategy::Tensor,
            block_structure: None,
            dynamic: Dynamic::No,
            actorder: None,
            scale_dtype: None,
            zp_dtype: None,
            observer: None,
            observer_kwargs: Map::new(),
        }
    }
}

impl QuantizationArgs {
    /// Checks that the arguments agree with each other, the observer and its options included.
    ///
    /// # Errors
    /// The first contradiction, with the key at fault and a hint.
    pub fn validate(&self) -> Result<(), ArgsError> {
        self.validate_shape()?;
        observer::Options::from_args(self).map(|_| ())
    }

    /// Everything but the observer: what has to hold for codes and scales on disk to mean something, whoever wrote them.
    pub(crate) fn validate_shape(&self) -> Result<(), ArgsError> {
        self.validate_number()?;
        self.validate_strategy()?;
        self.validate_dynamic()?;
        self.validate_dtypes()
    }

    /// Whether the arguments are those of an MX format: floating-point codes, groups of 32, power-of-two scales.
    pub fn is_mx(&self) -> bool {
        self.scale_dtype == Some(ScaleDtype::E8M0)
    }

    fn validate_number(&self) -> Result<(), ArgsError> {
        match (self.r#type, self.num_bits) {
            (NumberType::Int, 2..=8) | (NumberType::Float, 4 | 8) => {}
            (NumberType::Int, bits) => {
                return Err(ArgsError::new("num_bits", format!("no integer grid has {bits} bits"))
                    .with_hint("integers have 2 to 8 bits"));
            }
            (NumberType::Float, bits) => {
                return Err(ArgsError::new("num_bits", format!("no floating-point grid has {bits} bits"))
                    .with_hint("`type: \"float\"` means FP8 E4M3 (8 bits) or FP4 E2M1 (4 bits)"));
            }
        }
        if self.r#type == NumberType::Float && !self.symmetric {
            return Err(ArgsError::new("symmetric", "floating-point codes have no zero-point")
                .with_hint("write `symmetric: true`, or `type: \"int\"`"));
        }
        Ok(())
    }

    fn validate_strategy(&self) -> Result<(), ArgsError> {
        let name = self.strategy.name();
        match (self.strategy.has_groups(), self.group_size) {
            (true, None | Some(0)) => {
                return Err(ArgsError::new("group_size", format!("strategy `{name}` needs a group_size"))
                    .with_hint("for example `group_size: 128`"));
            }
            (false, Some(size)) => {
                return Err(ArgsError::new(
                    "group_size",
                    format!("group_size {size} has no meaning for strategy `{name}`"),
                )
                .with_hint("write `strategy: \"group\"`, or leave `group_size` out"));
            }
            _ => {}
        }
        match (self.strategy == Strategy::Block, self.block_structure) {
            (true, None | Some([0, _] | [_, 0])) => Err(ArgsError::new(
                "block_structure",
                "strategy `block` needs a block_structure of two positive numbers",
            )
            .with_hint("for example `block_structure: [128, 128]`")),
            (false, Some(_)) => {
                Err(ArgsError::new("block_structure", format!("block_structure has no meaning for strategy `{name}`"))
                    .with_hint("write `strategy: \"block\"`, or leave `block_structure` out"))
            }
            _ => Ok(()),
        }
    }

    fn validate_dynamic(&self) -> Result<(), ArgsError> {
        let name = self.strategy.name();
        match (self.dynamic, self.strategy) {
            (Dynamic::No, Strategy::Token) => {
                Err(ArgsError::new("dynamic", "strategy `token` cannot be static: every token has its own scale")
                    .with_hint("write `dynamic: true`, or `strategy: \"tensor\"` for one static scale"))
            }
            (Dynamic::Yes | Dynamic::Local, Strategy::Channel | Strategy::Block | Strategy::AttnHead) => {
                Err(ArgsError::new("dynamic", format!("strategy `{name}` cannot be dynamic"))
                    .with_hint("dynamic scales are per `token`, `tensor`, `group` or `tensor_group`"))
            }
            (Dynamic::Local, strategy) if strategy != Strategy::TensorGroup => {
                Err(ArgsError::new("dynamic", format!("`dynamic: \"local\"` has no meaning for strategy `{name}`"))
                    .with_hint("it belongs to `tensor_group`; write `dynamic: true`"))
            }
            _ => Ok(()),
        }
    }

    fn validate_dtypes(&self) -> Result<(), ArgsError> {
        let is_fp4 = self.r#type == NumberType::Float && self.num_bits == 4;
        if self.strategy == Strategy::TensorGroup && !is_fp4 {
            return Err(ArgsError::new("strategy", "strategy `tensor_group` is that of NVFP4: 4-bit float codes")
                .with_hint("write `strategy: \"group\"`, or `type: \"float\", num_bits: 4`"));
        }
        if self.is_mx()
            && (self.r#type != NumberType::Float || self.strategy != Strategy::Group || self.group_size != Some(32))
        {
            return Err(ArgsError::new("scale_dtype", "power-of-two scales (`torch.uint8`) belong to the MX formats")
                .with_hint("they need `type: \"float\", strategy: \"group\", group_size: 32`"));
        }
        match self.zp_dtype {
            Some(ZeroPointDtype::U8 | ZeroPointDtype::F8E4M3) if !self.symmetric => {
                Err(ArgsError::new("zp_dtype", "the zero-point of integer codes is a signed integer")
                    .with_hint("leave `zp_dtype` out for int8"))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for QuantizationArgs {
    /// For example `int4 symmetric group 128` or `fp8 token dynamic`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.r#type {
            NumberType::Int => {
                write!(f, "int{} {}", self.num_bits, if self.symmetric { "symmetric" } else { "asymmetric" })?;
            }
            NumberType::Float => write!(f, "{}fp{}", if self.is_mx() { "mx" } else { "" }, self.num_bits)?,
        }
        write!(f, " {}", self.strategy.name())?;
        if let Some(size) = self.group_size {
            write!(f, " {size}")?;
        }
        if let Some([rows, columns]) = self.block_structure {
            write!(f, " {rows}x{columns}")?;
        }
        match self.dynamic {
            Dynamic::No => Ok(()),
            Dynamic::Yes => f.write_str(" dynamic"),
            Dynamic::Local => f.write_str(" dynamic local"),
        }
    }
}
