//! Quantization arguments in the JSON shapes of the compressed-tensors checkpoint format.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::{ArgsError, OneLine};
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

impl Serialize for Dynamic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::No => serializer.serialize_bool(false),
            Self::Yes => serializer.serialize_bool(true),
            Self::Local => serializer.serialize_str("local"),
        }
    }
}

impl<'de> Deserialize<'de> for Dynamic {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::Bool(false) | Value::Null => Ok(Self::No),
            Value::Bool(true) => Ok(Self::Yes),
            Value::String(text) if text.eq_ignore_ascii_case("local") => Ok(Self::Local),
            other => Err(serde::de::Error::custom(format!("`dynamic` is false, true or \"local\", not {other}"))),
        }
    }
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

impl<'de> Deserialize<'de> for ActivationOrdering {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) if text.eq_ignore_ascii_case("weight") => Ok(Self::Weight),
            Value::String(text) if text.eq_ignore_ascii_case("static") => Ok(Self::Static),
            other => Err(serde::de::Error::custom(format!(
                "`actorder` {other} is not supported: write \"static\", \"weight\" or null \
                 (groups formed after reordering need a stored index, which loaders no longer take)"
            ))),
        }
    }
}

/// `actorder: false` means none in files written by older tools.
fn optional_actorder<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<ActivationOrdering>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null | Value::Bool(false) => Ok(None),
        value => ActivationOrdering::deserialize(value).map(Some).map_err(serde::de::Error::custom),
    }
}

/// Declares an enum whose JSON form is a torch dtype name, read with or without the prefix `torch.`.
macro_rules! torch_dtype {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// The name of the dtype without the prefix `torch.`.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(&format_args!("torch.{}", self.name()))
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                match text.strip_prefix("torch.").unwrap_or(&text) {
                    $($text => Ok(Self::$variant),)*
                    _ => Err(serde::de::Error::custom(format!(
                        concat!("unknown dtype `{}`, expected one of", $(" `torch.", $text, "`",)*), text
                    ))),
                }
            }
        }
    };
}

torch_dtype! {
    /// The dtype in which a scale is stored.
    ScaleDtype {
        /// IEEE single precision.
        F32 = "float32",
        /// bfloat16.
        Bf16 = "bfloat16",
        /// IEEE half precision.
        F16 = "float16",
        /// FP8 E4M3, the group scales of NVFP4.
        F8E4M3 = "float8_e4m3fn",
        /// A power of two stored as its biased exponent (E8M0), the scales of the MX formats.
        E8M0 = "uint8",
    }
}

torch_dtype! {
    /// The dtype in which a zero-point is stored.
    ZeroPointDtype {
        /// The usual one of integer codes.
        I8 = "int8",
        /// Wider integers, read but never needed.
        I16 = "int16",
        /// Wider integers, read but never needed.
        I32 = "int32",
        /// Named by the MX presets, which have no zero-point.
        U8 = "uint8",
        /// Named by the NVFP4 presets, which have no zero-point.
        F8E4M3 = "float8_e4m3fn",
    }
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

/// [`QuantizationArgs`] as they stand in JSON: everything optional, older spellings included.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RawArgs {
    num_bits: u8,
    r#type: NumberType,
    symmetric: bool,
    group_size: Option<i64>,
    strategy: Option<Strategy>,
    block_structure: Option<RawBlock>,
    dynamic: Dynamic,
    #[serde(deserialize_with = "optional_actorder")]
    actorder: Option<ActivationOrdering>,
    scale_dtype: Option<ScaleDtype>,
    zp_dtype: Option<ZeroPointDtype>,
    observer: Option<String>,
    observer_kwargs: Option<Map<String, Value>>,
}

impl Default for RawArgs {
    fn default() -> Self {
        Self {
            num_bits: 8,
            r#type: NumberType::Int,
            symmetric: true,
            group_size: None,
            strategy: None,
            block_structure: None,
            dynamic: Dynamic::No,
            actorder: None,
            scale_dtype: None,
            zp_dtype: None,
            observer: None,
            observer_kwargs: None,
        }
    }
}

/// `[128, 128]`, or `"128x128"` in older files.
struct RawBlock([usize; 2]);

impl<'de> Deserialize<'de> for RawBlock {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let sizes: Option<Vec<usize>> = match &value {
            Value::String(text) => text.split('x').map(|part| part.trim().parse().ok()).collect(),
            other => serde_json::from_value(other.clone()).ok(),
        };
        match sizes.as_deref() {
            Some(&[rows, columns]) => Ok(Self([rows, columns])),
            _ => Err(serde::de::Error::custom(format!("`block_structure` is [rows, columns], not {value}"))),
        }
    }
}

impl TryFrom<RawArgs> for QuantizationArgs {
    type Error = OneLine;

    fn try_from(raw: RawArgs) -> Result<Self, OneLine> {
        Self::from_raw(raw).map_err(OneLine)
    }
}

impl QuantizationArgs {
    /// Fills in the strategy and checks everything but the observer.
    pub(crate) fn from_raw(raw: RawArgs) -> Result<Self, ArgsError> {
        let (group_size, inferred) = match raw.group_size {
            None => (None, Strategy::Tensor),
            Some(-1) => (None, Strategy::Channel),
            Some(size) => match usize::try_from(size) {
                Ok(size) if size > 0 => (Some(size), Strategy::Group),
                _ => {
                    return Err(ArgsError::new("group_size", format!("group_size {size} is not a positive number"))
                        .with_hint("-1 means one group a row"));
                }
            },
        };
        let args = Self {
            num_bits: raw.num_bits,
            r#type: raw.r#type,
            symmetric: raw.symmetric,
            group_size,
            strategy: raw.strategy.unwrap_or(inferred),
            block_structure: raw.block_structure.map(|block| block.0),
            dynamic: raw.dynamic,
            actorder: raw.actorder,
            scale_dtype: raw.scale_dtype,
            zp_dtype: raw.zp_dtype,
            observer: raw.observer,
            observer_kwargs: raw.observer_kwargs.unwrap_or_default(),
        };
        args.validate_shape()?;
        Ok(args)
    }

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
