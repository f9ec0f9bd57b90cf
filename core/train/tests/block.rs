//! Training a block against PyTorch, and what is handed out against what was trained.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_model::decoder::{
    FakeQuantizedParams, LearnedRoundingParams, TensorSource, TrainableParams, WeightQuantizer, WeightScales,
};
use workbench_model::{Activations, Block, Context, ModelConfig, ModelError, Precision, WeightSource};
use workbench_quant::{Conventions, Grid, Matrix, QuantizationArgs, RangeConvention, StorageDtype};
use workbench_train::{
    AdamWConfig, BlockData, BlockRegression, ParameterGroup, ScheduleKind, SignedConfig, SignedGroup, StudentBlock,
    Summary, TrainConfig, TrainError, descend_by_signs, train,
};

/// The block of `reference/block.py`, and its sequences.
const BLOCK: usize = 1;
const LENS: [usize; 4] = [12, 9, 12, 7];
const STEPS: u64 = 30;

fn config() -> ModelConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 30, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false,
    });
    ModelConfig::from_json(&config, Path::new("config.json")).unwrap()
}

/// Its weights, by their formula.
struct Formula(BTreeMap<String, Vec<usize>>);

impl Formula {
    fn new() -> Self {
        Self(config().tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect())
    }
}

impl WeightSource for Formula {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).cloned()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let index = self.0.keys().position(|known| known == name).unwrap() as f64;
        let base = if name.contains("norm") { 1.0 } else { 0.0 };
        let count: usize = self.0[name].iter().product();
        Ok((0..count).map(|i| (base + 0.1 * (0.7 + 1.3 * index + 0.37 * i as f64).sin()) as f32).collect())
    }
}

fn hidden(sequence: usize, quantized: bool) -> Tensor {
    let value = |i: usize| {
        let full = 0.8 * (0.3 + 0.7 * sequence as f64 + 0.211 * i as f64).sin();
        let off = if quantized { 0.05 * (1.1 * i as f64 + sequence as f64).cos() } else { 0.0 };
        (full + off) as f32
    };
    let len = LENS[sequence];
    Tensor::from_vec((0..len * 16).map(value).collect::<Vec<_>>(), (1, len, 16), &Device::Cpu).unwrap()
}

fn data() -> BlockData {
    let original = Block::load(&config(), &Formula::new(), BLOCK, &Device::Cpu).unwrap();
    let shapes = LENS.map(|len| [1, len]);
    let mut kept = [(); 2].map(|()| Activations::in_memory(&shapes, 16, Precision::F32));
    for (sequence, len) in LENS.into_iter().enumerate() {
        let target = original.forward(&hidden(sequence, false), &Context::full(1, len, None), &mut ()).unwrap();
        kept[0].set(sequence, &hidden(sequence, true)).unwrap();
        kept[1].set(sequence, &target).unwrap();
    }
    let [inputs, targets] = kept;
    BlockData::new(inputs, targets).unwrap()
}

fn weights() -> TrainableParams {
    TrainableParams::load_block(&config(), &Formula::new(), BLOCK, &Device::Cpu).unwrap()
}

fn grid(symmetric: bool) -> Grid {
    let args = json!({ "num_bits": 3, "symmetric": symmetric, "strategy": "group", "group_size": 8 });
    let args: QuantizationArgs = serde_json::from_value(args).unwrap();
    // Of a symmetric grid of full range the largest magnitude lies between two codes, at a tie.
    let conventions = Conventions { range: RangeConvention::Restricted, ..Conventions::default() };
    Grid::new(&args, StorageDtype::F32, conventions).unwrap()
}

fn linears() -> Vec<String> {
    config().block(BLOCK).linears.iter().map(|linear| linear.weight()).collect()
}

/// Learned grids of three quarters of the range, whose variables join the weights.
fn quantizers(weights: &mut TrainableParams) -> BTreeMap<String, WeightQuantizer> {
    let mut all = BTreeMap::new();
    for weight in linears() {
        let (values, shape) = (weights.values(&weight).unwrap(), weights.shape(&weight).unwrap());
        let mut start = grid(false).parameters(Matrix::new(&values, shape[0], shape[1]).unwrap()).unwrap();
        start.scales.iter_mut().for_each(|scale| *scale *= 0.75);
        let points = start.zero_points.as_ref().unwrap().iter().map(|point| *point as f32).collect();
        let [name, point] = ["scale", "point"].map(|kind| format!("{weight}.{kind}"));
        for (name, values) in [(&name, start.scales.clone()), (&point, points)] {
            weights.insert(name, &Tensor::from_vec(values, &start.shape, &Device::Cpu).unwrap()).unwrap();
        }
        let scales = WeightScales::Learned { name, start, zero_points: Some(point), lsq_factor: false };
        all.insert(weight, WeightQuantizer { grid: grid(false), scales, stops_at_clipped: true });
    }
    all
}

