use candle_core::{Device, Tensor};
use workbench_model::config::Gating;
use workbench_model::decoder::{Gradients, LossOptions, Targets, TrainableParams, loss_and_gradients};
use workbench_model::{Context, Decoder, ModelConfig, WeightSource};

use crate::brute_force;
use crate::support::{Weights, flat, random_ids, variations};

pub(crate) struct Batch {
    rows: Vec<Vec<u32>>,
    mask: Vec<Vec<bool>>,
}

impl Batch {
    pub(crate) fn new(config: &ModelConfig) -> Self {
        let rows: Vec<Vec<u32>> = (0..3).map(|seed| random_ids(config, 17, 50 + seed)).collect();
        let mask = (0..3).map(|row| (0..17).map(|i| (i * 7 + row) % 4 != 0).collect()).collect();
        Self { rows, mask }
    }

    pub(crate) fn run(
        &self,
        decoder: &Decoder,
        parameters: &TrainableParams,
        options: LossOptions,
    ) -> (f64, Gradients) {
        let ids = Tensor::from_vec(self.rows.concat(), (3, 17), &Device::Cpu).unwrap();
        let targets = Targets::next_token(&self.rows, &self.mask);
        let mut gradients = Gradients::default();
        let context = Context::full(3, 17, None);
        let loss = loss_and_gradients(decoder, parameters, &ids, &context, &targets, options, &mut gradients).unwrap();
        (loss, gradients)
    }

    /// The same loss by the scalar decoder, in f64.
    pub(crate) fn exact_loss(&self, config: &ModelConfig, weights: &Weights) -> f64 {
        let (mut total, mut count) = (0.0, 0);
        for (row, mask) in self.rows.iter().zip(&self.mask) {
            let logits = brute_force::logits(config, weights, row);
            for i in 0..row.len() - 1 {
                if mask[i + 1] {
                    total += logits[i].iter().map(|x| x.exp()).sum::<f64>().ln() - logits[i][row[i + 1] as usize];
                    count += 1;
                }
            }
        }
        total / f64::from(count)
    }
}

fn build(config: &ModelConfig, weights: &Weights) -> (Decoder, TrainableParams) {
    let parameters = TrainableParams::load(config, weights, &Device::Cpu).unwrap();
    (Decoder::over(config, &parameters).unwrap(), parameters)
}

#[test]
fn every_parameter_has_a_gradient_that_matches_finite_differences() {
    for (seed, config) in variations().into_iter().enumerate() {
        let mut weights = Weights::random(&config, 20 + seed as u64);
        let (decoder, parameters) = build(&config, &weights);
        let batch = Batch::new(&config);
        let (loss, gradients) = batch.run(&decoder, &parameters, LossOptions::default());
        assert!((loss / batch.exact_loss(&config, &weights) - 1.0).abs() < 1e-6);
        let names: Vec<String> = weights.0.keys().cloned().collect();
        assert_eq!(names, parameters.iter().map(|(name, _)| name.to_owned()).collect::<Vec<_>>());
        // Across the edge of a clamp there is no slope: the step has to be too short to meet one.
        let clamped = config.experts.as_ref().is_some_and(|experts| experts.gating != Gating::Silu);
        let step = if clamped { 1e-5 } else { 1e-3 };
        for name in names {
            let gradient = flat(gradients.get(&name).unwrap_or_else(|| panic!("no gradient for {name}")));
            // The element with the largest gradient, and one more. The scalar decoder is in f64, so a small step is exact.
            let most = (0..gradient.len()).max_by(|a, b| gradient[*a].abs().total_cmp(&gradient[*b].abs())).unwrap();
            for index in [most, gradient.len() / 3] {
                let original = weights.0[&name].1[index];
                let mut at = |value: f32| {
                    weights.0.get_mut(&name).unwrap().1[index] = value;
                    batch.exact_loss(&config, &weights)
                };
                let (up, down) = (original + step, original - step);
                let slope = (at(up) - at(down)) / f64::from(up - down);
                at(original);
                let scale = f64::from(gradient[most].abs());
                let error = (f64::from(gradient[index]) - slope).abs() / scale;
                assert!(error < 2e-4, "variation {seed}, {name}[{index}]: {} but {slope}", gradient[index]);
            }
        }
    }
}

