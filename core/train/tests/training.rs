//! The loop as trainers use it, on tiny models.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use candle_core::{Device, Tensor, Var};
use candle_nn::optim::{AdamW as Oracle, Optimizer, ParamsAdamW};
use workbench_model::config::{Architecture, RopeScaling};
use workbench_model::decoder::{Gradients, LossOptions, TrainableParams};
use workbench_model::{ModelConfig, WeightSource};
use workbench_train::{
    AdamW, AdamWConfig, Example, Objective, ParameterGroup, ScheduleKind, StepReport, Summary, Supervised, TrainConfig,
    TrainError, global_norm, train,
};

fn config() -> ModelConfig {
    ModelConfig {
        architecture: Architecture::Qwen3,
        vocab_size: 30,
        hidden_size: 16,
        intermediate_size: 32,
        num_layers: 2,
        num_heads: 4,
        num_kv_heads: 2,
        head_dim: 4,
        max_positions: 64,
        rms_norm_eps: 1e-6,
        rope_theta: 1e4,
        rope_scaling: RopeScaling::None,
        tie_word_embeddings: true,
        qkv_bias: false,
        output_bias: false,
        mlp_bias: false,
        qk_norm: true,
        sliding_windows: Vec::new(),
        attention_sinks: false,
        experts: None,
        online: Default::default(),
        bos_token_id: None,
        eos_token_ids: vec![],
    }
}

fn parameters() -> TrainableParams {
    TrainableParams::random(&config(), 0.1, 5, &Device::Cpu).unwrap()
}

/// Sequences that count upwards, of different lengths, with the first tokens masked in some.
fn examples() -> Vec<Example> {
    (0..11u32)
        .map(|i| {
            let len = 6 + i as usize % 5;
            let ids = (0..len as u32).map(|j| (i * 3 + j) % 30).collect();
            Example { ids, mask: (0..len).map(|j| j >= i as usize % 3).collect() }
        })
        .collect()
}

fn settings() -> TrainConfig {
    TrainConfig {
        learning_rate: 0.01,
        warmup_ratio: 0.1,
        epochs: 5.0,
        batch_size: 2,
        gradient_accumulation: 2,
        optimizer: AdamWConfig { weight_decay: 0.1, ..AdamWConfig::default() },
        checkpoint_every: 4,
        seed: 3,
        ..TrainConfig::default()
    }
}

fn run(
    parameters: &TrainableParams,
    settings: &TrainConfig,
    folder: Option<&Path>,
    observer: &mut dyn FnMut(&StepReport) -> Result<(), TrainError>,
) -> Result<Summary, TrainError> {
    let mut objective = Supervised::next_token(&config(), parameters, examples(), LossOptions::default()).unwrap();
    let mut observer = |report: &StepReport| observer(report);
    train(parameters, &mut objective, settings, folder, &mut observer)
}

fn bits(parameters: &TrainableParams) -> Vec<(String, Vec<u32>)> {
    let bits = |name: &str| parameters.values(name).unwrap().iter().map(|x| x.to_bits()).collect();
    parameters.iter().map(|(name, _)| (name.to_owned(), bits(name))).collect()
}

#[test]
fn a_model_learns_to_count() {
    let parameters = parameters();
    let mut seen = Vec::new();
    let summary = run(&parameters, &TrainConfig { epochs: 40.0, ..settings() }, None, &mut |report| {
        seen.push(*report);
        Ok(())
    })
    .unwrap();
    assert_eq!(summary.losses.len(), 3 * 40);
    assert_eq!(seen.iter().map(|report| report.loss).collect::<Vec<_>>(), summary.losses);
    assert!(seen.iter().all(|report| report.total_steps == 120 && report.gradient_norm > 0.0));
    // Guessing among 30 tokens costs 3.4 nats.
    assert!(summary.losses[0] > 3.0 && summary.losses[119] < 0.5, "{} {}", summary.losses[0], summary.losses[119]);
}

