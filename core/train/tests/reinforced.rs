//! A policy that is trained on what it writes, on tiny models.

#![allow(clippy::unwrap_used, reason = "a test may fail at any line")]

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Device;
use serde_json::json;
use workbench_model::decoder::{Decoder, Gradients, LossOptions, TrainableParams, WeightQuantizer, WeightScales};
use workbench_model::{ModelConfig, WeightSource};
use workbench_quant::{Conventions, Grid, QuantizationArgs, StorageDtype};
use workbench_train::{
    Correction, Grids, Judge, Judged, Objective, PolicyLoss, PolicyMean, RatioOf, Reinforced, RolloutConfig,
    ScaleRewards, ScheduleKind, Student, Summary, TrainConfig, TrainError, train,
};

/// The token that is rewarded.
const WANTED: u32 = 7;
/// The token that ends a completion.
const STOP: u32 = 3;

fn config() -> ModelConfig {
    let config = json!({
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": 20, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 4, "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "rope_theta": 1e4,
        "tie_word_embeddings": true, "hidden_act": "silu", "attention_bias": false,
    });
    ModelConfig::from_json(&config, Path::new("config.json")).unwrap()
}

fn weights(seed: u64) -> TrainableParams {
    TrainableParams::random(&config(), 0.3, seed, &Device::Cpu).unwrap()
}

fn grids() -> Grids {
    let args: QuantizationArgs =
        serde_json::from_value(json!({ "num_bits": 4, "symmetric": true, "strategy": "group", "group_size": 8 }))
            .unwrap();
    let grid = Grid::new(&args, StorageDtype::F32, Conventions::default()).unwrap();
    let quantizer = WeightQuantizer { grid, scales: WeightScales::Dynamic, stops_at_clipped: false };
    let linears = config().linears();
    Grids { weights: linears.iter().map(|linear| (linear.weight(), quantizer.clone())).collect(), ..Grids::default() }
}

fn prompts() -> Vec<(usize, Vec<u32>)> {
    (0..5_usize).map(|i| (i, (0..2 + i as u32 % 3).map(|j| (5 * i as u32 + 2 * j) % 20).collect())).collect()
}

fn rollouts() -> RolloutConfig {
    RolloutConfig {
        generations: 6,
        longest: 6,
        stop_ids: vec![STOP],
        names: vec!["wanted".to_owned()],
        weights: vec![1.0],
        scale: ScaleRewards::Group,
        mask_truncated: false,
        seed: 11,
        iterations: 1,
    }
}

/// Rewards the share of the wanted token, and remembers everything.
#[derive(Default)]
struct Share {
    written: BTreeMap<usize, Vec<Vec<u32>>>,
    metrics: BTreeMap<String, Vec<(u64, f64)>>,
    /// What is rewarded instead.
    always: Option<f64>,
    /// Rewards completions whose tokens add up to an even number instead.
    even: bool,
    /// How many tokens of a completion count at most.
    most: Option<usize>,
}

impl Judge for &mut Share {
    fn judge(&mut self, prompt: usize, completions: &[Vec<u32>]) -> Result<Vec<Judged>, TrainError> {
        self.written.insert(prompt, completions.to_vec());
        let share = |ids: &Vec<u32>| {
            let wanted = ids.iter().filter(|id| **id == WANTED).count();
            let even = f64::from(ids.iter().sum::<u32>() % 2 == 0);
            let share = if self.even { even } else { wanted as f64 / ids.len().max(1) as f64 };
            self.always.unwrap_or(share)
        };
        let tokens = |ids: &Vec<u32>| self.most.map_or(ids.len(), |most| ids.len().min(most));
        Ok(completions
            .iter()
            .map(|ids| Judged { rewards: vec![share(ids)], tokens: tokens(ids), ended: tokens(ids) < ids.len() })
            .collect())
    }

    fn measured(&mut self, step: u64, name: &str, value: f64) {
        self.metrics.entry(name.to_owned()).or_default().push((step, value));
    }
}

impl Share {
    fn of(&self, metric: &str) -> Vec<f64> {
        self.metrics[metric].iter().map(|(_, value)| *value).collect()
    }
}

