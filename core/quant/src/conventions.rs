//! The parts of a grid that quantization arguments leave open.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a symmetric integer scale follows from the largest magnitude (absmax) of its values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RangeConvention {
    /// absmax / ((2^b - 1) / 2): ÷7.5 at 4 bits, ÷127.5 at 8. compressed-tensors, GPTQ.
    #[default]
    Full,
    /// absmax / (2^(b-1) - 1): ÷7 at 4 bits, ÷127 at 8; the lowest code is never reached. AWQ, QuaRot, SpinQuant, LLM-QAT.
    Restricted,
    /// (the value of largest magnitude, with its sign) / -2^(b-1): the lowest code is always reached, scales may be
    /// negative. auto-round, Q4_0.
    SignedExtreme,
}

/// In which precision quotients, zero-points and products are rounded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compute {
    /// Single precision.
    #[default]
    F32,
    /// Every operation rounded to bfloat16, as compressed-tensors does on bfloat16 tensors. Seven and eight bit integers
    /// are too fine for it: quantizing a fake-quantized value again may then give a neighbouring code.
    Bf16,
}

/// Where the clamp stands. It matters for ties at the ends of a range with a zero-point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ClampOrder {
    /// round(clamp(x / s + z)): compressed-tensors.
    #[default]
    BeforeRounding,
    /// clamp(round(x / s) + z): the original GPTQ, EfficientQAT.
    AfterRounding,
}

/// How the power-of-two scale of an MX group follows from its largest magnitude a. `max` is the largest value of the
/// element format (6 or 448) and `emax` the exponent of its leading bit (2 or 8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MxRule {
    /// floor(log2 a) - emax: the OCP specification, microxcaling, ggml.
    Floor,
    /// ceil(log2 a) - emax.
    Ceil,
    /// ceil(log2(a / max)).
    Rceil,
    /// floor(log2 a) - emax after a mantissa of 1.75 or more went up to the next power: compressed-tensors
    /// (for FP8 elements too), Quark.
    #[default]
    Even,
}

/// Everything about a grid that the arguments leave open. The default is what compressed-tensors does, in f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Conventions {
    /// Scale of symmetric integers.
    pub range: RangeConvention,
    /// Precision of the arithmetic.
    pub compute: Compute,
    /// Position of the clamp.
    pub clamp: ClampOrder,
    /// Scale of the MX formats.
    pub mx_exponent: MxRule,
}
