//! Presets: schemes under the names that the ecosystem gives them.

use crate::args::{Dynamic, NumberType, QuantizationArgs, ScaleDtype, Strategy, ZeroPointDtype};
use crate::scheme::Scheme;

/// Integer presets of the form W{bits}A16: bits of a group of 128.
const WEIGHT_ONLY: [(&str, u8); 7] =
    [("W2A16", 2), ("W3A16", 3), ("W4A16", 4), ("W5A16", 5), ("W6A16", 6), ("W7A16", 7), ("W8A16", 8)];

/// Integer presets with weights in groups of 128 and dynamic activations per token: bits of both.
const WITH_ACTIVATIONS: [(&str, u8, u8); 9] = [
    ("W2A4", 2, 4),
    ("W3A4", 3, 4),
    ("W4A4", 4, 4),
    ("W2A8", 2, 8),
    ("W3A8", 3, 8),
    ("W4A8", 4, 8),
    ("W5A8", 5, 8),
    ("W6A8", 6, 8),
    ("W7A8", 7, 8),
];

/// The other presets.
const OTHERS: [&str; 15] = [
    "W4A16_ASYM",
    "W8A8",
    "INT8",
    "W8A8_STATIC",
    "W4AFP8",
    "FP8",
    "FP8_DYNAMIC",
    "FP8_BLOCK",
    "MXFP4",
    "MXFP4A16",
    "MXFP4_MLP_WEIGHT_ONLY",
    "MXFP8",
    "MXFP8A16",
    "NVFP4",
    "NVFP4A16",
];

/// The names that [`preset`] knows.
pub fn preset_names() -> impl Iterator<Item = &'static str> {
    let weight_only = WEIGHT_ONLY.iter().map(|(name, _)| *name);
    weight_only.chain(WITH_ACTIVATIONS.iter().map(|(name, ..)| *name)).chain(OTHERS)
}

/// The scheme of that name, in upper or lower case. Its targets are empty, which means the linears of the decoder blocks,
/// but for `MXFP4_MLP_WEIGHT_ONLY`, named after the configuration of NVIDIA Model Optimizer (`MXFP4_MLP_WEIGHT_ONLY_CFG`).
/// The others are those of compressed-tensors, and `W8A8_STATIC`.
pub fn preset(name: &str) -> Option<Scheme> {
    let name = name.to_uppercase();
    if let Some((_, bits)) = WEIGHT_ONLY.iter().find(|(known, _)| *known == name) {
        return Some(Scheme { weights: Some(int_group(*bits)), ..Scheme::default() });
    }
    if let Some((_, bits, activation_bits)) = WITH_ACTIVATIONS.iter().find(|(known, ..)| *known == name) {
        return Some(with_activations(int_group(*bits), int_token(*activation_bits)));
    }
    let scheme = match name.as_str() {
        "W4A16_ASYM" => {
            weight_only(QuantizationArgs { symmetric: false, zp_dtype: Some(ZeroPointDtype::I8), ..int_group(4) })
        }
        "W8A8" | "INT8" => with_activations(int(8, Strategy::Channel), int_token(8)),
        "W8A8_STATIC" => with_activations(
            int(8, Strategy::Channel),
            QuantizationArgs { observer: Some("static_minmax".into()), ..int(8, Strategy::Tensor) },
        ),
        "W4AFP8" => with_activations(int_group(4), dynamic(float(8, Strategy::Token))),
        "FP8" => with_activations(
            float(8, Strategy::Tensor),
            QuantizationArgs { observer: Some("static_minmax".into()), ..float(8, Strategy::Tensor) },
        ),
        "FP8_DYNAMIC" => with_activations(float(8, Strategy::Channel), dynamic(float(8, Strategy::Token))),
        "FP8_BLOCK" => with_activations(
            QuantizationArgs { block_structure: Some([128, 128]), ..float(8, Strategy::Block) },
            dynamic(QuantizationArgs { group_size: Some(128), ..float(8, Strategy::Group) }),
        ),
        "MXFP4" => with_activations(mx(4), dynamic(mx(4))),
        "MXFP4A16" => weight_only(mx(4)),
        "MXFP4_MLP_WEIGHT_ONLY" => Scheme { targets: vec!["*.mlp.*".into()], ..weight_only(mx(4)) },
        "MXFP8" => with_activations(mx(8), dynamic(mx(8))),
        "MXFP8A16" => weight_only(mx(8)),
        "NVFP4" => with_activations(
            nvfp4(),
            QuantizationArgs { dynamic: Dynamic::Local, observer: Some("static_minmax".into()), ..nvfp4() },
        ),
        "NVFP4A16" => weight_only(nvfp4()),
        _ => return None,
    };
    Some(scheme)
}

fn weight_only(weights: QuantizationArgs) -> Scheme {
    Scheme { weights: Some(weights), ..Scheme::default() }
}

fn with_activations(weights: QuantizationArgs, input_activations: QuantizationArgs) -> Scheme {
    Scheme { weights: Some(weights), input_activations: Some(input_activations), ..Scheme::default() }
}

fn int(num_bits: u8, strategy: Strategy) -> QuantizationArgs {
    QuantizationArgs { num_bits, strategy, ..QuantizationArgs::default() }
}

fn int_group(num_bits: u8) -> QuantizationArgs {
    QuantizationArgs { group_size: Some(128), ..int(num_bits, Strategy::Group) }
}

fn int_token(num_bits: u8) -> QuantizationArgs {
    dynamic(int(num_bits, Strategy::Token))
}

fn float(num_bits: u8, strategy: Strategy) -> QuantizationArgs {
    QuantizationArgs { r#type: NumberType::Float, ..int(num_bits, strategy) }
}

fn mx(num_bits: u8) -> QuantizationArgs {
    QuantizationArgs { group_size: Some(32), scale_dtype: Some(ScaleDtype::E8M0), ..float(num_bits, Strategy::Group) }
}

fn nvfp4() -> QuantizationArgs {
    QuantizationArgs { group_size: Some(16), scale_dtype: Some(ScaleDtype::F8E4M3), ..float(4, Strategy::TensorGroup) }
}

fn dynamic(args: QuantizationArgs) -> QuantizationArgs {
    QuantizationArgs { dynamic: Dynamic::Yes, ..args }
}