fn objective<'a, 'j>(
    parameters: &'a TrainableParams,
    grids: Grids,
    (rollouts, loss): (RolloutConfig, PolicyLoss),
    batch_size: usize,
    judge: &'j mut Share,
) -> Reinforced<'a, &'j mut Share> {
    let student = Student::on_grids(&config(), parameters, grids).unwrap();
    let reference = (loss.beta > 0.0).then(|| Decoder::load(&config(), &weights(5), &Device::Cpu).unwrap());
    let options = LossOptions { gradient_checkpointing: false, chunk: 7 };
    Reinforced::new(student, reference, prompts(), (rollouts, loss), (batch_size, options), judge).unwrap()
}

/// Loss and gradients of a step as it stands.
fn step(objective: &mut dyn Objective, step: u64, all: &[usize]) -> (f64, Gradients) {
    objective.prepare(step, all).unwrap();
    objective.begin_step().unwrap();
    let mut gradients = Gradients::default();
    let loss = objective.accumulate(all, all, &mut gradients).unwrap();
    (loss, gradients)
}

fn values(gradients: &Gradients) -> BTreeMap<String, Vec<f32>> {
    let all = gradients.iter().map(|(name, tensor)| (name.to_owned(), tensor.flatten_all().unwrap()));
    all.map(|(name, tensor)| (name, tensor.to_vec1().unwrap())).collect()
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
}

/// Along its own gradient, the loss of each parameter changes by the gradient's norm: in the second step on the same completions, when
/// ratios are no longer 1 and some are clipped.
#[test]
fn gradients_are_finite_differences_of_the_loss() {
    for (mean, ratio, correction) in [
        (PolicyMean::Dapo, RatioOf::Token, Correction::None),
        (PolicyMean::Grpo, RatioOf::Sequence, Correction::SequenceTruncate),
        (PolicyMean::DrGrpo, RatioOf::Token, Correction::TokenMask),
        (PolicyMean::Bnpo, RatioOf::Token, Correction::TokenTruncate),
    ] {
        let parameters = weights(4);
        let mut judge = Share { even: true, ..Share::default() };
        let loss = PolicyLoss {
            mean,
            ratio,
            correction,
            beta: 0.2,
            epsilon: 0.05,
            epsilon_high: 0.05,
            ..PolicyLoss::default()
        };
        let settings = (RolloutConfig { iterations: 2, ..rollouts() }, loss);
        let mut objective = objective(&parameters, Grids::default(), settings, 7, &mut judge);
        let all = [0, 2, 3];
        let (_, first) = step(&mut objective, 0, &all);
        let start: BTreeMap<String, Vec<f32>> =
            parameters.iter().map(|(name, _)| (name.to_owned(), parameters.values(name).unwrap())).collect();
        // Far enough that ratios leave their bounds.
        for (name, gradient) in values(&first) {
            let scale = 0.4 / norm(&gradient).max(1e-6) as f32;
            let moved = start[&name].iter().zip(&gradient).map(|(w, g)| w - scale * g).collect();
            parameters.set(&name, moved).unwrap();
        }
        let (_, gradients) = step(&mut objective, 1, &all);
        for (name, gradient) in values(&gradients) {
            let (here, size) = (parameters.values(&name).unwrap(), norm(&gradient));
            let mut at = |by: f64| {
                let unit = gradient.iter().map(|g| f64::from(*g) / size);
                let moved = here.iter().zip(unit).map(|(w, u)| (f64::from(*w) + by * u) as f32).collect();
                parameters.set(&name, moved).unwrap();
                step(&mut objective, 1, &all).0
            };
            let found = (at(4e-4) - at(-4e-4)) / 8e-4;
            parameters.set(&name, here).unwrap();
            assert!((found - size).abs() < 0.01 * size + 1e-4, "{mean:?} {name}: {found} for {size}");
        }
        drop(objective);
        assert!(judge.of("clipped")[1] > 0.0, "{mean:?}: {:?}", judge.metrics["clipped"]);
        assert!(judge.of("kl")[0] > 0.0);
        assert!(judge.of("largest_sampling_gap")[0] < 1e-4, "{:?}", judge.metrics["largest_sampling_gap"]);
    }
}

