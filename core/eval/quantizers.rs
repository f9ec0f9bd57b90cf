//! What a checkpoint says about the rounding of activations, ready for use.

use std::{collections::BTreeMap, sync::Arc};

use workbench_model::{
    Block, Checkpoint, Decoder, ModelError, Site,
    checkpoint::InputQuantizer,
    decoder::{ActivationQuantizer, GridQuantizer, Head},
};

type Shared = Arc<dyn ActivationQuantizer>;

/// The quantizers of a checkpoint. Linears of one site with equal quantizers share one, so their input is quantized once.
#[derive(Default)]
pub(super) struct Quantizers {
    /// By the module that reads the input, with the block that it is in.
    inputs: BTreeMap<String, (Option<usize>, Shared)>,
    /// Of keys and values, by block.
    kv: BTreeMap<usize, [Shared; 2]>,
}

impl Quantizers {
    /// # Errors
    /// Static scales are damaged.
    pub(super) fn of(checkpoint: &Checkpoint) -> Result<Self, ModelError> {
        let config = checkpoint.config();
        let mut found = Self::default();
        let mut last: Option<(Site, InputQuantizer, Shared)> = None;
        for linear in config.linears().into_iter().chain([config.head()]) {
            let Some(input) = checkpoint.input_quantizer(&linear.name)? else { continue };
            let shared = match &last {
                Some((site, same, shared)) if *site == linear.site && *same == input => Arc::clone(shared),
                _ => quantizer(&input.grid, input.parameters.clone(), linear.in_features)?,
            };
            found.inputs.insert(linear.name, (linear.site.block, Arc::clone(&shared)));
            last = Some((linear.site, input, shared));
        }
        for block in 0..config.num_layers {
            let Some(kv) = checkpoint.kv_quantizer(block)? else { continue };
            let (grid, features) = (kv.grid.of_heads(config.head_dim), config.num_kv_heads * config.head_dim);
            found.kv.insert(block, [quantizer(&grid, kv.key, features)?, quantizer(&grid, kv.value, features)?]);
        }
        Ok(found)
    }

    /// Puts those of block `index` on it.
    pub(super) fn put_on_block(&self, index: usize, block: &mut Block) -> Result<(), ModelError> {
        for (module, (_, quantizer)) in self.inputs.iter().filter(|(_, (place, _))| *place == Some(index)) {
            block.set_input_quantizer(module, Some(Arc::clone(quantizer)))?;
        }
        if let Some([key, value]) = self.kv.get(&index) {
            block.set_kv_quantizers(Some(Arc::clone(key)), Some(Arc::clone(value)));
        }
        Ok(())
    }

    /// Puts that of `lm_head` on it.
    pub(super) fn put_on_head(&self, head: &mut Head) {
        let quantizer = self.inputs.values().find(|(place, _)| place.is_none());
        head.set_input_quantizer(quantizer.map(|(_, quantizer)| Arc::clone(quantizer)));
    }

    /// Puts all on a whole decoder.
    pub(super) fn put_on(&self, decoder: &mut Decoder) -> Result<(), ModelError> {
        for (module, (_, quantizer)) in &self.inputs {
            decoder.set_input_quantizer(module, Some(Arc::clone(quantizer)))?;
        }
        for (block, [key, value]) in &self.kv {
            decoder.set_kv_quantizers(*block, Some(Arc::clone(key)), Some(Arc::clone(value)))?;
        }
        Ok(())
    }
}

fn quantizer(
    grid: &workbench_quant::Grid,
    parameters: Option<workbench_quant::QuantParams>,
    features: usize,
) -> Result<Shared, ModelError> {
    Ok(Arc::new(GridQuantizer::new(grid.clone(), parameters, features)?))
}