fn settings() -> TrainConfig {
    let group = |pattern: &str, rate| ParameterGroup { pattern: pattern.to_owned(), rate, weight_decay: None };
    TrainConfig {
        learning_rate: 0.001,
        schedule: ScheduleKind::Cosine,
        least_rate: 0.05,
        max_steps: Some(STEPS),
        batch_size: 4,
        max_grad_norm: 0.0,
        optimizer: AdamWConfig { eps: 1e-6, ..AdamWConfig::default() },
        groups: vec![group("*.scale", 1.0), group("*.point", 100.0)],
        ..TrainConfig::default()
    }
}

fn reference(name: &str) -> (Vec<f64>, Value) {
    let mut all: Value = serde_json::from_str(include_str!("reference/block.json")).unwrap();
    let found = all[name].take();
    (serde_json::from_value(found["losses"].clone()).unwrap(), found)
}

/// Whether losses are those expected, the first ones to rounding and all within a share.
fn assert_follows(title: &str, found: &[f64], expected: &[f64], share: f64) {
    assert_eq!(found.len(), expected.len());
    for (step, (found, expected)) in found.iter().zip(expected).enumerate() {
        let share = if step == 0 { share.min(2e-5) } else { share };
        assert!((found / expected - 1.0).abs() < share, "{title}, step {step}: {found} for {expected}");
    }
}

#[test]
fn weights_and_grids_are_trained_as_pytorch_trains_them() {
    let (expected, told) = reference("trained");
    let data = data();
    let mut parts = Vec::new();
    // A step in one part and in several is the same step, as long as no zero-point stands at the end of its range: there each part holds
    // back by itself what would lead it on.
    for (batch_size, gradient_accumulation) in [(4, 1), (1, 4)] {
        let mut weights = weights();
        let source = quantizers(&mut weights);
        let source = FakeQuantizedParams::new(&weights, source).unwrap();
        let student = StudentBlock::new(&config(), BLOCK, &source, BTreeMap::new()).unwrap();
        let mut objective = BlockRegression::new(student, &weights, &data, 0).unwrap();
        let settings = TrainConfig { batch_size, gradient_accumulation, ..settings() };
        let begun = objective.training_loss().unwrap();
        let summary = train(&weights, &mut objective, &settings, None, &mut ()).unwrap();
        parts.push(summary.losses.clone());
        if gradient_accumulation > 1 {
            break;
        }
        assert_follows("trained", &summary.losses, &expected, 1e-5);
        assert!((begun / summary.losses[0] - 1.0).abs() < 1e-6, "padding counts: {begun} {}", summary.losses[0]);
        let end = objective.training_loss().unwrap();
        assert!((end / told["end"].as_f64().unwrap() - 1.0).abs() < 1e-5, "{end} for {}", told["end"]);
        let moved: usize = linears()
            .iter()
            .map(|weight| {
                let made = source.quantized(weight).unwrap();
                made.check().unwrap();
                let own = Formula::new().values(weight).unwrap();
                let start = grid(false).parameters(Matrix::new(&own, made.shape[0], made.shape[1]).unwrap()).unwrap();
                let points = made.parameters.zero_points.unwrap();
                points.iter().zip(start.zero_points.unwrap()).filter(|(a, b)| *a != b).count()
            })
            .sum();
        let expected = told["moved_zero_points"].as_u64().unwrap() as usize;
        assert!(expected > 0 && moved.abs_diff(expected) <= 1, "{moved} zero-points moved for {expected}");
    }
    assert_follows("in parts", &parts[1][..10], &parts[0][..10], 1e-5);
}

fn signs(steps: u64, keep_best: bool) -> SignedConfig {
    let group =
        |pattern: &str, bounds| SignedGroup { pattern: pattern.to_owned(), learning_rate: 1.0 / STEPS as f64, bounds };
    let groups = vec![group("*.rounding", [-0.5, 0.5]), group("*_share", [0.0, 1.0])];
    SignedConfig { groups, steps, batch_size: 4, keep_best, seed: 0 }
}