#[test]
fn gradient_checkpointing_changes_no_bit() {
    for config in variations() {
        let (decoder, parameters) = build(&config, &Weights::random(&config, 30));
        let batch = Batch::new(&config);
        let plain = batch.run(&decoder, &parameters, LossOptions { gradient_checkpointing: false, chunk: 7 });
        let checkpointed = batch.run(&decoder, &parameters, LossOptions { gradient_checkpointing: true, chunk: 7 });
        assert_eq!(plain.0, checkpointed.0);
        assert_eq!(plain.1.iter().count(), parameters.iter().count());
        for ((name, a), (other, b)) in plain.1.iter().zip(checkpointed.1.iter()) {
            assert_eq!((name, flat(a)), (other, flat(b)));
        }
    }
}

#[test]
fn parts_of_a_batch_add_up() {
    let config = variations().pop().unwrap();
    let (decoder, parameters) = build(&config, &Weights::random(&config, 31));
    let batch = Batch::new(&config);
    let (loss, whole) = batch.run(&decoder, &parameters, LossOptions::default());
    let (mut sum, mut parts) = (0.0, Gradients::default());
    for (row, mask) in batch.rows.iter().zip(&batch.mask) {
        let (row, mask) = (vec![row.clone()], vec![mask.clone()]);
        let targets = Targets::next_token_of(&row, &mask, Targets::count(&batch.mask));
        let ids = Tensor::from_slice(&row[0], (1, 17), &Device::Cpu).unwrap();
        let (context, options) = (Context::full(1, 17, None), LossOptions::default());
        sum += loss_and_gradients(&decoder, &parameters, &ids, &context, &targets, options, &mut parts).unwrap();
    }
    assert!((sum / loss - 1.0).abs() < 1e-6);
    for (name, gradient) in whole.iter() {
        let error = crate::support::distance(&flat(parts.get(name).unwrap()), &flat(gradient));
        assert!(error < 1e-5, "{name}: {error:e}");
    }
}

#[test]
fn variables_are_seen_by_the_decoder_when_they_change() {
    let config = variations().pop().unwrap();
    let weights = Weights::random(&config, 32);
    let (decoder, parameters) = build(&config, &weights);
    let other = Weights::random(&config, 33);
    for (name, (_, values)) in &other.0 {
        parameters.set(name, values.clone()).unwrap();
    }
    assert_eq!(parameters.values("lm_head.weight").unwrap(), other.0["lm_head.weight"].1);
    let batch = Batch::new(&config);
    let (loss, _) = batch.run(&decoder, &parameters, LossOptions::default());
    assert!((loss / batch.exact_loss(&config, &other) - 1.0).abs() < 1e-6);
}

#[test]
fn random_weights_depend_on_the_seed_alone() {
    let config = variations().pop().unwrap();
    let make = |seed| TrainableParams::random(&config, 0.02, seed, &Device::Cpu).unwrap();
    let (a, b, c) = (make(1), make(1), make(2));
    let values = |p: &TrainableParams| p.values("model.layers.1.self_attn.q_proj.weight").unwrap();
    assert_eq!(values(&a), values(&b));
    assert_ne!(values(&a), values(&c));
    let all: Vec<f32> = a.values("model.embed_tokens.weight").unwrap();
    let mean = all.iter().map(|x| f64::from(*x)).sum::<f64>() / all.len() as f64;
    let deviation = (all.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / all.len() as f64).sqrt();
    assert!(mean.abs() < 3e-3 && (deviation - 0.02).abs() < 2e-3, "{mean} {deviation}");
    assert!(a.values("model.norm.weight").unwrap().iter().all(|x| *x == 1.0));
}

