//! Models in which every token reaches every expert: few tokens are routed to few of them.

use std::collections::BTreeSet;

use workbench_model::{ModelConfig, ModelError, WeightSource, config::Experts};

use super::Side;

/// The same model with every token in every expert.
pub(super) fn in_every_expert(config: &ModelConfig) -> ModelConfig {
    let experts = config.experts.clone().map(|experts| Experts { per_token: experts.count, ..experts });
    ModelConfig { experts, ..config.clone() }
}

/// A model whose routers say nothing, so that every expert counts alike.
pub(super) struct Unrouted<'a> {
    source: &'a dyn WeightSource,
    routers: BTreeSet<String>,
}

impl<'a> Unrouted<'a> {
    pub(super) fn new((config, source): Side<'a>) -> Self {
        let routers = config.blocks().filter_map(|block| block.router);
        Self {
            source,
            routers: routers.flat_map(|router| router.tensors().collect::<Vec<_>>()).map(|t| t.name).collect(),
        }
    }
}

impl WeightSource for Unrouted<'_> {
    fn release_block(&self, index: usize) {
        self.source.release_block(index);
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.source.shape(name)
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let mut values = self.source.values(name)?;
        if self.routers.contains(name) {
            values.fill(0.0);
        }
        Ok(values)
    }

    fn rows(&self, name: &str, rows: &[u32]) -> Result<Vec<f32>, ModelError> {
        self.source.rows(name, rows)
    }

    fn stored_bf16(&self, name: &str) -> Result<Option<&[[u8; 2]]>, ModelError> {
        if self.routers.contains(name) { Ok(None) } else { self.source.stored_bf16(name) }
    }

    fn has_rows(&self, name: &str) -> bool {
        self.source.has_rows(name)
    }
}