/// What is written for a prompt does not depend on the prompts beside it, and neither does the loss on the size of passes.
#[test]
fn completions_follow_from_seed_step_and_prompt() {
    let parameters = weights(4);
    let write = |number: u64, all: &[usize], seed: u64| {
        let mut judge = Share::default();
        let settings = (RolloutConfig { seed, ..rollouts() }, PolicyLoss::default());
        objective(&parameters, grids(), settings, 4, &mut judge).prepare(number, all).unwrap();
        judge.written
    };
    let together = write(2, &[0, 1, 4], 11);
    assert_eq!(together.len(), 3);
    for prompt in [0, 1, 4] {
        assert_eq!(write(2, &[prompt], 11)[&prompt], together[&prompt]);
        assert_eq!(together[&prompt].len(), 6);
    }
    assert_ne!(write(3, &[0], 11)[&0], together[&0]);
    assert_ne!(write(2, &[0], 12)[&0], together[&0]);

    let of_size = |batch_size: usize| {
        let mut judge = Share::default();
        let settings = (rollouts(), PolicyLoss { mean: PolicyMean::Grpo, ..PolicyLoss::default() });
        let (loss, gradients) =
            step(&mut objective(&parameters, grids(), settings, batch_size, &mut judge), 0, &[0, 1]);
        (loss, values(&gradients))
    };
    let (whole, gradients) = of_size(100);
    let (cut, in_passes) = of_size(5);
    assert!((whole - cut).abs() < 1e-6, "{whole} {cut}");
    for (name, gradient) in &gradients {
        let far = gradient.iter().zip(&in_passes[name]).map(|(a, b)| a - b).collect::<Vec<_>>();
        assert!(norm(&far) < 1e-4 * norm(gradient) + 1e-7, "{name}");
    }
}

#[test]
fn equal_rewards_move_nothing_and_are_counted() {
    let parameters = weights(4);
    let mut judge = Share { always: Some(0.3), ..Share::default() };
    let mut objective = objective(&parameters, Grids::default(), (rollouts(), PolicyLoss::default()), 8, &mut judge);
    let (loss, gradients) = step(&mut objective, 0, &[0, 1, 2]);
    assert_eq!(loss, 0.0);
    assert!(values(&gradients).values().all(|gradient| norm(gradient) == 0.0));
    assert_eq!((judge.of("equal_groups"), judge.of("reward_std")), (vec![1.0], vec![0.0]));
    assert!((judge.of("reward")[0] - 0.3).abs() < 1e-12 && (judge.of("reward/wanted")[0] - 0.3).abs() < 1e-12);
}

/// Tokens behind those that count are forgotten, and a completion that was cut is none that ran out of room.
#[test]
fn completions_are_cut_where_the_judge_says() {
    let parameters = weights(4);
    let run = |most: Option<usize>, mask_truncated: bool| {
        let mut judge = Share { most, even: true, ..Share::default() };
        let settings = (RolloutConfig { mask_truncated, ..rollouts() }, PolicyLoss::default());
        let (loss, _) = step(&mut objective(&parameters, grids(), settings, 8, &mut judge), 0, &[0, 1, 2]);
        (loss, judge)
    };
    let (whole, judge) = run(None, false);
    let written: Vec<&Vec<u32>> = judge.written.values().flatten().collect();
    let full = written.iter().filter(|ids| ids.len() == 6).count();
    // The token that ends a completion is drawn too.
    let drawn: usize = written.iter().map(|ids| ids.len() + usize::from(ids.len() < 6)).sum();
    assert!(full > 0 && full < written.len(), "{full} of {}", written.len());
    assert!((judge.of("truncated")[0] - full as f64 / written.len() as f64).abs() < 1e-12);
    assert!((judge.of("completion_tokens")[0] - drawn as f64 / written.len() as f64).abs() < 1e-12);
    let empty = written.iter().filter(|ids| ids.is_empty()).count();
    assert!((judge.of("empty")[0] - empty as f64 / written.len() as f64).abs() < 1e-12);
    let (cut, judge) = run(Some(2), false);
    // Two tokens that count may still be ended by one that was drawn.
    assert!(judge.of("truncated")[0] == 0.0 && judge.of("completion_tokens")[0] <= 3.0);
    let (masked, _) = run(None, true);
    assert!(whole != cut && whole != masked, "{whole} {cut} {masked}");
}

fn settings(iterations: u64) -> TrainConfig {
    TrainConfig {
        learning_rate: 0.01,
        schedule: ScheduleKind::Constant,
        max_steps: Some(12),
        batch_size: 3,
        steps_per_batch: iterations,
        checkpoint_every: 4,
        seed: 2,
        ..TrainConfig::default()
    }
}

