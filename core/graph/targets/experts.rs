//! What transformers makes of the experts of a quantized folder.
//!
//! transformers 5.17 holds the experts of a block in one tensor. It builds that from codes of one scheme for all of them
//! (`integrations/compressed_tensors.py`, `DecompressExperts`); where it cannot, it begins with random experts and says so in a table
//! of its loader alone.

use std::collections::BTreeMap;

use workbench_model::ModelConfig;
use workbench_quant::{NumberType, QuantizationArgs, preset};

use crate::graph::params::GroupScheme;

/// A sentence for a choice of schemes whose folder transformers opens with other experts than those of the model; `schemes` holds the
/// quantized linears alone.
pub fn unread(config: &ModelConfig, schemes: &BTreeMap<&str, &GroupScheme>) -> Option<String> {
    let experts: Vec<_> = config.linears().into_iter().filter(|linear| linear.site.expert.is_some()).collect();
    let chosen: Vec<_> = experts.iter().map(|linear| schemes.get(linear.name.as_str())).collect();
    let quantized = chosen.iter().flatten().count();
    let one_scheme = chosen.windows(2).all(|pair| pair[0] == pair[1]);
    let how = if config.publishes_coded_experts() {
        let published = preset("MXFP4A16").and_then(|scheme| scheme.weights);
        let as_published =
            |scheme: &GroupScheme| scheme.args.weights == published && scheme.args.input_activations.is_none();
        let coded = quantized == schemes.len() && chosen.iter().all(|scheme| scheme.is_some_and(|s| as_published(s)));
        (quantized > 0 && !coded).then_some(
            "of this family it reads quantized experts where they alone are quantized, as MXFP4_MLP_WEIGHT_ONLY does",
        )
    } else {
        // Beside FP8 it takes weights without scales as they are.
        let is_fp8 = |args: &QuantizationArgs| args.r#type == NumberType::Float && args.num_bits == 8;
        let fp8 = schemes.values().all(|scheme| scheme.args.weights.as_ref().is_some_and(is_fp8));
        (!experts.is_empty() && !schemes.is_empty() && (!one_scheme || quantized == 0 && !fp8))
            .then_some("it reads them where all experts have one scheme")
    }?;
    Some(format!("transformers 5.17 opens this folder with random experts: {how}"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::{Value, json};
    use workbench_quant::Conventions;

    use super::*;

    fn config(class: &str, kind: &str, own: &Value) -> ModelConfig {
        let mut value = json!({
            "architectures": [class], "model_type": kind, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 40,
            "max_position_embeddings": 64, "num_experts_per_tok": 2,
        });
        value.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        ModelConfig::from_json(&value, Path::new("config.json")).unwrap()
    }

    fn found(config: &ModelConfig, scheme: impl Fn(&str) -> Option<&'static str>) -> bool {
        let read = |name: &str| GroupScheme { args: preset(name).unwrap(), conventions: Conventions::default() };
        let linears = config.linears();
        let chosen: Vec<(&str, GroupScheme)> =
            linears.iter().filter_map(|linear| Some((linear.name.as_str(), read(scheme(&linear.name)?)))).collect();
        unread(config, &chosen.iter().map(|(name, scheme)| (*name, scheme)).collect()).is_some()
    }

    /// Folders of a small Qwen3-MoE, opened in transformers 5.17: the losses of those without a sentence were ours.
    #[test]
    fn experts_of_several_schemes_are_named() {
        let qwen = config(
            "Qwen3MoeForCausalLM",
            "qwen3_moe",
            &json!({ "moe_intermediate_size": 24, "num_experts": 3, "norm_topk_prob": true }),
        );
        let is_expert = |name: &str| name.contains(".experts.");
        assert!(!found(&qwen, |_| Some("W4A16")));
        assert!(!found(&qwen, |name| is_expert(name).then_some("W4A16")));
        assert!(!found(&qwen, |name| Some(if is_expert(name) { "W4A16" } else { "W8A16" })));
        assert!(!found(&qwen, |_| None));
        assert!(found(&qwen, |name| (!is_expert(name)).then_some("W4A16")));
        assert!(!found(&qwen, |name| (!is_expert(name)).then_some("FP8_DYNAMIC")));
        assert!(found(&qwen, |name| name.contains(".experts.1.").then_some("W4A16")));
        assert!(found(&qwen, |name| Some(if name.contains(".experts.1.") { "W8A16" } else { "W4A16" })));
        let dense = config("Qwen3ForCausalLM", "qwen3", &json!({}));
        assert!(!found(&dense, |name| name.contains("layers.1").then_some("W4A16")));
    }

    #[test]
    fn experts_of_gpt_oss_are_read_as_published() {
        let own = json!({
            "num_local_experts": 3, "sliding_window": 8,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        });
        let oss = config("GptOssForCausalLM", "gpt_oss", &own);
        let is_expert = |name: &str| name.contains(".experts.");
        assert!(!found(&oss, |name| is_expert(name).then_some("MXFP4A16")));
        assert!(!found(&oss, |name| (!is_expert(name)).then_some("W8A16")));
        assert!(found(&oss, |_| Some("MXFP4A16")));
        assert!(found(&oss, |name| is_expert(name).then_some("MXFP4")));
        assert!(found(&oss, |name| is_expert(name).then_some("W4A16")));
    }
}
