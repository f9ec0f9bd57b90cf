//! What a plugin is told about its job: what the contract says about a model, out of its layout.

use workbench_api::job::{Linear, Mapping, Pair, Role};
use workbench_model::{
    ModelConfig,
    arch::{self, LinearInfo, PairKind, block_name},
};

/// A linear of a model, without grids.
pub(in crate::steps) fn linear(info: &LinearInfo, config: &ModelConfig) -> Linear {
    Linear {
        module: info.name.clone(),
        weight: config.weight_of(&info.name),
        bias: info.bias(),
        site: Some(info.site.to_string()),
        role: Some(role(info.role)),
        ..Linear::default()
    }
}

/// The linears of a model's blocks.
pub(in crate::steps) fn linears(config: &ModelConfig) -> Vec<Linear> {
    config.linears().iter().map(|info| linear(info, config)).collect()
}

/// The pairs of a model's blocks between which a scale can move.
pub(in crate::steps) fn pairs(config: &ModelConfig) -> Vec<Pair> {
    let pair = |pair: arch::Pair| Pair {
        mapping: mapping(pair.kind),
        block: block_name(pair.block),
        source: pair.source,
        readers: pair.readers,
        site: pair.site.to_string(),
    };
    config.blocks().flat_map(|block| block.pairs()).map(pair).collect()
}

/// A role in the words of the contract.
fn role(role: arch::Role) -> Role {
    match role {
        arch::Role::Query => Role::Query,
        arch::Role::Key => Role::Key,
        arch::Role::Value => Role::Value,
        arch::Role::Output => Role::Output,
        arch::Role::Gate => Role::Gate,
        arch::Role::Up => Role::Up,
        arch::Role::Down => Role::Down,
        arch::Role::Head => Role::Head,
        arch::Role::Router => Role::Router,
    }
}

fn mapping(kind: PairKind) -> Mapping {
    match kind {
        PairKind::NormToQkv => Mapping::NormToQkv,
        PairKind::ValueToOutput => Mapping::ValueToOutput,
        PairKind::NormToGateUp => Mapping::NormToGateUp,
        PairKind::UpToDown => Mapping::UpToDown,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_bias_is_named_where_the_model_has_one() {
        let config = json!({
            "model_type": "qwen2", "vocab_size": 8, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 16, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
        });
        let config = ModelConfig::from_json(&config, Path::new("config.json")).unwrap();
        let tensors: Vec<String> = config.tensors().into_iter().map(|tensor| tensor.name).collect();
        let linears = linears(&config);
        assert_eq!(linears.len(), 7);
        for linear in &linears {
            let bias = format!("{}.bias", linear.module);
            assert_eq!(linear.bias.is_some(), tensors.contains(&bias), "{bias}");
            assert!(linear.bias.as_ref().is_none_or(|name| *name == bias) && tensors.contains(&linear.weight));
        }
        assert_eq!(linears.iter().filter(|linear| linear.bias.is_some()).count(), 3);
    }
}
