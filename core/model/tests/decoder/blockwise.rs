//! Decoders whose blocks exist one at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result as CandleResult, Shape, Tensor};
use serde_json::json;
use workbench_model::config::Architecture;
use workbench_model::decoder::{
    Blockwise, Gradients, GridQuantizer, LossOptions, Stages, Targets, TensorSource, TrainableParams,
    loss_and_gradients,
};
use workbench_model::{Context, Decoder, ModelError};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype};

use crate::support::{Weights, random_ids, tiny};

/// Matrices twice as large as the variables: tensors that are made, and that a graph holds. It counts those that there are.
struct Doubled<'a> {
    parameters: &'a TrainableParams,
    alive: Arc<AtomicUsize>,
    most: AtomicUsize,
}

struct Double(Alive);

/// Counts itself.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl TensorSource for Doubled<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self.parameters.tensor(name, shape)?;
        if shape.len() < 2 || !name.contains("proj") {
            return Ok(tensor);
        }
        let alive = self.alive.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(alive, Ordering::Relaxed);
        Ok(tensor.apply_op1(Double(Alive(Arc::clone(&self.alive))))?)
    }
}

impl CustomOp1 for Double {
    fn name(&self) -> &'static str {
        "double"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        assert!(self.0.0.load(Ordering::Relaxed) > 0 && layout.is_contiguous());
        let values = x.as_slice::<f32>()?.iter().map(|x| 2.0 * x).collect();
        Ok((CpuStorage::F32(values), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, g: &Tensor) -> CandleResult<Option<Tensor>> {
        Ok(Some((g * 2.0)?))
    }
}

/// With gradient checkpointing no more than one block's tensors exist, forward and back; the loss and all gradients are those of the
/// decoder that is there as a whole, to the last bit.
#[test]
fn one_block_is_there_at_a_time() {
    let config = tiny(Architecture::Qwen3);
    let parameters = TrainableParams::load(&config, &Weights::random(&config, 3), &Device::Cpu).unwrap();
    let args: QuantizationArgs =
        serde_json::from_value(json!({"num_bits": 8, "strategy": "token", "dynamic": true})).unwrap();
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    let quantizer = |features| Arc::new(GridQuantizer::new(grid.clone(), None, features).unwrap());
    let source = Doubled { parameters: &parameters, alive: Arc::default(), most: AtomicUsize::new(0) };
    let down = |block: usize| format!("model.layers.{block}.mlp.down_proj");
    let mut blockwise = Blockwise::over(&config, &source, |index, block| {
        block.set_input_quantizer(&down(index), Some(quantizer(config.intermediate_size)))
    })
    .unwrap();
    blockwise.set_head_quantizer(Some(quantizer(config.hidden_size)));

    let rows: Vec<Vec<u32>> = (0..2).map(|seed| random_ids(&config, 11, seed)).collect();
    let ids = Tensor::from_vec(rows.concat(), (2, 11), &Device::Cpu).unwrap();
    let targets = Targets::next_token(&rows, &[vec![true; 11], vec![true; 11]]);
    let context = Context::full(2, 11, None);
    let run = |decoder: &dyn Stages, gradient_checkpointing| {
        let (mut found, options) = (Gradients::default(), LossOptions { gradient_checkpointing, chunk: 5 });
        let loss = loss_and_gradients(decoder, &parameters, &ids, &context, &targets, options, &mut found).unwrap();
        let gradients: Vec<_> =
            parameters.iter().map(|(n, _)| found.read(n, <[f32]>::to_vec).unwrap().unwrap()).collect();
        (loss.to_bits(), gradients)
    };
    let one_by_one = run(&blockwise, true);
    assert!(config.num_layers > 1);
    assert_eq!(source.most.load(Ordering::Relaxed), config.block(0).linears.len());
    assert_eq!(source.alive.load(Ordering::Relaxed), 0);

    let kept = run(&blockwise, false);
    assert_eq!(source.most.load(Ordering::Relaxed), config.linears().len());
    let mut whole = Decoder::over(&config, &source).unwrap();
    for index in 0..config.num_layers {
        whole.set_input_quantizer(&down(index), Some(quantizer(config.intermediate_size))).unwrap();
    }
    whole.set_input_quantizer("lm_head", Some(quantizer(config.hidden_size))).unwrap();
    let expected = run(&whole, false);
    assert!(one_by_one == expected && kept == expected && run(&whole, true) == expected);

    let doubled = blockwise.whole().unwrap().forward(&ids, &context).unwrap();
    let expected = whole.forward(&ids, &context).unwrap();
    let values = |logits: &Tensor| logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(values(&doubled), values(&expected));
}

#[test]
fn there_are_as_many_blocks_as_the_model_has() {
    let config = tiny(Architecture::Llama);
    let parameters = TrainableParams::load(&config, &Weights::random(&config, 3), &Device::Cpu).unwrap();
    let blockwise = Blockwise::over(&config, &parameters, |_, _| Ok(())).unwrap();
    let decoder = Decoder::over(&config, &parameters).unwrap();
    for stages in [&blockwise as &dyn Stages, &decoder] {
        assert_eq!(stages.blocks(), config.num_layers);
        let told = stages.block(config.num_layers).err().unwrap().to_string();
        assert!(told.contains(&format!("has no block {}", config.num_layers)), "{told}");
    }
}
