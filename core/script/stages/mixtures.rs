//! What llm-compressor does to mixtures of experts where a recipe says nothing.

use serde_json::{Map, Value, json};
use workbench_model::{
    ModelConfig,
    arch::{PairKind, recipes},
};

use super::{Step, modifiers};
use crate::graph::NodeKind;

/// Completes the options of a modifier of that package for such a model: `oneshot` shows every token to every expert unless told
/// otherwise (`moe_calibrate_all_experts`), rounds none to nearest, and what SmoothQuant smooths follows from the architecture.
pub(in crate::script) fn complete(
    step: &Step,
    config: &ModelConfig,
    all_experts: bool,
    options: &mut Map<String, Value>,
) {
    if config.experts.is_none() || !modifiers::is_of_package(step) {
        return;
    }
    if step.kind == NodeKind::Quantize && all_experts {
        options.insert("calibrate_all_experts".to_owned(), true.into());
        options.insert("min_expert_tokens".to_owned(), 0.into());
    }
    if step.modifier == "SmoothQuantModifier" && !options.contains_key("mappings") {
        let named = recipes::smoothed(config.architecture).into_iter().map(PairKind::name);
        options.insert("mappings".to_owned(), json!(named.collect::<Vec<_>>()));
    }
}
