//! Quantization arguments in JSON: what may be left out, and how older files spell things.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{ActivationOrdering, Dynamic, NumberType, QuantizationArgs, ScaleDtype, Strategy, ZeroPointDtype};
use crate::error::{ArgsError, OneLine};

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

/// [`QuantizationArgs`] as they stand in JSON: everything optional, older spellings included. Their schema is in [`super::schema`].
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
}
