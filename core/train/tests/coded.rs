//! Training the scales of codes against PyTorch, and what is handed out against what was trained.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use workbench_model::decoder::{CodedWeight, Decoder, Divergence, LossOptions, TrainableParams};
use workbench_model::{ModelConfig, ModelError, WeightSource};
use workbench_quant::{Conventions, Grid, QuantParams, QuantizationArgs, QuantizedWeight, StorageDtype};
use workbench_train::{
    AdamWConfig, Example, Grids, Loss, Student, Summary, Supervised, TrainConfig, TrainError, train,
};

/// The model of `reference/e2e_qp.py`.
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
    fn new(config: &ModelConfig) -> Self {
        Self(config.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect())
    }

    fn index(&self, name: &str) -> usize {
        self.0.keys().position(|known| known == name).unwrap()
    }
}

impl WeightSource for Formula {
    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.get(name).cloned()
    }

    fn values(&self, name: &str) -> Result<Vec<f32>, ModelError> {
        let index = self.index(name) as f64;
        let base = if name.contains("norm") { 1.0 } else { 0.0 };
        let count: usize = self.0[name].iter().product();
        Ok((0..count).map(|i| (base + 0.1 * (0.7 + 1.3 * index + 0.37 * i as f64).sin()) as f32).collect())
    }
}

/// The codes of a weight, by theirs.
fn codes(index: usize, rows: usize, columns: usize) -> QuantizedWeight {
    let args = json!({ "num_bits": 3, "symmetric": false, "strategy": "group", "group_size": 8 });
    let args: QuantizationArgs = serde_json::from_value(args).unwrap();
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    let groups = rows * columns / 8;
    let parameters = QuantParams {
        scales: (0..groups).map(|g| (0.02 + 0.005 * ((g + index) as f64).sin()) as f32).collect(),
        zero_points: Some((0..groups).map(|g| ((g + index) % 3) as i32 - 1).collect()),
        global_scale: None,
        shape: [rows, columns / 8],
    };
    let codes = (0..rows * columns).map(|i| ((i * i / 3 + 5 * i + index) % 8) as i8 - 4).collect();
    QuantizedWeight { grid, shape: [rows, columns], codes, parameters }
}

fn examples() -> Vec<Example> {
    let row = |i: u32| Example { ids: (0..12).map(|j| (i * 7 + j * (i + 1)) % 30).collect(), mask: vec![true; 12] };
    (0..4).map(row).collect()
}

/// The variables and codes that training starts at.
fn start(config: &ModelConfig) -> (TrainableParams, Grids) {
    let formula = Formula::new(config);
    let weights: Vec<String> = config.linears().iter().map(|linear| linear.weight()).collect();
    let mut parameters =
        TrainableParams::load_where(config, &formula, &Device::Cpu, |name| !weights.iter().any(|w| w == name)).unwrap();
    let kept: Vec<String> = parameters.iter().map(|(name, _)| name.to_owned()).collect();
    parameters.freeze(kept.iter().map(String::as_str)).unwrap();
    let mut grids = Grids::default();
    for linear in config.linears() {
        let start = codes(formula.index(&linear.weight()), linear.out_features, linear.in_features);
        let scales = format!("{}.weight_scale", linear.name);
        let values = Tensor::from_slice(&start.parameters.scales, &start.parameters.shape, &Device::Cpu).unwrap();
        parameters.insert(&scales, &values).unwrap();
        grids.codes.insert(linear.weight(), CodedWeight { scales, start });
    }
    (parameters, grids)
}

fn settings() -> TrainConfig {
    TrainConfig {
        learning_rate: 0.002,
        warmup_ratio: 0.1,
        max_steps: Some(50),
        batch_size: 4,
        max_grad_norm: 0.3,
        optimizer: AdamWConfig { eps: 1e-3, ..AdamWConfig::default() },
        checkpoint_every: 7,
        ..TrainConfig::default()
    }
}

