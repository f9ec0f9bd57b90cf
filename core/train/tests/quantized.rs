//! Training on grids against PyTorch, and what is handed out against what was trained.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeMap;

use candle_core::Device;
use serde_json::{Value, json};
use workbench_model::decoder::{Decoder, Divergence, LossOptions, TrainableParams, WeightQuantizer, WeightScales};
use workbench_model::{ModelConfig, ModelError, WeightSource};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype};
use workbench_train::{
    AdamWConfig, Example, Grids, Loss, ScheduleKind, Student, Summary, Supervised, TrainConfig, train,
};

/// The model of `reference/qat.py`.
fn config() -> ModelConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 30, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false,
    });
    ModelConfig::from_json(&config, std::path::Path::new("config.json")).unwrap()
}

/// Its weights, by their formula.
struct Formula(BTreeMap<String, Vec<usize>>);

impl Formula {
    fn new(config: &ModelConfig) -> Self {
        Self(config.tensors().into_iter().map(|spec| (spec.name, spec.shape)).collect())
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

fn examples() -> Vec<Example> {
    let row = |i: u32| Example { ids: (0..12).map(|j| (i * 7 + j * (i + 1)) % 30).collect(), mask: vec![true; 12] };
    (0..4).map(row).collect()
}

fn grid(args: Value) -> Grid {
    let args: QuantizationArgs = serde_json::from_value(args).unwrap();
    Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap()
}

fn grids(config: &ModelConfig) -> Grids {
    let weight = grid(json!({ "num_bits": 4, "symmetric": false, "strategy": "group", "group_size": 8 }));
    let input = grid(json!({ "num_bits": 8, "symmetric": false, "strategy": "token", "dynamic": true }));
    let quantizer = WeightQuantizer { grid: weight, scales: WeightScales::Dynamic, stops_at_clipped: false };
    Grids {
        weights: config.linears().iter().map(|linear| (linear.weight(), quantizer.clone())).collect(),
        inputs: config.linears().into_iter().map(|linear| (linear.name, input.clone())).collect(),
        ..Grids::default()
    }
}

fn settings() -> TrainConfig {
    TrainConfig {
        learning_rate: 0.002,
        schedule: ScheduleKind::Constant,
        max_steps: Some(50),
        batch_size: 4,
        max_grad_norm: 0.0,
        optimizer: AdamWConfig { weight_decay: 0.1, eps: 1e-2, ..AdamWConfig::default() },
        ..TrainConfig::default()
    }
}

fn run(parameters: &TrainableParams, loss: Loss, options: LossOptions) -> (Summary, f64) {
    let config = config();
    let student = Student::on_grids(&config, parameters, grids(&config)).unwrap();
    let mut objective = Supervised::new(student, examples(), loss, options).unwrap();
    let summary = train(parameters, &mut objective, &settings(), None, &mut ()).unwrap();
    let end = objective.loss_on(&examples()).unwrap();
    (summary, end)
}

fn teacher() -> Loss {
    let config = config();
    let teacher = Decoder::load_for_scoring(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    Loss::Distillation { teacher: Box::new(teacher), divergence: Divergence::FORWARD }
}

#[test]
fn losses_are_those_of_pytorch() {
    let reference: Value = serde_json::from_str(include_str!("reference/qat.json")).unwrap();
    for (name, loss) in [("cross_entropy", Loss::CrossEntropy), ("distillation", teacher())] {
        let expected: Vec<f64> = serde_json::from_value(reference[name].clone()).unwrap();
        let parameters = TrainableParams::load(&config(), &Formula::new(&config()), &Device::Cpu).unwrap();
        let (summary, _) = run(&parameters, loss, LossOptions::default());
        assert_eq!(summary.losses.len(), expected.len());
        for (step, (found, expected)) in summary.losses.iter().zip(&expected).enumerate() {
            assert!((found - expected).abs() < 1e-3 * expected, "{name}, step {step}: {found} for {expected}");
        }
        let relative = (summary.losses[0] / expected[0] - 1.0).abs();
        assert!(relative < 1e-5, "{name}: begins at {} for {}", summary.losses[0], expected[0]);
    }
}

/// A model whose weights are the codes' numbers computes what the last step left behind, to the last bit.
#[test]
fn what_is_handed_out_is_what_was_trained() {
    let config = config();
    let parameters = TrainableParams::load(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    let options = LossOptions { gradient_checkpointing: true, chunk: 5 };
    let (checkpointed, end) = run(&parameters, teacher(), options);
    let plainly = TrainableParams::load(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    let (plain, other_end) = run(&plainly, teacher(), LossOptions { chunk: 5, ..LossOptions::default() });
    assert_eq!((checkpointed, end), (plain, other_end));

    let student = Student::on_grids(&config, &parameters, grids(&config)).unwrap();
    let deployed = TrainableParams::load(&config, &parameters, &Device::Cpu).unwrap();
    for linear in config.linears() {
        let made = student.quantized(&linear.weight()).unwrap();
        made.check().unwrap();
        deployed.set(&linear.weight(), made.dequantize().unwrap()).unwrap();
    }
    let of_inputs = Grids { weights: BTreeMap::new(), ..grids(&config) };
    let deployed = Student::on_grids(&config, &deployed, of_inputs).unwrap();
    let objective = Supervised::new(deployed, examples(), teacher(), options).unwrap();
    assert_eq!(objective.loss_on(&examples()).unwrap().to_bits(), end.to_bits());
}

#[test]
fn grids_of_what_is_not_there_are_refused() {
    let config = config();
    let parameters = TrainableParams::load(&config, &Formula::new(&config), &Device::Cpu).unwrap();
    let mut unknown = grids(&config);
    unknown.inputs.insert(
        "model.layers.9.mlp.up_proj".into(),
        grid(json!({ "num_bits": 8, "strategy": "token", "dynamic": true })),
    );
    let error = Student::on_grids(&config, &parameters, unknown).err().unwrap().to_string();
    assert!(error.contains("model.layers.9.mlp.up_proj"), "{error}");
    let mut fixed = grids(&config);
    fixed.kv_cache = Some(grid(json!({ "num_bits": 8, "strategy": "tensor", "dynamic": false })));
    assert!(Student::on_grids(&config, &parameters, fixed).err().unwrap().to_string().contains("calibrated"));
}