#[test]
fn an_interrupted_run_ends_with_the_same_bits() {
    let whole = parameters();
    let expected = run(&whole, &settings(), None, &mut |_| Ok(())).unwrap();
    assert_eq!(expected.losses.len(), 15);
    // Stopped on request after 6 steps (a checkpoint is written there), killed after 10 (the one of step 8 counts).
    let folder = tempfile::tempdir().unwrap();
    let fresh = || TrainableParams::random(&config(), 0.1, 77, &Device::Cpu).unwrap();
    let stop = |at: u64, how: fn() -> TrainError| {
        move |report: &StepReport| if report.step == at { Err(how()) } else { Ok(()) }
    };
    let first = run(&parameters(), &settings(), Some(folder.path()), &mut stop(6, || TrainError::Stopped));
    assert!(matches!(first, Err(TrainError::Stopped)));
    let second = run(&fresh(), &settings(), Some(folder.path()), &mut stop(10, || TrainError::Data("killed".into())));
    assert!(matches!(second, Err(TrainError::Data(_))));
    let resumed = fresh();
    let summary = run(&resumed, &settings(), Some(folder.path()), &mut |_| Ok(())).unwrap();
    assert_eq!((summary.resumed_at, &summary.losses), (8, &expected.losses));
    assert_eq!(bits(&resumed), bits(&whole));
    // One checkpoint is kept.
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_of_another_training_or_a_broken_one_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    run(&parameters(), &settings(), Some(folder.path()), &mut |_| Ok(())).unwrap();
    let other = TrainConfig { learning_rate: 0.02, ..settings() };
    let error = run(&parameters(), &other, Some(folder.path()), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("other settings") && error.hint().is_some(), "{error}");
    let file = folder.path().join("step-12/state.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    let mut changed = bytes.clone();
    *changed.last_mut().unwrap() ^= 1;
    std::fs::write(&file, changed).unwrap();
    let error = run(&parameters(), &settings(), Some(folder.path()), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("does not hold what was written"), "{error}");
    std::fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    let error = run(&parameters(), &settings(), Some(folder.path()), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("state.safetensors"), "{error}");
}

#[test]
fn accumulation_and_checkpointing_of_gradients_change_the_loss_by_rounding_only() {
    let losses = |batch_size: usize, gradient_accumulation: usize, gradient_checkpointing: bool| {
        let parameters = parameters();
        let options = LossOptions { gradient_checkpointing, chunk: 5 };
        let mut objective = Supervised::next_token(&config(), &parameters, examples(), options).unwrap();
        let settings = TrainConfig { batch_size, gradient_accumulation, ..settings() };
        train(&parameters, &mut objective, &settings, None, &mut ()).unwrap().losses
    };
    let whole = losses(4, 1, false);
    for other in [losses(1, 4, false), losses(2, 2, true)] {
        assert!(whole.iter().zip(&other).all(|(a, b)| (a - b).abs() < 1e-3), "{whole:?} {other:?}");
    }
    assert_eq!(losses(4, 1, true), whole);
}

/// A sum of squares around 1, whose gradient is known.
struct Squares<'a>(&'a TrainableParams);

impl Objective for Squares<'_> {
    fn examples(&self) -> usize {
        1
    }

    fn accumulate(&mut self, _: &[usize], _: &[usize], gradients: &mut Gradients) -> Result<f64, TrainError> {
        let loss = |var: &Var| -> candle_core::Result<Tensor> { (var.as_tensor() - 1.0)?.sqr()?.sum_all() };
        let mut total = 0.0;
        for (_, var) in self.0.iter() {
            let loss = loss(var).unwrap();
            total += f64::from(loss.to_scalar::<f32>().unwrap());
            gradients.add(self.0, &mut loss.backward().unwrap())?;
        }
        Ok(total)
    }
}

