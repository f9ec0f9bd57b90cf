//! How the recipes of llm-compressor name the layers of these families.

use super::names::{ATTENTION, ATTENTION_NORM, DOWN, GATE, K, LM_HEAD, MLP_NORM, ModuleName, O, Q, UP, V};
use super::{Architecture, PairKind};

/// The pair that a recipe means by the ends of its layers' names; `readers` are in the order of the alphabet.
pub fn pair(source: &str, readers: &[&str]) -> Option<PairKind> {
    let known: [(PairKind, &str, &[&str]); 4] = [
        (PairKind::NormToQkv, ATTENTION_NORM, &[K, Q, V]),
        (PairKind::NormToGateUp, MLP_NORM, &[GATE, UP]),
        (PairKind::ValueToOutput, V, &[O]),
        (PairKind::UpToDown, UP, &[DOWN]),
    ];
    known.into_iter().find(|(_, from, to)| *from == source && *to == readers).map(|(kind, ..)| kind)
}

/// The pairs that `SmoothQuantModifier` smooths in a family where a recipe names none: in Qwen3-MoE attention alone, as one scale for all
/// experts would put them out of balance (llm-compressor 0.14, `QWEN_MOE_SMOOTHQUANT_MAPPINGS`).
pub fn smoothed(architecture: Architecture) -> Vec<PairKind> {
    match architecture {
        Architecture::Qwen3Moe => vec![PairKind::NormToQkv],
        _ => vec![PairKind::NormToQkv, PairKind::NormToGateUp],
    }
}

/// Where a rotation of SpinQuant acts: the ends of the modules' names, the location as its package spells it, and whether it is
/// the inverse there. `None` for an unknown rotation.
pub fn rotation(name: &str) -> Option<Vec<(Vec<&'static str>, &'static str, bool)>> {
    let places: &[(&[&'static str], &'static str, bool)] = match name {
        "R1" => &[
            (&[ModuleName::Embeddings.spelled(), O, DOWN], "weight_output", false),
            (&[Q, K, V, UP, GATE, LM_HEAD], "weight_input", true),
        ],
        "R2" => &[(&[V], "weight_output", false), (&[O], "weight_input", true)],
        "R3" => &[(&[ATTENTION], "q_attn", false), (&[ATTENTION], "k_cache", false)],
        "R4" => &[(&[DOWN], "input", false), (&[DOWN], "weight_input", true)],
        _ => return None,
    };
    Some(places.iter().map(|(modules, location, inverse)| (modules.to_vec(), *location, *inverse)).collect())
}