#[test]
fn frozen_variables_are_constants_and_change_no_other_gradient() {
    for (seed, config) in variations().into_iter().enumerate() {
        let weights = Weights::random(&config, 70 + seed as u64);
        let (decoder, parameters) = build(&config, &weights);
        let batch = Batch::new(&config);
        let (loss, whole) = batch.run(&decoder, &parameters, LossOptions { gradient_checkpointing: true, chunk: 7 });
        // All matrices; the first block and the embedding; all but the head; all but a bias or norm of the last block.
        let last = format!("model.layers.{}.", config.num_layers - 1);
        let norm = format!("{last}post_attention_layernorm.weight");
        let frozen: [&dyn Fn(&str) -> bool; 5] = [
            &|name| parameters.get(name).unwrap().rank() >= 2,
            &|name| name.starts_with("model.layers.0.") || name.contains("embed_tokens"),
            &|name| !name.starts_with("model.norm"),
            &|name| name != norm,
            &|name| name != "model.embed_tokens.weight",
        ];
        for frozen in frozen {
            let mut parameters = parameters.clone();
            let names: Vec<&str> = parameters.iter().map(|(name, _)| name).filter(|name| frozen(name)).collect();
            let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
            parameters.freeze(names.iter().map(String::as_str)).unwrap();
            let decoder = Decoder::over(&config, &parameters).unwrap();
            let numbers: usize = parameters.trainable().map(|(_, var)| var.elem_count()).sum();
            assert_eq!(parameters.count(), numbers);
            for gradient_checkpointing in [false, true] {
                let options = LossOptions { gradient_checkpointing, chunk: 7 };
                let (same, some) = batch.run(&decoder, &parameters, options);
                assert_eq!(same, loss);
                let found: Vec<&str> = some.iter().map(|(name, _)| name).collect();
                let expected: Vec<&str> = parameters.trainable().map(|(name, _)| name).collect();
                assert_eq!(found, expected, "{gradient_checkpointing}");
                for (name, gradient) in some.iter() {
                    let all = flat(whole.get(name).unwrap());
                    assert_eq!(flat(gradient), all, "{name}");
                }
            }
        }
    }
}

#[test]
fn variables_of_ones_own_are_trained_like_the_models() {
    let config = variations().pop().unwrap();
    let (_, mut parameters) = build(&config, &Weights::random(&config, 80));
    let before = parameters.count();
    let scale = Tensor::new(&[0.5f32, 2.0], &Device::Cpu).unwrap();
    parameters.insert("scales.first", &scale).unwrap();
    assert_eq!(parameters.count(), before + 2);
    assert_eq!(parameters.values("scales.first").unwrap(), [0.5, 2.0]);
    let var = parameters.get("scales.first").unwrap().clone();
    let loss = (var.as_tensor().sqr().unwrap() * 3.0).unwrap().sum_all().unwrap();
    let mut gradients = Gradients::default();
    gradients.add(&parameters, &mut loss.backward().unwrap()).unwrap();
    assert_eq!(flat(gradients.get("scales.first").unwrap()), [3.0, 12.0]);
    parameters.set("scales.first", vec![1.0, 3.0]).unwrap();
    assert_eq!(var.to_vec1::<f32>().unwrap(), [1.0, 3.0]);

    let error = parameters.insert("model.norm.weight", &scale).unwrap_err().to_string();
    assert!(error.contains("`model.norm.weight` already"), "{error}");
    let integers = Tensor::new(&[1u32], &Device::Cpu).unwrap();
    assert!(parameters.insert("other", &integers).unwrap_err().to_string().contains("f32"));
    let error = parameters.freeze(["scales.first", "scales.second"]).unwrap_err().to_string();
    assert!(error.contains("scales.second") && !parameters.is_frozen("scales.first"), "{error}");
    // What was built before is frozen too: its gradients are passed over.
    parameters.freeze(["scales.first"]).unwrap();
    let mut none = Gradients::default();
    none.add(&parameters, &mut loss.backward().unwrap()).unwrap();
    assert_eq!(none.iter().count(), 0);
}