#[test]
fn adamw_takes_the_steps_of_candles_and_of_the_paper() {
    let (ours, theirs) = (parameters(), parameters());
    let optimizer = AdamWConfig { betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.0 };
    let mut adamw = AdamW::new(optimizer);
    let params = ParamsAdamW { lr: 0.03, beta1: 0.8, beta2: 0.95, eps: 1e-6, weight_decay: 0.0 };
    let mut oracle = Oracle::new(theirs.iter().map(|(_, var)| var.clone()).collect(), params).unwrap();
    // One element once more in f64, with decay, by the paper's lines 6 to 12.
    let name = "model.layers.0.mlp.up_proj.weight";
    let decayed = parameters();
    let mut decaying = AdamW::new(AdamWConfig { weight_decay: 0.2, ..optimizer });
    let (mut weight, mut first, mut second) = (f64::from(decayed.values(name).unwrap()[3]), 0.0, 0.0);
    for step in 1..=20 {
        for (parameters, optimizer) in [(&ours, &mut adamw), (&decayed, &mut decaying)] {
            let mut gradients = Gradients::default();
            Squares(parameters).accumulate(&[0], &[0], &mut gradients).unwrap();
            optimizer.step(parameters, &gradients, 0.03, 1.0).unwrap();
        }
        let total = theirs.iter().map(|(_, var)| (var.as_tensor() - 1.0).unwrap().sqr().unwrap().sum_all().unwrap());
        let total = total.reduce(|a, b| (a + b).unwrap()).unwrap();
        oracle.step(&total.backward().unwrap()).unwrap();

        let gradient = 2.0 * (weight - 1.0);
        first = 0.8 * first + 0.2 * gradient;
        second = 0.95 * second + 0.05 * gradient * gradient;
        let (first, second): (f64, f64) = (first / (1.0 - 0.8f64.powi(step)), second / (1.0 - 0.95f64.powi(step)));
        weight -= 0.03 * (first / (second.sqrt() + 1e-6) + 0.2 * weight);
    }
    for (name, _) in ours.iter() {
        for (a, b) in ours.values(name).unwrap().iter().zip(theirs.values(name).unwrap()) {
            assert!((a - b).abs() < 2e-5, "{name}: {a} {b}");
        }
    }
    assert!((f64::from(decayed.values(name).unwrap()[3]) - weight).abs() < 1e-5);
    // Norms do not decay.
    let norm = "model.norm.weight";
    assert_eq!(decayed.values(norm).unwrap(), ours.values(norm).unwrap());
}

#[test]
fn groups_have_rates_and_decays_of_their_own() {
    let optimizer = AdamWConfig { betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.2 };
    let group = |pattern: &str, rate, weight_decay| ParameterGroup { pattern: pattern.to_owned(), rate, weight_decay };
    // The first group that names a parameter counts.
    let groups = vec![
        group("*.mlp.up_proj.weight", 0.5, Some(0.0)),
        group("*.mlp.*", 2.0, None),
        group("*norm.weight", 1.0, Some(0.3)),
    ];
    let run = |mut adamw: AdamW, rate: f64| {
        let parameters = parameters();
        for _ in 0..5 {
            let mut gradients = Gradients::default();
            Squares(&parameters).accumulate(&[0], &[0], &mut gradients).unwrap();
            adamw.step(&parameters, &gradients, rate, 1.0).unwrap();
        }
        parameters
    };
    let plain = |rate: f64, weight_decay: f64| run(AdamW::new(AdamWConfig { weight_decay, ..optimizer }), rate);
    let found = run(AdamW::with_groups(optimizer, groups), 0.03);
    let (usual, half, twice) = (plain(0.03, 0.2), plain(0.015, 0.0), plain(0.06, 0.2));
    for (name, var) in found.iter() {
        let expected = match name {
            _ if name.ends_with("mlp.up_proj.weight") => &half,
            _ if name.contains(".mlp.") => &twice,
            _ if var.rank() < 2 => continue,
            _ => &usual,
        };
        assert_eq!(found.values(name).unwrap(), expected.values(name).unwrap(), "{name}");
    }
    // Norms do not decay unless a group says so: the gradient by one that is 1 is zero, so that decay alone moves it.
    let norm = "model.layers.1.input_layernorm.weight";
    assert!(usual.values(norm).unwrap().iter().all(|x| *x == 1.0));
    let mut adamw = AdamW::with_groups(optimizer, vec![group("*norm.weight", 1.0, Some(0.3))]);
    let parameters = parameters();
    let mut gradients = Gradients::default();
    Squares(&parameters).accumulate(&[0], &[0], &mut gradients).unwrap();
    adamw.step(&parameters, &gradients, 0.03, 1.0).unwrap();
    assert!(parameters.values(norm).unwrap().iter().all(|x| (x - (1.0 - 0.03 * 0.3)).abs() < 1e-6));

    for (wrong, part) in [
        (group("*.scale", 1.0, None), "`*.scale` names no parameter"),
        (group("*", -1.0, None), "learning rate is -1"),
        (group("*", 1.0, Some(f64::NAN)), "decay is NaN"),
    ] {
        let settings = TrainConfig { groups: vec![wrong], ..settings() };
        let error = run_with(&parameters, &settings).unwrap_err().to_string();
        assert!(error.contains("`groups`") && error.contains(part), "{error}");
    }
}

