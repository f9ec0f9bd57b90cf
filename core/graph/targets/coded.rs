//! The schemes that a model of codes has: what a script would have to ask for to make it.

use workbench_model::{
    Checkpoint,
    arch::{EMBEDDINGS, LM_HEAD},
};
use workbench_quant::{Grid, Scheme};

use crate::{
    error::Result,
    graph::params::{Group, GroupScheme, KvCache},
};

/// Which modules have which scheme, and how keys and values are rounded. Empty where weights are numbers.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schemes {
    pub groups: Vec<Group>,
    pub kv_cache: Option<KvCache>,
}

impl Schemes {
    /// Those of a stored model.
    ///
    /// # Errors
    /// A static scale is damaged.
    pub fn of(checkpoint: &Checkpoint) -> Result<Self> {
        let mut schemes = Self::default();
        let linears = checkpoint.config().linears().into_iter().map(|linear| linear.name);
        for module in linears.chain([LM_HEAD, EMBEDDINGS].map(str::to_owned)) {
            let Some(weights) = checkpoint.weight_grid(&module) else { continue };
            let inputs = checkpoint.input_quantizer(&module)?.map(|input| input.grid);
            schemes.add(module, weights, inputs.as_ref());
        }
        // All blocks have the same, as the format has one place for it.
        let cache = if checkpoint.config().num_layers > 0 { checkpoint.kv_quantizer(0)? } else { None };
        schemes.kv_cache =
            cache.map(|cache| KvCache { args: cache.grid.args().clone(), conventions: *cache.grid.conventions() });
        Ok(schemes)
    }

    fn add(&mut self, module: String, weights: &Grid, inputs: Option<&Grid>) {
        let args = Scheme {
            weights: Some(weights.args().clone()),
            input_activations: inputs.map(|grid| grid.args().clone()),
            ..Scheme::default()
        };
        let scheme = GroupScheme { args, conventions: *weights.conventions() };
        match self.groups.iter_mut().find(|group| group.scheme == scheme) {
            Some(group) => group.modules.push(module),
            None => self.groups.push(Group { modules: vec![module], scheme }),
        }
    }
}
