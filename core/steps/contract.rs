//! What the contract with plugins says about a model, out of its layout.

use workbench_api::job::{Linear, Mapping, Pair, Role};
use workbench_model::{
    ModelConfig,
    arch::{self, PairKind, block_name},
};

/// The linears of a model's blocks, for a job.
pub(super) fn linears(config: &ModelConfig) -> Vec<Linear> {
    let all = config.linears().into_iter();
    all.map(|l| Linear {
        weight: l.weight(),
        site: Some(l.site.to_string()),
        role: Some(role(l.role)),
        module: l.name,
        ..Linear::default()
    })
    .collect()
}

/// A role in the words of the contract.
pub(super) fn role(role: arch::Role) -> Role {
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

/// The pairs of a model's blocks between which a scale can move, for a job.
pub(super) fn pairs(config: &ModelConfig) -> Vec<Pair> {
    let pair = |pair: arch::Pair| Pair {
        mapping: mapping(pair.kind),
        block: block_name(pair.block),
        source: pair.source,
        readers: pair.readers,
        site: pair.site.to_string(),
    };
    config.blocks().flat_map(|block| block.pairs()).map(pair).collect()
}

fn mapping(kind: PairKind) -> Mapping {
    match kind {
        PairKind::NormToQkv => Mapping::NormToQkv,
        PairKind::ValueToOutput => Mapping::ValueToOutput,
        PairKind::NormToGateUp => Mapping::NormToGateUp,
        PairKind::UpToDown => Mapping::UpToDown,
    }
}