fn run_with(parameters: &TrainableParams, settings: &TrainConfig) -> Result<Summary, TrainError> {
    run(parameters, settings, None, &mut |_| Ok(()))
}

/// The norms are frozen, and the embedding learns at a tenth of the rate.
fn partly_frozen(seed: u64) -> (TrainableParams, TrainConfig) {
    let mut parameters = TrainableParams::random(&config(), 0.1, seed, &Device::Cpu).unwrap();
    let norms: Vec<String> =
        parameters.iter().map(|(name, _)| name.to_owned()).filter(|name| name.contains("norm")).collect();
    parameters.freeze(norms.iter().map(String::as_str)).unwrap();
    let group = ParameterGroup { pattern: "*embed_tokens*".into(), rate: 0.1, weight_decay: None };
    (parameters, TrainConfig { groups: vec![group], ..settings() })
}

#[test]
fn what_is_frozen_stays_and_is_in_no_checkpoint() {
    let (whole, settings) = partly_frozen(5);
    let expected = run_with(&whole, &settings).unwrap();
    assert!(expected.losses[14] < expected.losses[0]);
    for (name, var) in whole.iter() {
        let before = parameters().values(name).unwrap();
        assert_eq!(whole.values(name).unwrap() == before, var.rank() == 1, "{name}");
    }
    // An interrupted run continues to the same bits, from a checkpoint of what is trained.
    let folder = tempfile::tempdir().unwrap();
    let mut stop = |report: &StepReport| if report.step == 6 { Err(TrainError::Stopped) } else { Ok(()) };
    run(&partly_frozen(5).0, &settings, Some(folder.path()), &mut stop).unwrap_err();
    let bytes = std::fs::read(folder.path().join("step-6/state.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut kept: Vec<&str> = tensors.names().into_iter().filter_map(|name| name.strip_prefix("weight.")).collect();
    kept.sort_unstable();
    assert_eq!(kept, whole.trainable().map(|(name, _)| name).collect::<Vec<_>>());
    // Random weights of another seed, but for the norms, which are ones.
    let (resumed, _) = partly_frozen(77);
    let summary = run(&resumed, &settings, Some(folder.path()), &mut |_| Ok(())).unwrap();
    assert_eq!((summary.resumed_at, summary.losses), (6, expected.losses));
    assert_eq!(bits(&resumed), bits(&whole));
    // With other parameters frozen, or other groups, it is another training.
    for (parameters, settings) in
        [(parameters(), settings.clone()), (partly_frozen(5).0, TrainConfig { groups: Vec::new(), ..settings.clone() })]
    {
        let error = run(&parameters, &settings, Some(folder.path()), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("other settings"), "{error}");
    }
    let (mut all, settings) = (parameters(), TrainConfig { groups: Vec::new(), ..settings });
    let names: Vec<String> = all.iter().map(|(name, _)| name.to_owned()).collect();
    all.freeze(names.iter().map(String::as_str)).unwrap();
    assert!(run_with(&all, &settings).unwrap_err().to_string().contains("every parameter is frozen"));
}

#[test]
fn a_variable_that_the_loss_does_not_see_is_an_error_unless_it_is_frozen() {
    let mut parameters = parameters();
    parameters.insert("scales.first", &Tensor::new(&[1f32], &Device::Cpu).unwrap()).unwrap();
    let error = run_with(&parameters, &settings()).unwrap_err();
    assert!(matches!(&error, TrainError::NoGradient(name) if name == "scales.first"), "{error}");
    parameters.freeze(["scales.first"]).unwrap();
    run_with(&parameters, &settings()).unwrap();
}

#[test]
fn gradients_are_clipped_to_the_norm() {
    let parameters = parameters();
    let mut gradients = Gradients::default();
    Squares(&parameters).accumulate(&[0], &[0], &mut gradients).unwrap();
    let mut squares = 0.0;
    for (name, _) in parameters.iter() {
        squares += parameters.values(name).unwrap().iter().map(|x| (2.0 * (f64::from(*x) - 1.0)).powi(2)).sum::<f64>();
    }
    let norm = global_norm(&gradients).unwrap();
    assert!((norm / squares.sqrt() - 1.0).abs() < 1e-6);
    assert_eq!(workbench_train::clip_factor(norm, 0.0), 1.0);
    assert_eq!(workbench_train::clip_factor(norm, norm * 2.0), 1.0);
    assert!((workbench_train::clip_factor(norm, 1.5) * norm - 1.5).abs() < 1e-12);
}

#[test]
fn a_cut_graph_bad_settings_and_divergence_are_errors() {
    struct Nothing;
    impl Objective for Nothing {
        fn examples(&self) -> usize {
            1
        }
        fn accumulate(&mut self, _: &[usize], _: &[usize], _: &mut Gradients) -> Result<f64, TrainError> {
            Ok(1.0)
        }
    }
    let parameters = parameters();
    let error = train(&parameters, &mut Nothing, &settings(), None, &mut ()).unwrap_err();
    assert!(matches!(error, TrainError::NoGradient(_)), "{error}");
    for (wrong, name) in [
        (TrainConfig { batch_size: 0, ..settings() }, "batch_size"),
        (TrainConfig { learning_rate: f64::NAN, ..settings() }, "learning_rate"),
        (TrainConfig { epochs: 0.0, ..settings() }, "epochs"),
        (TrainConfig { warmup_ratio: 1.5, ..settings() }, "warmup_ratio"),
    ] {
        let error = run(&parameters, &wrong, None, &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
    }
    let wild = TrainConfig { learning_rate: 1e30, max_grad_norm: 0.0, ..settings() };
    let error = run(&parameters, &wild, None, &mut |_| Ok(())).unwrap_err();
    assert!(matches!(error, TrainError::Diverged { .. }) && error.hint().is_some(), "{error}");
}

#[test]
fn data_without_anything_to_learn_is_an_error() {
    let parameters = parameters();
    let make =
        |examples| Supervised::next_token(&config(), &parameters, examples, LossOptions::default()).err().unwrap();
    let masked = Example { ids: vec![1, 2, 3], mask: vec![true, false, false] };
    assert!(make(vec![masked]).to_string().contains("masked"));
    let outside = Example { ids: vec![1, 30], mask: vec![true, true] };
    assert!(make(vec![outside]).to_string().contains("token 30"));
    let uneven = Example { ids: vec![1, 2], mask: vec![true] };
    assert!(make(vec![uneven]).to_string().contains("mask of 1"));
}

/// A validation split of its own: sequences that count downwards.
fn downwards() -> Vec<Example> {
    let row = |i: u32| Example { ids: (0..8).map(|j| (20 + i - j) % 30).collect(), mask: vec![true; 8] };
    (0..3).map(row).collect()
}

fn validated(
    parameters: &TrainableParams,
    settings: &TrainConfig,
    folder: Option<&Path>,
    observer: &mut dyn FnMut(&StepReport) -> Result<(), TrainError>,
) -> Result<Summary, TrainError> {
    let objective = Supervised::next_token(&config(), parameters, examples(), LossOptions::default()).unwrap();
    let mut objective = objective.validated_on(downwards()).unwrap();
    let mut observer = |report: &StepReport| observer(report);
    train(parameters, &mut objective, settings, folder, &mut observer)
}

#[test]
fn the_best_weights_are_kept_and_training_ends_without_progress() {
    let settings = TrainConfig { epochs: 40.0, validate_every: 5, keep_best: true, ..settings() };
    let whole = parameters();
    let mut seen = Vec::new();
    let mut see = |report: &StepReport| {
        seen.extend(report.validation.map(|loss| (report.step, loss)));
        Ok(())
    };
    let expected = validated(&whole, &settings, None, &mut see).unwrap();
    assert_eq!((&expected.validation, expected.validation.len()), (&seen, 1 + 120 / 5));
    assert_eq!((expected.validation[0].0, expected.validation[24].0), (0, 120));
    let (step, loss) = expected.kept.unwrap();
    let least = expected.validation.iter().map(|(_, loss)| *loss).fold(f64::INFINITY, f64::min);
    // Counting upwards teaches nothing about counting downwards for long.
    assert!(loss == least && step < 120 && expected.validation[24].1 > loss, "{:?}", expected.validation);
    let objective = Supervised::next_token(&config(), &whole, downwards(), LossOptions::default()).unwrap();
    assert_eq!(objective.loss_on(&downwards()).unwrap(), loss);
    // Those of that step, as a run of so many steps at the same rates leaves them.
    let constant = TrainConfig { schedule: ScheduleKind::Constant, warmup_ratio: 0.0, ..settings.clone() };
    let long = parameters();
    let (step, _) = validated(&long, &constant, None, &mut |_| Ok(())).unwrap().kept.unwrap();
    let short = parameters();
    run(&short, &TrainConfig { max_steps: Some(step), keep_best: false, ..constant }, None, &mut |_| Ok(())).unwrap();
    assert_eq!(bits(&long), bits(&short));

    // With patience it ends, and an interrupted run ends at the same place with the same bits.
    let settings = TrainConfig { patience: 3, ..settings };
    let patient = parameters();
    let ended = validated(&patient, &settings, None, &mut |_| Ok(())).unwrap();
    assert!(ended.losses.len() < 120 && ended.validation.len() < 25);
    assert_eq!(ended.kept.unwrap().0, ended.validation[ended.validation.len() - 4].0);
    for stop_at in [3, 5, 6, ended.losses.len() as u64 - 1] {
        let folder = tempfile::tempdir().unwrap();
        let mut stop = |report: &StepReport| if report.step == stop_at { Err(TrainError::Stopped) } else { Ok(()) };
        validated(&parameters(), &settings, Some(folder.path()), &mut stop).unwrap_err();
        let resumed = parameters();
        let summary = validated(&resumed, &settings, Some(folder.path()), &mut |_| Ok(())).unwrap();
        assert_eq!(Summary { resumed_at: 0, ..summary }, ended, "{stop_at}");
        assert_eq!(bits(&resumed), bits(&patient), "{stop_at}");
    }
}

#[test]
fn validation_data_are_held_to_what_training_data_are() {
    let parameters = parameters();
    let objective = || Supervised::next_token(&config(), &parameters, examples(), LossOptions::default()).unwrap();
    let refused = |examples| objective().validated_on(examples).err().unwrap().to_string();
    assert!(refused(vec![Example { ids: vec![1, 2], mask: vec![true, false] }]).contains("validation data"));
    assert!(
        refused(vec![Example { ids: vec![1, 99], mask: vec![true; 2] }]).contains("validation example 0: token 99")
    );
}