fn teacher() -> Loss {
    let config = config();
    let teacher = Decoder::load_for_scoring(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    Loss::Distillation { teacher: Box::new(teacher), divergence: Divergence::FORWARD }
}

/// A training that ends by itself or after a step; the scales that it leaves, and the loss of the model with them.
fn run(
    loss: Loss,
    options: LossOptions,
    folder: Option<&Path>,
    until: u64,
) -> Option<(Summary, Vec<f64>, Vec<QuantizedWeight>, f64)> {
    let config = config();
    let (parameters, grids) = start(&config);
    let before = grids.codes.clone();
    let student = Student::on_grids(&config, &parameters, grids).unwrap();
    let mut objective = Supervised::new(student, examples(), loss, options).unwrap();
    let mut norms = Vec::new();
    let mut observer = |report: &workbench_train::StepReport| {
        norms.push(report.gradient_norm);
        if report.step == until { Err(TrainError::Data("it was killed".into())) } else { Ok(()) }
    };
    let summary = train(&parameters, &mut objective, &settings(), folder, &mut observer).ok()?;
    let end = objective.loss_on(&examples()).unwrap();
    let made: Vec<QuantizedWeight> = before.keys().map(|name| objective.student().quantized(name).unwrap()).collect();
    for (made, CodedWeight { start, .. }) in made.iter().zip(before.values()) {
        assert!(made.codes == start.codes && made.parameters.zero_points == start.parameters.zero_points);
        assert!(made.parameters.scales != start.parameters.scales);
    }
    Some((summary, norms, made, end))
}

#[test]
fn losses_are_those_of_pytorch() {
    let reference: Value = serde_json::from_str(include_str!("reference/e2e_qp.json")).unwrap();
    for (name, loss) in [("cross_entropy", Loss::CrossEntropy), ("distillation", teacher())] {
        let expected = |what: &str| -> Vec<f64> { serde_json::from_value(reference[name][what].clone()).unwrap() };
        let (summary, norms, ..) = run(loss, LossOptions::default(), None, 0).unwrap();
        for (what, found) in [("losses", &summary.losses), ("norms", &norms)] {
            let expected = expected(what);
            assert_eq!(found.len(), expected.len());
            for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
                assert!(
                    (found - expected).abs() < 2e-4 * expected,
                    "{name}, {what} of step {step}: {found} for {expected}"
                );
            }
            let relative = (found[0] / expected[0] - 1.0).abs();
            assert!(relative < 1e-5, "{name}: {what} begin at {} for {}", found[0], expected[0]);
        }
        assert!(summary.losses[49] < 0.9 * summary.losses[0], "{name}");
    }
}

/// A model whose weights are the numbers of codes and scales computes what the last step left behind, to the last bit.
#[test]
fn what_is_handed_out_is_what_was_trained() {
    let config = config();
    let options = LossOptions { gradient_checkpointing: true, chunk: 5 };
    let checkpointed = run(teacher(), options, None, 0).unwrap();
    let plain = run(teacher(), LossOptions { chunk: 5, ..LossOptions::default() }, None, 0).unwrap();
    assert_eq!(checkpointed, plain);

    let deployed = TrainableParams::load(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    let (_, _, made, end) = plain;
    for weight in &made {
        weight.check().unwrap();
    }
    let mut names: Vec<String> = config.linears().iter().map(|linear| linear.weight()).collect();
    names.sort();
    for (name, weight) in names.iter().zip(&made) {
        deployed.set(name, weight.dequantize().unwrap()).unwrap();
    }
    let student = Student::plain(&config, &deployed).unwrap();
    let objective = Supervised::new(student, examples(), teacher(), options).unwrap();
    assert_eq!(objective.loss_on(&examples()).unwrap().to_bits(), end.to_bits());
}

/// A checkpoint holds what is trained: scales and their moments, and nothing of the codes.
#[test]
fn a_killed_training_ends_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let whole = run(Loss::CrossEntropy, LossOptions::default(), None, 0).unwrap();
    for until in [3, 16, 33] {
        assert!(run(Loss::CrossEntropy, LossOptions::default(), Some(folder.path()), until).is_none());
    }
    let scales: usize = config().linears().iter().map(|l| l.out_features * l.in_features / 8).sum();
    let step = folder.path().join("step-28");
    let size = std::fs::metadata(step.join("state.safetensors")).unwrap().len() as usize;
    assert!((3 * 4 * scales..3 * 4 * scales + 10_000).contains(&size), "{size} bytes for {scales} scales");
    let (summary, _, made, end) = run(Loss::CrossEntropy, LossOptions::default(), Some(folder.path()), 0).unwrap();
    assert_eq!(summary.resumed_at, 28);
    assert_eq!((summary.losses, made, end), (whole.0.losses, whole.2, whole.3));
}