fn run(
    parameters: &TrainableParams,
    grids: Grids,
    (iterations, steps): (u64, u64),
    folder: Option<&Path>,
    stop_at: Option<u64>,
) -> (Result<Summary, TrainError>, Share) {
    let mut judge = Share::default();
    let rollouts = RolloutConfig { iterations, ..rollouts() };
    let mut objective = objective(parameters, grids, (rollouts, PolicyLoss::default()), 8, &mut judge);
    let config = TrainConfig { max_steps: Some(steps), ..settings(iterations) };
    let mut observer = |report: &workbench_train::StepReport| match stop_at {
        Some(step) if report.step == step => Err(TrainError::Stopped),
        _ => Ok(()),
    };
    let summary = train(parameters, &mut objective, &config, folder, &mut observer);
    drop(objective);
    (summary, judge)
}

/// In full precision and on a grid: what is rewarded becomes more frequent.
#[test]
fn rewards_rise() {
    for grids in [Grids::default(), grids()] {
        let parameters = weights(4);
        let (summary, judge) = run(&parameters, grids, (1, 60), None, None);
        assert_eq!(summary.unwrap().losses.len(), 60);
        let rewards = judge.of("reward");
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let (before, after) = (mean(&rewards[..5]), mean(&rewards[55..]));
        assert!(before < 0.3 && after > 0.8, "{before} before, {after} after");
    }
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let bits = |parameters: &TrainableParams| -> Vec<(String, Vec<u32>)> {
        let bits = |name: &str| parameters.values(name).unwrap().iter().map(|x| x.to_bits()).collect();
        parameters.iter().map(|(name, _)| (name.to_owned(), bits(name))).collect()
    };
    for iterations in [1, 2] {
        let whole = weights(4);
        let (expected, judge) = run(&whole, grids(), (iterations, 12), None, None);
        let rollouts = judge.metrics["reward"].len() as u64;
        assert_eq!(rollouts, 12 / iterations);
        let folder = tempfile::tempdir().unwrap();
        let cut = weights(4);
        let (stopped, _) = run(&cut, grids(), (iterations, 12), Some(folder.path()), Some(6));
        assert!(matches!(stopped, Err(TrainError::Stopped)));
        let again = weights(4);
        let (summary, _) = run(&again, grids(), (iterations, 12), Some(folder.path()), None);
        let (summary, expected) = (summary.unwrap(), expected.unwrap());
        assert_eq!((summary.losses, summary.resumed_at), (expected.losses, 6));
        assert_eq!(bits(&again), bits(&whole));
    }
}

#[test]
fn what_cannot_be_trained_says_why() {
    let parameters = weights(4);
    let make = |rollouts: RolloutConfig, prompts: Vec<(usize, Vec<u32>)>, loss: PolicyLoss| {
        let student = Student::plain(&config(), &parameters).unwrap();
        let judge = &mut Share::default();
        let made = Reinforced::new(student, None, prompts, (rollouts, loss), (8, LossOptions::default()), judge);
        made.map(|_| ()).unwrap_err().to_string()
    };
    let loss = PolicyLoss::default();
    assert!(make(RolloutConfig { generations: 1, ..rollouts() }, prompts(), loss).contains("`num_generations`"));
    assert!(
        make(RolloutConfig { weights: vec![1.0; 2], ..rollouts() }, prompts(), loss).contains("are 2, and there are 1")
    );
    assert!(
        make(RolloutConfig { longest: 63, ..rollouts() }, prompts(), loss).contains("do not fit into 64 positions")
    );
    assert!(make(rollouts(), vec![(3, vec![])], loss).contains("prompt 3 is empty"));
    assert!(make(rollouts(), vec![(3, vec![20])], loss).contains("outside of the vocabulary of 20"));
    assert!(make(rollouts(), prompts(), PolicyLoss { beta: 0.1, ..loss }).contains("`beta`"));

    let mut judge = Share { always: Some(f64::NAN), ..Share::default() };
    let error =
        objective(&parameters, Grids::default(), (rollouts(), loss), 8, &mut judge).prepare(0, &[1]).unwrap_err();
    assert!(error.to_string().contains("prompt 1: the reward `wanted` of completion 0 is NaN"), "{error}");
}
