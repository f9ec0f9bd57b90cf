//! Rotations that the forward pass carries out: what they change, and what they leave alone.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use workbench_model::config::{Architecture, OnlineRotations};
use workbench_model::{Context, Decoder, ModelConfig, ModelError, Site, SiteKind};
use workbench_rotation::Hadamard;

use crate::support::{Weights, distance, flat, random_ids, row, tiny};

const ROTATED: OnlineRotations = OnlineRotations { heads: Some(8), down: Some(44) };

/// Logits, and what passes the sites of the first block.
fn observed(config: &ModelConfig, weights: &Weights) -> (Vec<f32>, BTreeMap<SiteKind, Vec<f32>>) {
    let ids = random_ids(config, 21, 4);
    let decoder = Decoder::load(config, weights, &Device::Cpu).unwrap();
    let mut seen = BTreeMap::new();
    let mut tap = |site: Site, x: &Tensor| -> Result<(), ModelError> {
        if site.block == Some(0) {
            seen.insert(site.kind, flat(x));
        }
        Ok(())
    };
    let logits = decoder.forward_tapped(&row(&ids), &Context::full(1, 21, None), &mut tap).unwrap();
    (flat(&logits), seen)
}

#[test]
fn sites_are_seen_behind_their_rotation() {
    let config = tiny(Architecture::Qwen3);
    let weights = Weights::random(&config, 60);
    let (_, plain) = observed(&config, &weights);
    let (_, rotated) = observed(&ModelConfig { online: ROTATED, ..config }, &weights);
    for (kind, size) in [(SiteKind::Query, 8), (SiteKind::Key, 8), (SiteKind::DownInput, 44)] {
        let mut expected = plain[&kind].clone();
        Hadamard::new(size).unwrap().rotate(&mut expected);
        assert!(distance(&rotated[&kind], &expected) < 1e-5, "{kind:?}");
        assert!(distance(&rotated[&kind], &plain[&kind]) > 0.1, "{kind:?} is not rotated");
    }
    for kind in [SiteKind::AttentionInput, SiteKind::Value, SiteKind::OutputInput, SiteKind::MlpInput] {
        assert!(distance(&rotated[&kind], &plain[&kind]) < 1e-5, "{kind:?}");
    }
}

#[test]
fn the_inverse_in_the_weight_keeps_the_function() {
    let config = tiny(Architecture::Qwen3);
    let mut weights = Weights::random(&config, 61);
    let (plain, _) = observed(&config, &weights);
    let rotated = ModelConfig { online: ROTATED, ..config.clone() };
    assert!(distance(&observed(&rotated, &weights).0, &plain) > 1e-2);
    for layer in 0..config.num_layers {
        let down = weights.0.get_mut(&format!("model.layers.{layer}.mlp.down_proj.weight")).unwrap();
        Hadamard::new(44).unwrap().rotate(&mut down.1);
    }
    assert!(distance(&observed(&rotated, &weights).0, &plain) < 1e-5);
}