fn learned(grid: &Grid, config: &SignedConfig) -> (LearnedRoundingParams, Summary, f64) {
    let grids = linears().into_iter().map(|weight| (weight, grid.clone())).collect();
    let (source, data) = (LearnedRoundingParams::new(weights(), grids).unwrap(), data());
    let student = StudentBlock::new(&self::config(), BLOCK, &source, BTreeMap::new()).unwrap();
    let mut objective = BlockRegression::new(student, source.parameters(), &data, 0).unwrap();
    let summary = descend_by_signs(source.parameters(), &mut objective, config, &mut ()).unwrap();
    let end = objective.training_loss().unwrap();
    drop(objective);
    (source, summary, end)
}

#[test]
fn rounding_is_learned_as_pytorch_learns_it() {
    for (name, symmetric) in [("rounded_asymmetric", false), ("rounded_symmetric", true)] {
        let (expected, _) = reference(name);
        let (source, summary, end) = learned(&grid(symmetric), &signs(STEPS, false));
        // A gradient next to zero has the sign of its noise.
        assert_follows(name, &summary.losses, &expected, 2e-2);
        assert!((end / summary.losses[29] - 1.0).abs() < 1e-6, "the last step is behind the last measurement");
        let (best, kept, end) = learned(&grid(symmetric), &signs(STEPS, true));
        assert_eq!(kept.losses, summary.losses);
        let least = kept.losses.iter().copied().fold(f64::INFINITY, f64::min);
        assert!((end / least - 1.0).abs() < 1e-6 && kept.kept.unwrap().1 == least, "{end} for {least}");
        assert!(least < 0.9 * summary.losses[0]);
        for weight in linears() {
            [&source, &best].iter().for_each(|source| source.quantized(&weight).unwrap().check().unwrap());
        }
    }
}

/// What is handed out, read as plain weights, computes what the last measurement computed.
#[test]
fn codes_are_what_was_multiplied() {
    let (source, ..) = learned(&grid(false), &signs(12, true));
    let mut weights = weights();
    let quantizers = quantizers(&mut weights);
    let trained = FakeQuantizedParams::new(&weights, quantizers).unwrap();
    for weight in linears() {
        let shape = weights.shape(&weight).unwrap();
        let numbers = |source: &dyn TensorSource| {
            source.tensor(&weight, &shape).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        assert_eq!(source.quantized(&weight).unwrap().dequantize().unwrap(), numbers(&source), "{weight}");
        assert_eq!(trained.quantized(&weight).unwrap().dequantize().unwrap(), numbers(&trained), "{weight}");
    }
}

#[test]
fn without_a_step_rounding_is_to_nearest() {
    for grid in [grid(true), grid(false)] {
        let (source, ..) = learned(&grid, &signs(1, true));
        for weight in linears() {
            let (values, made) = (Formula::new().values(&weight).unwrap(), source.quantized(&weight).unwrap());
            let matrix = Matrix::new(&values, made.shape[0], made.shape[1]).unwrap();
            let (codes, parameters) = grid.round_to_nearest(matrix).unwrap();
            assert_eq!((made.codes, made.parameters), (codes, parameters), "{weight}");
        }
    }
}

#[test]
fn a_loss_that_is_no_number_names_its_step() {
    let data = data();
    let mut weights = weights();
    let source = quantizers(&mut weights);
    let source = FakeQuantizedParams::new(&weights, source).unwrap();
    let student = StudentBlock::new(&config(), BLOCK, &source, BTreeMap::new()).unwrap();
    let mut objective = BlockRegression::new(student, &weights, &data, 1).unwrap();
    assert!(objective.validation_loss().unwrap().unwrap() > 0.0);
    let norm = config().block(BLOCK).norms().next().unwrap().name;
    weights.update(&norm, |values| values[0] = f32::NAN).unwrap();
    let error = train(&weights, &mut objective, &settings(), None, &mut ()).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }), "{error}");
    let student = StudentBlock::new(&config(), BLOCK, &source, BTreeMap::new()).unwrap();
    let error = BlockRegression::new(student, &weights, &data, 4).err().unwrap().to_string();
    assert!(error.contains("validation_sequences"), "{error}");
}
