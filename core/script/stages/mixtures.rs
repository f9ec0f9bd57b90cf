//! What llm-compressor's recipes mean for a model: the defaults for mixtures of experts, and selectors that match nothing.

use serde_json::{Map, Value, json};
use workbench_model::{
    ModelConfig,
    arch::{EMBEDDINGS, LM_HEAD, PairKind, recipes},
};

use super::{Step, fields::texts, modifiers};
use crate::graph::{NodeKind, selector::Selector};

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
    // Its AWQ leaves an expert alone only where no token reaches it.
    let searches = step.kind == NodeKind::Transform && step.modifier == "AWQModifier";
    if all_experts && (step.kind == NodeKind::Quantize || searches) {
        options.insert("calibrate_all_experts".to_owned(), true.into());
    }
    if all_experts && step.kind == NodeKind::Quantize || searches {
        options.insert("min_expert_tokens".to_owned(), 0.into());
    }
    if step.modifier == "SmoothQuantModifier" && !options.contains_key("mappings") {
        let named = recipes::smoothed(config.architecture).into_iter().map(PairKind::name);
        options.insert("mappings".to_owned(), json!(named.collect::<Vec<_>>()));
    }
}

/// Takes the expressions of `ignore` that match no module out of the options of a modifier of that package, and says which: there they do
/// nothing, and published recipes name what some models of a family do not have.
pub(in crate::script) fn without_idle_ignores(
    step: &Step,
    config: &ModelConfig,
    options: &mut Map<String, Value>,
) -> Vec<String> {
    let Some(ignored) = options.get("ignore").and_then(texts).filter(|_| modifiers::is_of_package(step)) else {
        return Vec::new();
    };
    let routers = config.blocks().filter_map(|block| block.router).map(|router| router.name);
    let linears = config.linears().into_iter().map(|linear| linear.name);
    let known: Vec<String> = linears.chain(routers).chain([LM_HEAD, EMBEDDINGS].map(str::to_owned)).collect();
    // Those recipes write expressions: what has another form is somebody's own, and a mistake. One that cannot be read is left for whoever
    // reports it.
    let matches = |pattern: &String| {
        !pattern.starts_with("re:")
            || Selector::new(pattern).map_or(true, |selector| known.iter().any(|module| selector.matches(module)))
    };
    let (kept, idle): (Vec<String>, Vec<String>) = ignored.into_iter().partition(matches);
    if !idle.is_empty() {
        options.insert("ignore".to_owned(), kept.into());
    }
    idle
}
